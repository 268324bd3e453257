// packed_file.cpp: files of packed weights: what is written, mapped and multiplied from, and every way in which one is
// refused. That every format and width comes back is tested in pack/every_pack_*.cpp.
#include "io/io_support.hpp"
#include "io/packed_support.hpp"
#include "support/catch.hpp"
#include "support/contracts.hpp"

#include <nibble/any.hpp>
#include <nibble/gemm.hpp>
#include <nibble/io/packed_file.hpp>
#include <nibble/io/packed_file_writer.hpp>
#include <nibble/pack.hpp>
#include <nibble/quantize.hpp>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <stdlib.h>
#include <unistd.h>

namespace nb = nibble;
using nibble_test::bytes;

namespace {

constexpr std::size_t rows = 19, cols = 70;
using scheme = nb::int4_g32;

std::vector<float> numbers(std::size_t count, std::uint32_t state = 1) {
    std::vector<float> x(count);
    for (float& v : x) {
        state = state * 1664525u + 1013904223u;
        v = static_cast<float>(static_cast<std::int32_t>(state) >> 8) * 0x1p-23f;
    }
    return x;
}
template <class S> nb::packed<S> weights(std::size_t m = rows, std::size_t k = cols) {
    const std::vector<float> w = numbers(m * k);
    return nb::pack(nb::quantize<S>(nb::matrix_view<const float>(w.data(), m, k)));
}
bytes file_of(const nb::packed<scheme>& w) {
    nb::packed_file_writer writer;
    REQUIRE(writer.add("w", w).ok());
    return writer.bytes();
}

// Where a mapping would have it: on a page, or as far from a boundary as asked for.
struct placed_file {
    explicit placed_file(const bytes& content, std::size_t off = 0)
        : memory(content.size() + 64), from(off), size(content.size()) {
        if (!content.empty()) std::memcpy(memory.data() + off, content.data(), content.size());
    }
    [[nodiscard]] std::span<const std::byte> view() const { return {memory.data() + from, size}; }
    nb::buffer memory;
    std::size_t from;
    std::size_t size;
};

template <class T> void set(bytes& file, std::size_t at, T value) {
    nb::detail::store_little(file.data() + at, value);
}
nb::status parsed(const bytes& file) {
    const placed_file placed(file);
    nb::packed_file out;
    return nb::packed_file::parse(placed.view(), out);
}
template <class S> nb::status viewed(const bytes& file) {
    const placed_file placed(file);
    nb::packed_file out;
    nb::status s = nb::packed_file::parse(placed.view(), out);
    nb::packed_view<S> w;
    if (s.ok()) s = nb::view_packed(out.entries()[0], w);
    CHECK(w.bytes() == (s.ok() ? weights<S>().bytes() : 0));
    return s;
}
void refused(const nb::status& s, nb::status_code code, const std::string& message) {
    CHECK(s.code() == code);
    CHECK(s.message() == message);
}

// A path of its own that goes away with it.
struct temporary {
    std::string path = (std::filesystem::temp_directory_path() / "nibble-packed-XXXXXX").string();
    temporary() {
        const int file = ::mkstemp(path.data());
        REQUIRE(file >= 0);
        ::close(file);
    }
    ~temporary() { std::remove(path.c_str()); }
};

template <class W> std::vector<float> product(const W& w) {
    const std::vector<float> x = numbers(3 * w.cols(), 7);
    std::vector<float> y(3 * w.rows());
    nb::gemm(nb::matrix_view<const float>(x.data(), 3, w.cols()), w, nb::matrix_view<float>(y.data(), 3, w.rows()));
    return y;
}

} // namespace

