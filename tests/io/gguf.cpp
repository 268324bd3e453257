// gguf.cpp: GGUF files made by hand, good and bad.
#include <support/catch.hpp>

#include <nibble/io/gguf.hpp>

#include "io_support.hpp"

#include <limits>
#include <string>
#include <vector>

namespace nb = nibble;
using nibble_test::byte_writer;
using nibble_test::bytes;
using nibble_test::entry_of;
using nibble_test::gguf_description;
using nibble_test::text_entry;

namespace {

std::vector<float> read(const nb::gguf_file& file, const char* name) {
    const nb::tensor_info* tensor = file.find(name);
    REQUIRE(tensor != nullptr);
    std::vector<float> values(tensor->rows() * tensor->cols());
    REQUIRE(nb::read_matrix(*tensor, {values.data(), tensor->rows(), tensor->cols()}).ok());
    return values;
}

constexpr std::uint64_t huge = std::numeric_limits<std::uint64_t>::max();

struct broken {
    const char* what;
    bytes file;
    nb::status_code code;
    const char* fragment; // of the message
};

// A single F32 vector of four elements, to be broken in one place.
gguf_description small_gguf() {
    gguf_description file;
    file.entries = {text_entry("general.name", "x")};
    file.tensors = {{"w", {4}, 0, 0}};
    file.data.resize(16);
    return file;
}

template <class Change>
bytes changed(const Change& change) {
    gguf_description file = small_gguf();
    change(file);
    return file.write();
}

bytes with_value(const bytes& value) {
    return changed([&](gguf_description& f) { f.entries[0] = {"k", value}; });
}

bytes with_tensor(std::vector<std::uint64_t> ne, std::uint32_t type, std::uint64_t offset = 0) {
    return changed([&](gguf_description& f) { f.tensors[0] = {"w", std::move(ne), type, offset}; });
}

std::vector<broken> broken_files() {
    constexpr auto truncated = nb::status_code::truncated;
    constexpr auto malformed = nb::status_code::malformed;
    constexpr auto unsupported = nb::status_code::unsupported;
    const auto nested = [](int depth) {
        byte_writer w;
        w.u32(9);
        for (int i = 0; i < depth; ++i) w.u32(9).u64(1);
        return w.u32(0).u64(0).take();
    };
    return {
        {"no byte", {}, truncated, "magic at byte 0: needs 4 bytes, 0 bytes are left"},
        {"another magic", changed([](auto& f) { f.magic = "GGML"; }), malformed, "magic at byte 0: is not 'GGUF'"},
        {"version 1", changed([](auto& f) { f.version = 1; }), unsupported, "version at byte 4: 1 is neither 2 nor 3"},
        {"version 4", changed([](auto& f) { f.version = 4; }), unsupported, "version at byte 4: 4 is neither"},
        {"version 0", changed([](auto& f) { f.version = 0; }), unsupported, "version at byte 4: 0 is neither"},
        {"big endian", changed([](auto& f) { f.version = 0x03000000; }), unsupported, "the file is big-endian"},
        {"more tensors than bytes", changed([](auto& f) { f.tensor_count = 1000; }), truncated,
         "tensor count at byte 8: announces 1000"},
        {"as many tensors as there are numbers", changed([](auto& f) { f.tensor_count = huge; }), truncated,
         "tensor count at byte 8: announces 18446744073709551615"},
        {"one tensor more", changed([](auto& f) { f.tensor_count = 2; f.data.resize(256); }), malformed,
         "name of tensor 1 at byte"},
        {"more metadata than bytes", changed([](auto& f) { f.entry_count = 1000; }), truncated,
         "metadata count at byte 16: announces 1000"},
        {"as much metadata as there are numbers", changed([](auto& f) { f.entry_count = huge; }), truncated,
         "metadata count at byte 16"},
        {"an empty key", changed([](auto& f) { f.entries[0].key = ""; }), malformed,
         "key of metadata entry 0 at byte 24: is empty"},
        {"a key longer than the file",
         byte_writer().raw("GGUF").u32(3).u64(0).u64(1).u64(huge).raw("abcdefghijklmnop").take(), truncated,
         "key of metadata entry 0 at byte 24: a string of 18446744073709551615 bytes"},
        {"a repeated key", changed([](auto& f) { f.entries.push_back(f.entries[0]); }), malformed,
         "metadata 'general.name' at byte 57: the key comes twice"},
        {"an unknown value type", with_value(byte_writer().u32(13).u64(0).take()), malformed,
         "metadata 'k' at byte 33: unknown value type 13"},
        {"a string longer than the file", with_value(byte_writer().u32(8).u64(1 << 20).take()), truncated,
         "metadata 'k' at byte 37: a string of 1048576 bytes"},
        {"a boolean of 2", with_value(byte_writer().u32(7).u8(2).take()), malformed,
         "metadata 'k' at byte 37: a boolean that is neither 0 nor 1"},
        {"a boolean of 2 in an array", with_value(byte_writer().u32(9).u32(7).u64(3).u8(0).u8(1).u8(2).take()),
         malformed, "metadata 'k' at byte 51: a boolean"},
        {"an array of an unknown type", with_value(byte_writer().u32(9).u32(99).u64(0).take()), malformed,
         "metadata 'k' at byte 37: unknown value type 99"},
        {"an array longer than the file", with_value(byte_writer().u32(9).u32(4).u64(1 << 20).take()), truncated,
         "metadata 'k' at byte 41: announces 1048576"},
        {"an array whose length in bytes overflows", with_value(byte_writer().u32(9).u32(10).u64(huge / 8 + 2).take()),
         truncated, "metadata 'k' at byte 41: announces 2305843009213693953"},
        {"an array of more strings than bytes", with_value(byte_writer().u32(9).u32(8).u64(huge).take()), truncated,
         "metadata 'k' at byte 41: announces"},
        {"a string in an array that leaves the file",
         with_value(byte_writer().u32(9).u32(8).u64(2).text("a").u64(1 << 30).take()), truncated,
         "metadata 'k' at byte 58: a string of 1073741824 bytes"},
        {"an array in an array that leaves the file",
         with_value(byte_writer().u32(9).u32(9).u64(1).u32(0).u64(1 << 30).take()), truncated,
         "metadata 'k' at byte 53: announces 1073741824"},
        {"arrays nested too deeply", with_value(nested(4)), unsupported, "arrays nested deeper than 4"},
        {"an alignment that is no power of two",
         changed([](auto& f) { f.entries[0] = entry_of("general.alignment", 4, std::uint32_t{24}); }), malformed,
         "metadata 'general.alignment' at byte 53: 24 is not a power of two"},
        {"an alignment of 0",
         changed([](auto& f) { f.entries[0] = entry_of("general.alignment", 4, std::uint32_t{0}); }), malformed,
         "0 is not a power of two"},
        {"an alignment of another type",
         changed([](auto& f) { f.entries[0] = entry_of("general.alignment", 10, std::uint64_t{32}); }), malformed,
         "metadata 'general.alignment' at byte 53: must be an unsigned 32-bit number"},
        {"an alignment beyond the file",
         changed([](auto& f) { f.entries[0] = entry_of("general.alignment", 4, std::uint32_t{1} << 31); }), truncated,
         "tensor data at byte 90: 2147483558 bytes of padding come first"},
        {"a tensor without a name", changed([](auto& f) { f.tensors[0].name = ""; }), malformed,
         "name of tensor 0 at byte 57: is empty"},
        {"a repeated tensor", changed([](auto& f) { f.tensors.push_back(f.tensors[0]); }), malformed,
         "tensor 'w' at byte 90: the name comes twice"},
        {"a tensor without dimensions", with_tensor({}, 0), malformed,
         "tensor 'w' dimension count at byte 66: 0 is not 1 to 4"},
        {"a tensor of five dimensions", with_tensor({1, 1, 1, 1, 1}, 0), malformed, "5 is not 1 to 4"},
        {"a dimension of 0", with_tensor({2, 0}, 0), malformed, "tensor 'w' dimension at byte 78: is 0"},
        {"an element count that overflows", with_tensor({1ull << 32, 1ull << 32}, 0), malformed,
         "tensor 'w' dimensions at byte 66: their product overflows"},
        {"an element count that overflows to something small", with_tensor({(1ull << 63) + 2, 2}, 0), malformed,
         "their product overflows"},
        {"a size in bytes that overflows", with_tensor({1ull << 62}, 0), malformed, "the size in bytes overflows"},
        {"a size in bytes that overflows with the rows", with_tensor({2, 1ull << 61}, 27), malformed,
         "the size in bytes overflows"},
        {"half a block in a row", with_tensor({48}, 2), malformed,
         "tensor 'w' type at byte 78: Q4_0 has blocks of 32 elements, which do not divide a row of 48"},
        {"an offset that is not aligned", with_tensor({1}, 0, 4), malformed,
         "tensor 'w' offset at byte 82: 4 is not a multiple of the alignment 32"},
        {"an offset behind the end", with_tensor({1}, 0, 32), truncated,
         "tensor 'w' offset at byte 82: 4 bytes of F32 from offset 32, but the file has 16 bytes of tensor data"},
        {"an offset that overflows", with_tensor({1}, 0, huge - 31), truncated, "tensor 'w' offset at byte 82"},
        {"data that ends behind the file", with_tensor({5}, 0), truncated, "20 bytes of F32 from offset 0"},
        {"quantized data that ends behind the file", with_tensor({32}, 2), truncated, "18 bytes of Q4_0 from offset 0"},
        {"an unknown type behind the end", with_tensor({32}, 4711, 64), truncated,
         "0 bytes of type 4711 from offset 64"},
        {"no data at all", changed([](auto& f) { f.data.clear(); }), truncated,
         "tensor 'w' offset at byte 82: 16 bytes of F32 from offset 0, but the file has 0 bytes"},
    };
}

} // namespace