TEST_CASE("packed file: the bytes are those of packed_file_format.hpp", "[io]") {
    const nb::packed<scheme> w = weights<scheme>();
    const bytes file = file_of(w);
    const auto number = [&](std::size_t at) { return nb::detail::load_little<std::uint64_t>(file.data() + at); };
    const auto word = [&](std::size_t at) { return nb::detail::load_little<std::uint32_t>(file.data() + at); };
    REQUIRE(file.size() == 64 + 128 + w.bytes());
    CHECK(std::memcmp(file.data(), "NIBBLEPK\x04\x03\x02\x01\x01\0\0\0", 16) == 0);
    CHECK(number(16) == file.size());
    CHECK(number(24) == 1);
    CHECK(number(32) == 128);
    CHECK(number(64) == nb::scheme_digest<scheme>);
    CHECK(word(72) == nb::packed_layout_version);
    CHECK(word(76) == 16);
    CHECK(number(80) == rows);
    CHECK(number(88) == cols);
    CHECK(number(96) == 192);
    CHECK(number(104) == w.bytes());
    CHECK(word(124) == 1);
    const unsigned char looks[] = {4, 16, 0, 0, 0, 0, 0, 0, 32, 0};
    CHECK(std::memcmp(file.data() + 128, looks, sizeof looks) == 0);
    CHECK(file[160] == std::byte{'w'});
    CHECK(std::memcmp(file.data() + 192, w.data(), w.bytes()) == 0);
    // By the formula, in other words: four sums of every fourth word.
    std::uint64_t sums[5] = {1, 2, 3, 4, 0};
    const auto add = [](std::uint64_t sum, std::uint64_t v) { return std::rotl((sum ^ v) * 0x9e3779b97f4a7c15u, 31); };
    for (std::size_t i = 0; i < w.bytes() / 8; ++i) sums[i % 4] = add(sums[i % 4], number(192 + 8 * i));
    sums[4] = add(sums[4], w.bytes());
    for (std::size_t i = 0; i < 4; ++i) sums[4] = add(sums[4], sums[i]);
    CHECK(number(112) == sums[4]);
}

TEST_CASE("packed file: digests of schemes do not change, and differ where stored bits do", "[io]") {
    // Recorded: files that are there must open in programs to come.
    CHECK(nb::scheme_digest<nb::int4_g32> == 0x352a9c227dadf8a6u);
    CHECK(nb::scheme_digest<nb::f16_plain> == 0x827917a6f3aa5fcdu);
    CHECK(nb::scheme_digest<nb::q4_k> == 0x2cbbbd6b148ae7aeu);
    // One for every named format, but for those that differ only in how quantize chooses scales and codes.
    std::vector<std::pair<std::uint64_t, std::string>> all;
    std::vector<std::string> equal;
    nb::for_each_format([&]<class Format>() {
        constexpr std::uint64_t digest = nb::scheme_digest<typename Format::scheme>;
        for (const auto& [other, name] : all)
            if (other == digest) equal.push_back(name + " " + std::string(Format::name));
        all.emplace_back(digest, Format::name);
    });
    CHECK(equal == std::vector<std::string>{"mxfp4 mxfp4_rounded", "int4_g32 q4_0"});
}

TEST_CASE("packed file: a mapped matrix multiplies where it lies, and one that was loaded without the file", "[io]") {
    const nb::packed<scheme> w = weights<scheme>();
    const temporary file;
    REQUIRE(nb::save_packed(file.path.c_str(), w).ok());
    nb::packed_file mapping;
    nb::packed_view<scheme> view;
    REQUIRE(nb::map_packed(file.path.c_str(), mapping, view).ok());
    CHECK(view.data() == mapping.entries()[0].panels);
    CHECK(reinterpret_cast<std::uintptr_t>(view.data()) % 64 == 0);
    CHECK(product(view) == product(w));
    CHECK(nb::verify_packed(mapping.entries()[0]).ok());
    nb::packed<scheme> loaded;
    REQUIRE(nb::load_packed(file.path.c_str(), loaded).ok());
    // What is mapped moves with its file, which is empty then.
    nb::packed_file other = std::move(mapping);
    CHECK(mapping.entries().empty());
    CHECK(mapping.find("") == nullptr);
    CHECK(other.find("")->panels == view.data());
    CHECK(product(view) == product(w));
    other = nb::packed_file();
    CHECK(product(loaded) == product(w));

    // Nothing changes if the file does not open, or has no such matrix.
    const std::string name = file.path;
    refused(nb::load_packed(name.c_str(), loaded, "other"), nb::status_code::not_found,
            name + ": packed: there is no matrix 'other'");
    nb::packed<nb::int8_channel> bytes_wanted;
    refused(nb::load_packed(name.c_str(), bytes_wanted), nb::status_code::mismatch,
            name +
                ": packed: matrix '': is of another scheme than asked for: 4-bit codes, 16-bit scales per 32 columns, "
                "not 8-bit codes, 32-bit scales per row");
    CHECK(nb::map_packed("/nowhere", other, view).code() == nb::status_code::cannot_open);
    CHECK(product(loaded) == product(w));
    CHECK(bytes_wanted.bytes() == 0);
}