TEST_CASE("a valid GGUF file gives its tensors and metadata", "[io]") {
    const std::uint32_t version = GENERATE(2u, 3u);
    gguf_description description = nibble_test::valid_gguf();
    description.version = version;
    const nibble_test::exact_copy copy(description.write());
    nb::gguf_file file;
    const nb::status s = nb::gguf_file::parse(copy.view(), file);
    INFO(s.message());
    REQUIRE(s.ok());
    CHECK(nibble_test::touch(file, copy.view()).empty());
    CHECK(file.version() == version);
    REQUIRE(file.tensors().size() == 8);
    REQUIRE(file.metadata().size() == 20);

    CHECK(read(file, "f32") == std::vector<float>{0.25f, 1.25f, 2.25f, 3.25f, 4.25f, 5.25f});
    CHECK(file.find("f32")->shape == std::vector<std::size_t>{2, 3}); // the contiguous dimension last
    CHECK(read(file, "f16") ==
          std::vector<float>{1.0f, -2.0f, std::numeric_limits<float>::infinity(), 0x1p-24f, 0.333251953125f});
    CHECK(file.find("bf16")->shape == std::vector<std::size_t>{2, 3, 2});
    CHECK(file.find("bf16")->rows() == 6);
    CHECK(read(file, "bf16")[3] == std::bit_cast<float>(0x40400000u));

    const auto is_other = [&](const char* name, const char* type, std::size_t size) {
        const nb::tensor_info* tensor = file.find(name);
        REQUIRE(tensor != nullptr);
        CHECK(tensor->type == nb::tensor_type::other);
        CHECK(tensor->type_name == type);
        CHECK(tensor->bytes == size);
        std::vector<float> values(tensor->rows() * tensor->cols());
        const nb::status refused = nb::read_matrix(*tensor, {values.data(), tensor->rows(), tensor->cols()});
        CHECK(refused.code() == nb::status_code::unsupported);
        CHECK(refused.message().find(std::string("type ") + type) != std::string::npos);
    };
    is_other("q4_0", "Q4_0", 2 * 2 * 18);
    is_other("iq2_bn", "IQ2_BN", 2 * (16 + 4));
    is_other("strange", "type 4711", 0);
    is_other("stranger", "type 4712", 0);
    is_other("one", "I8", 1);
    CHECK(file.find("one")->data[0] == std::byte{42});
    CHECK(file.find("F32") == nullptr);

    CHECK(file.metadata_integer("u8") == 200);
    CHECK(file.metadata_integer("i8") == -5);
    CHECK(file.metadata_integer("u16") == 60000);
    CHECK(file.metadata_integer("i16") == -30000);
    CHECK(file.metadata_integer("u32") == 4000000000);
    CHECK(file.metadata_integer("i32") == -2000000000);
    CHECK(file.metadata_integer("u64") == std::int64_t{1} << 40);
    CHECK(file.metadata_integer("i64") == -(std::int64_t{1} << 40));
    CHECK(!file.metadata_integer("u64.large").has_value());
    CHECK(!file.metadata_integer("f32").has_value());
    CHECK(!file.metadata_integer("yes").has_value());
    CHECK(!file.metadata_integer("none").has_value());
    CHECK(file.metadata_number("f32") == 1.5);
    CHECK(file.metadata_number("f64") == 0.1);
    CHECK(file.metadata_number("i8") == -5.0);
    CHECK(file.metadata_number("u64.large") == 0x1p64);
    CHECK(!file.metadata_number("text").has_value());
    CHECK(file.metadata_flag("yes") == true);
    CHECK(file.metadata_flag("no") == false);
    CHECK(!file.metadata_flag("u8").has_value());
    CHECK(file.metadata_text("text") == "llama");
    CHECK(!file.metadata_text("texts").has_value());
    CHECK(!file.metadata_text("none").has_value());
    REQUIRE(file.metadata_value("numbers") != nullptr);
    CHECK(file.metadata_value("numbers")->type == nb::gguf_type::array);
    CHECK(file.metadata_value("numbers")->element_type == nb::gguf_type::u16);
    CHECK(file.metadata_value("numbers")->count == 3);
    CHECK(file.metadata_value("numbers")->bytes.size() == 6);
    CHECK(file.metadata_value("texts")->bytes.size() == 17);
    CHECK(file.metadata_value("empty")->count == 0);
    CHECK(file.metadata_value("none") == nullptr);
}

TEST_CASE("GGUF files at the edge of the format are read", "[io]") {
    nb::gguf_file file;
    const bytes nothing = byte_writer().raw("GGUF").u32(3).u64(0).u64(0).take();
    REQUIRE(nb::gguf_file::parse(nothing, file).ok());
    CHECK(file.tensors().empty());

    // Tensors in any order, with gaps, sharing bytes; the last one ends with the file, without padding.
    gguf_description any = small_gguf();
    any.tensors = {{"b", {1}, 0, 64}, {"a", {4}, 0, 0}, {"also a", {2, 2}, 0, 0}};
    any.data.resize(68);
    const bytes written = any.write();
    REQUIRE(nb::gguf_file::parse(written, file).ok());
    CHECK(file.tensors()[0].name == "b");
    CHECK(file.find("b")->data == file.find("a")->data + 64);

    // A name of any length and any bytes.
    any.tensors[0].name = std::string("\0'\xff", 3) + std::string(5000, 'n');
    const bytes named = any.write();
    REQUIRE(nb::gguf_file::parse(named, file).ok());
    CHECK(file.find(any.tensors[0].name) != nullptr);
}

TEST_CASE("a broken GGUF file is refused with field, offset and reason", "[io]") {
    const std::vector<broken> files = broken_files();
    CHECK(files.size() >= 30);
    for (const broken& test : files) {
        const nibble_test::exact_copy copy(test.file);
        nb::gguf_file file;
        const nb::status s = nb::gguf_file::parse(copy.view(), file);
        INFO(test.what << ": " << s.message());
        CHECK(s.code() == test.code);
        CHECK(s.message().find(test.fragment) != std::string::npos);
        CHECK(s.message().starts_with("gguf: "));
        CHECK(s.message().find(" at byte ") != std::string::npos);
        CHECK(file.tensors().empty());
    }
}