TEST_CASE("packed file: many matrices, of many schemes, widths and names", "[io]") {
    nb::packed_file_writer writer;
    const nb::packed<scheme> w = weights<scheme>(), none, tall(5, 0);
    const nb::packed<nb::nf4_span64_double> offset = weights<nb::nf4_span64_double>(5, 64);
    const nb::packed<nb::f16_plain> plain = weights<nb::f16_plain>(1, 3);
    REQUIRE(writer.add("layers.0.q", w).ok());
    REQUIRE(writer.add("", offset).ok());
    REQUIRE(writer.add("layers.1", plain).ok());
    REQUIRE(writer.add("wide", nb::packed_view<scheme>(nb::packed_shape<scheme>(0, 77), nullptr)).ok());
    REQUIRE(writer.add("none", none).ok());
    REQUIRE(writer.add("tall", tall).ok());
    refused(writer.add("wide", w), nb::status_code::malformed, "packed: matrix 'wide': was added before");
    const placed_file placed(writer.bytes());
    nb::packed_file file;
    REQUIRE(nb::packed_file::parse(placed.view(), file).ok());
    REQUIRE(file.entries().size() == 6);
    CHECK(file.entries()[0].name == "layers.0.q");
    CHECK(file.find("layers") == nullptr);
    nb::packed<nb::nf4_span64_double> again;
    REQUIRE(nb::read_packed(*file.find(""), again).ok());
    CHECK(again.offset() == offset.offset());
    CHECK(offset.offset() != 0.0f);
    CHECK(again.bytes() == offset.bytes());
    CHECK(std::memcmp(again.data(), offset.data(), offset.bytes()) == 0);
    nb::packed_view<scheme> empty;
    REQUIRE(nb::view_packed(*file.find("wide"), empty).ok());
    CHECK(empty.rows() == 0);
    CHECK(empty.cols() == 77);
    REQUIRE(nb::view_packed(*file.find("none"), empty).ok());
    CHECK(empty.cols() == 0);
    REQUIRE(nb::view_packed(*file.find("tall"), empty).ok());
    CHECK(empty.rows() == 5);

    // Formats that are known at run time only.
    using list = nb::format_list<nb::named_format<"f16", nb::f16_plain>, nb::named_format<"int4_g32", scheme>>;
    nb::any_packed_view<list> any;
    REQUIRE(nb::view_packed(*file.find("layers.0.q"), any).ok());
    CHECK(any.name() == "int4_g32");
    refused(
        nb::view_packed(*file.find(""), any), nb::status_code::mismatch,
        "packed: matrix '': none of the listed formats is its scheme: 4-bit codes, 8-bit scales per 64 columns under "
        "32-bit ones per 16384 columns");
    CHECK(any.name() == "int4_g32");
    REQUIRE(nb::view_packed(*file.find("layers.1"), any).ok());
    CHECK(any.name() == "f16");
    nb::any_packed_view<nb::format_list<nb::named_format<"int4_g32", scheme>>> one;
    REQUIRE(nb::view_packed(*file.find("layers.0.q"), one).ok());
    CHECK(product(one) == product(w));
    CHECK(nb::unpack(one).rows() == rows);

    // A file without any.
    nb::packed_file_writer moved = std::move(writer);
    REQUIRE(parsed(writer.bytes()).ok());
    CHECK(writer.bytes().size() == 64);
    CHECK(moved.bytes().size() == placed.size);
}