TEST_CASE("the sizes of GGUF's tensor types agree with their bits per weight", "[io]") {
    // Another source for the same facts: bits per weight as the formats' authors state them.
    const auto bits_per_weight = [](std::uint32_t id) {
        const nb::detail::gguf_block* block = nb::detail::find_gguf_block(id);
        REQUIRE(block != nullptr);
        return 8.0 * block->bytes / block->elements;
    };
    CHECK(bits_per_weight(2) == 4.5);
    CHECK(bits_per_weight(8) == 8.5);
    CHECK(bits_per_weight(10) == 2.625);
    CHECK(bits_per_weight(11) == 3.4375);
    CHECK(bits_per_weight(12) == 4.5);
    CHECK(bits_per_weight(13) == 5.5);
    CHECK(bits_per_weight(14) == 6.5625);
    CHECK(bits_per_weight(16) == 2.0625);
    CHECK(bits_per_weight(17) == 2.3125);
    CHECK(bits_per_weight(18) == 3.0625);
    CHECK(bits_per_weight(19) == 1.5625);
    CHECK(bits_per_weight(21) == 3.4375);
    CHECK(bits_per_weight(22) == 2.5625);
    CHECK(bits_per_weight(23) == 4.25);
    CHECK(bits_per_weight(29) == 1.75);
    CHECK(bits_per_weight(34) == 1.6875);
    CHECK(bits_per_weight(35) == 2.0625);
    CHECK(bits_per_weight(39) == 4.25);
    CHECK(bits_per_weight(40) == 4.5);
    CHECK(bits_per_weight(41) == 1.125);
    CHECK(bits_per_weight(42) == 2.25);
    CHECK(nb::detail::find_gguf_block(4) == nullptr);
    CHECK(nb::detail::find_gguf_block(36) == nullptr);
    std::uint32_t last = 0;
    for (const nb::detail::gguf_block& block : nb::detail::gguf_blocks) {
        CHECK((block.id == 0 || block.id > last));
        last = block.id;
        CHECK(block.elements > 0);
    }
}