TEST_CASE("packed file: headers and directories that are refused", "[io]") {
    using code = nb::status_code;
    const bytes good = file_of(weights<scheme>());
    const auto changed = [&](std::size_t at, auto value) {
        bytes file = good;
        set(file, at, value);
        if (at >= 64) nibble_test::sign(file);
        return file;
    };
    const std::string size = std::to_string(good.size());
    for (std::size_t length = 0; length < 64; ++length)
        refused(parsed(bytes(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(length))), code::truncated,
                "packed: header at byte 0: the file has " + std::to_string(length) + " bytes, less than a header's 64");
    for (std::size_t length = 64; length < good.size(); length += 7)
        refused(parsed(bytes(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(length))), code::truncated,
                "packed: file size at byte 16: is " + size + ", but only " + std::to_string(length) +
                    " bytes are there");
    bytes longer = good;
    longer.resize(good.size() + 64);
    refused(parsed(longer), code::malformed,
            "packed: file size at byte 16: is " + size + ", but " + std::to_string(longer.size()) + " bytes are there");
    set(longer, 16, std::uint64_t{longer.size()});
    refused(parsed(longer), code::malformed, "packed: panels at byte " + size + ": 64 bytes follow the last ones");

    refused(parsed(changed(0, 'n')), code::malformed, "packed: magic at byte 0: this is no file of packed weights");
    refused(parsed(changed(8, 0x04030201u)), code::unsupported, "packed: byte order at byte 8: the file is big-endian");
    refused(parsed(changed(8, 0x01020305u)), code::malformed, "packed: byte order at byte 8: is none");
    refused(parsed(changed(12, 2u)), code::unsupported,
            "packed: version at byte 12: is 2, only 1 can be read; pack the weights again");
    for (const std::uint64_t bad : {~std::uint64_t{0}, std::uint64_t{127}, std::uint64_t{good.size()}})
        refused(parsed(changed(32, bad)), code::malformed,
                "packed: directory size at byte 32: is " + std::to_string(bad) +
                    ", no multiple of 64 inside of the file");
    for (const std::uint64_t bad : {~std::uint64_t{0}, std::uint64_t{2}})
        refused(parsed(changed(24, bad)), code::malformed,
                "packed: number of matrices at byte 24: is " + std::to_string(bad) +
                    ", more than the directory has room for");
    refused(parsed(changed(48, std::uint8_t{1})), code::malformed,
            "packed: header at byte 48: 16 zeros must stand here");
    bytes damaged = good;
    damaged[100] ^= std::byte{4};
    refused(parsed(damaged), code::malformed,
            "packed: checksum at byte 40: is not that of the directory, which is damaged");
    refused(parsed(changed(24, std::uint64_t{0})), code::malformed,
            "packed: directory at byte 64: only zeros may follow the names");

    refused(parsed(changed(124, 33u)), code::malformed,
            "packed: name length at byte 124: the name does not end inside of the directory");
    refused(parsed(changed(124, ~0u)), code::malformed,
            "packed: name length at byte 124: the name does not end inside of the directory");
    for (const std::uint64_t bad : {~std::uint64_t{0}, (std::uint64_t{1} << 40) + 1}) {
        refused(parsed(changed(80, bad)), code::malformed,
                "packed: rows at byte 80: 'w' has " + std::to_string(bad) +
                    ", more than 2^40 or than this program can count");
        refused(parsed(changed(88, bad)), code::malformed,
                "packed: columns at byte 88: 'w' has " + std::to_string(bad) +
                    ", more than 2^40 or than this program can count");
    }
    for (const std::uint64_t bad : {std::uint64_t{0}, std::uint64_t{193}, std::uint64_t{256}, ~std::uint64_t{63}})
        refused(parsed(changed(96, bad)), code::malformed,
                "packed: offset at byte 96: the panels of 'w' must start at byte 192");
    refused(parsed(changed(104, std::uint64_t{63})), code::malformed,
            "packed: size at byte 104: the panels of 'w' have no multiple of 64 bytes");
    for (const std::uint64_t bad : {~std::uint64_t{63}, std::uint64_t{good.size()} - 128})
        refused(parsed(changed(104, bad)), code::malformed,
                "packed: size at byte 104: the panels of 'w' end beyond the file");
    for (const std::size_t at : {std::size_t{134}, std::size_t{135}, std::size_t{152}, std::size_t{159}})
        refused(parsed(changed(at, std::uint8_t{1})), code::malformed,
                "packed: entry at byte 64: zeros must stand between its fields");
    refused(parsed(changed(161, std::uint8_t{1})), code::malformed,
            "packed: directory at byte 161: only zeros may follow the names");

    const nb::packed<scheme> none;
    nb::packed_file_writer two;
    REQUIRE(two.add("a", none).ok());
    REQUIRE(two.add("b", none).ok());
    bytes twice = two.bytes();
    set(twice, 64 + 192 + 1, 'a');
    nibble_test::sign(twice);
    refused(parsed(twice), code::malformed, "packed: directory at byte 160: matrix 'a' is there twice");
}

TEST_CASE("packed file: matrices that are refused", "[io]") {
    using code = nb::status_code;
    const bytes good = file_of(weights<scheme>());
    const auto changed = [&](std::size_t at, auto value) {
        bytes file = good;
        set(file, at, value);
        nibble_test::sign(file);
        return file;
    };
    CHECK(viewed<scheme>(good).ok());
    refused(viewed<scheme>(changed(72, 2u)), code::unsupported,
            "packed: matrix 'w': its panels are of layout 2, only 1 can be read; pack the weights again");
    refused(
        viewed<nb::fp4_e2m1_g32>(good), code::mismatch,
        "packed: matrix 'w': is of another scheme than asked for: 4-bit codes, 16-bit scales per 32 columns in both, "
        "with other meanings");
    refused(
        viewed<nb::q4_k>(good), code::mismatch,
        "packed: matrix 'w': is of another scheme than asked for: 4-bit codes, 16-bit scales per 32 columns, not "
        "4-bit codes, 6-bit scales per 32 columns under 16-bit ones per 256 columns, 6-bit minimums under 16-bit ones");
    for (const std::uint32_t bad : {0u, 1u, 24u, 64u, ~0u})
        refused(viewed<scheme>(changed(76, bad)), code::malformed,
                "packed: matrix 'w': its panels have " + std::to_string(bad) + " rows; 8, 16 or 32 are possible");
    refused(viewed<scheme>(changed(120, 1.0f)), code::malformed,
            "packed: matrix 'w': its scheme has no offset, but one is there");
    const std::string taken = std::to_string(weights<scheme>().bytes());
    const auto wrong = [&](std::size_t m, std::size_t k) {
        return "packed: matrix 'w': " + taken + " bytes are not what " + std::to_string(m) + " x " + std::to_string(k) +
               " weights of this scheme take";
    };
    for (const std::size_t bad : {std::size_t{0}, std::size_t{16}, std::size_t{33}, std::size_t{1} << 40})
        refused(viewed<scheme>(changed(80, std::uint64_t{bad})), code::malformed, wrong(bad, cols));
    for (const std::size_t bad : {std::size_t{0}, std::size_t{1}, std::size_t{1000}, std::size_t{1} << 40})
        refused(viewed<scheme>(changed(88, std::uint64_t{bad})), code::malformed, wrong(rows, bad));
    refused(viewed<scheme>(changed(76, 8u)), code::malformed, wrong(rows, cols));

    // Damaged panels: a copy is refused, a view is not looked at.
    bytes damaged = good;
    damaged[good.size() - 1] ^= std::byte{128};
    const placed_file placed(damaged);
    nb::packed_file file;
    REQUIRE(nb::packed_file::parse(placed.view(), file).ok());
    nb::packed_view<scheme> view;
    nb::packed<scheme> copy;
    CHECK(nb::view_packed(file.entries()[0], view).ok());
    const std::string what = "packed: matrix 'w': its checksum is not that of its panels, which are damaged";
    refused(nb::verify_packed(file.entries()[0]), code::malformed, what);
    refused(nb::read_packed(file.entries()[0], copy), code::malformed, what);
    CHECK(copy.bytes() == 0);

    // Off a boundary: a view is refused, a copy is not.
    const placed_file off(good, 8);
    REQUIRE(nb::packed_file::parse(off.view(), file).ok());
    refused(nb::view_packed(file.entries()[0], view), code::mismatch,
            "packed: matrix 'w': its panels are not on a 64-byte boundary of memory; map the file, or read a copy");
    REQUIRE(nb::read_packed(file.entries()[0], copy).ok());
    CHECK(product(copy) == product(weights<scheme>()));
}

TEST_CASE("packed views: contracts of what kernels read", "[io][contract]") {
    using gemm_test::broken_by;
    const nb::packed<scheme> w = weights<scheme>();
    const nb::packed<scheme> narrow = nb::repack(w, 8);
    const std::string widths =
        "the weights are in panels of 8 or 32 rows, kernels read panels of 16: take repack(w, 16)";
    CHECK(broken_by([&] { (void)product(narrow); }) == widths);
    CHECK(broken_by([&] { (void)nb::gemm_workspace_bytes(narrow, 1, 1); }) == widths);
    std::vector<float> sums(rows);
    CHECK(broken_by([&] { nb::weight_sums(narrow, {sums.data(), sums.size()}); }) == widths);
    CHECK_FALSE(nb::fits(nb::prepare<scheme>(nb::matrix_view<const float>(numbers(cols).data(), 1, cols)), narrow));
    CHECK(broken_by([&] { (void)nb::repack(w, 24); }) == "repack: panels have 8, 16 or 32 rows");
    CHECK(product(nb::repack(narrow, 16)) == product(w));

    // From a unit of other flags, without its type.
    nb::untyped_packed untyped = w.untyped();
    CHECK(product(nb::packed_view<scheme>(untyped)) == product(w));
    CHECK(broken_by([&] { (void)nb::packed_view<nb::fp4_e2m1_g32>(untyped); }) ==
          "packed_view: these weights are of another scheme");
    untyped.panels += 32;
    CHECK(broken_by([&] { (void)nb::packed_view<scheme>(untyped); }) ==
          "packed_view: the panels must start on a 64-byte boundary");
    untyped = w.untyped();
    untyped.panels = nullptr;
    CHECK(broken_by([&] { (void)nb::packed_view<scheme>(untyped); }) == "packed_view: there is no memory");
    untyped = w.untyped();
    untyped.layout.version = 2;
    CHECK(broken_by([&] { (void)nb::packed_view<scheme>(untyped); }) ==
          "packed_view: packed by a version of nibble that lays panels out otherwise");
    untyped = w.untyped();
    untyped.layout.panel_rows = 12;
    CHECK(broken_by([&] { (void)nb::packed_view<scheme>(untyped); }) == "packed_view: panels have 8, 16 or 32 rows");
    untyped = w.untyped();
    untyped.layout.rows = 33;
    CHECK(broken_by([&] { (void)nb::packed_view<scheme>(untyped); }) ==
          "packed_view: rows x cols need another number of bytes");
    // A view of weights that are in a product with weights that own themselves.
    std::vector<float> one(rows), other(rows);
    const std::vector<float> x = numbers(cols);
    const nb::matrix_view<const float> token(x.data(), 1, cols);
    const nb::packed_view<scheme> view = w;
    nb::gemm_gated(token, view, w, nb::matrix_view<float>(one.data(), 1, rows), nb::identity{});
    nb::gemm_gated(token, w, w, nb::matrix_view<float>(other.data(), 1, rows), nb::identity{});
    CHECK(one == other);
}
