// packed_file.hpp: packed weights from a file, mapped without a copy or loaded; packed_file_writer.hpp makes such
// files.
#pragma once

#include <nibble/io/file_error.hpp>
#include <nibble/io/mapped_file.hpp>
#include <nibble/io/name_index.hpp>
#include <nibble/io/packed_file_format.hpp>

#include <nibble/core/config.hpp>
#include <nibble/core/reset_on_move.hpp>
#include <nibble/core/status.hpp>
#include <nibble/scheme/scheme.hpp>
#include <nibble/scheme/scheme_digest.hpp>
#include <nibble/tensor/packed.hpp>
#include <nibble/tensor/packed_layout.hpp>
#include <nibble/tensor/packed_view.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

template <template <class> class Holder, class List> class any_format;
template <class... Formats> struct format_list;

// A matrix of a file: what the file says of it, in the file's memory. The panels lie inside of it; whether they are
// those of a scheme is what view_packed and read_packed find out.
struct packed_entry {
    std::string_view name;
    packed_layout layout{};
    const std::byte* panels = nullptr;
    std::uint64_t checksum = 0;
    detail::stored_scheme scheme{};
};

namespace detail {

struct packed_content {
    std::vector<packed_entry> entries;
    name_index names;

    [[nodiscard]] auto name_at() const {
        return [this](std::size_t i) { return entries[i].name; };
    }
};

// Reads header and directory, and checks all of both: what is handed out lies inside of the file.
class packed_parser {
public:
    explicit packed_parser(std::span<const std::byte> file) noexcept : file_(file) {}

    [[nodiscard]] status run(packed_content& out) {
        status s = header();
        if (!s.ok()) return s;
        out.entries.reserve(count_);
        std::size_t name = packed_header_bytes + count_ * packed_entry_bytes;
        std::size_t panels = packed_header_bytes + directory_;
        for (std::size_t i = 0; i < count_; ++i) {
            s = entry(packed_header_bytes + i * packed_entry_bytes, name, panels, out);
            if (!s.ok()) return s;
        }
        if (!zeros(name, packed_header_bytes + directory_ - name))
            return error(status_code::malformed, "directory", name, "only zeros may follow the names");
        if (panels != file_.size())
            return error(status_code::malformed, "panels", panels,
                         std::to_string(file_.size() - panels) + " bytes follow the last ones");
        const std::size_t twice = out.names.build(count_, out.name_at());
        if (twice != count_)
            return error(status_code::malformed, "directory", packed_header_bytes + twice * packed_entry_bytes,
                         "matrix " + in_quotes(out.entries[twice].name) + " is there twice");
        return {};
    }

private:
    [[nodiscard]] static status error(status_code code, std::string_view field, std::size_t at, std::string_view why) {
        return file_error(code, "packed", field, at, why);
    }
    [[nodiscard]] std::uint64_t number(std::size_t at) const noexcept {
        return load_little<std::uint64_t>(file_.data() + at);
    }
    [[nodiscard]] std::uint32_t word(std::size_t at) const noexcept {
        return load_little<std::uint32_t>(file_.data() + at);
    }
    [[nodiscard]] bool zeros(std::size_t at, std::size_t count) const noexcept {
        for (std::size_t i = 0; i < count; ++i)
            if (file_[at + i] != std::byte{0}) return false;
        return true;
    }

    [[nodiscard]] status header() {
        if (file_.size() < packed_header_bytes)
            return error(status_code::truncated, "header", 0,
                         "the file has " + std::to_string(file_.size()) + " bytes, less than a header's 64");
        if (std::memcmp(file_.data(), packed_magic.data(), packed_magic.size()) != 0)
            return error(status_code::malformed, "magic", 0, "this is no file of packed weights");
        if (word(8) == __builtin_bswap32(packed_byte_order))
            return error(status_code::unsupported, "byte order", 8, "the file is big-endian");
        if (word(8) != packed_byte_order) return error(status_code::malformed, "byte order", 8, "is none");
        if (word(12) != packed_file_version)
            return error(status_code::unsupported, "version", 12,
                         "is " + std::to_string(word(12)) + ", only 1 can be read; pack the weights again");
        if (number(16) > file_.size())
            return error(status_code::truncated, "file size", 16,
                         "is " + std::to_string(number(16)) + ", but only " + std::to_string(file_.size()) +
                             " bytes are there");
        if (number(16) < file_.size())
            return error(status_code::malformed, "file size", 16,
                         "is " + std::to_string(number(16)) + ", but " + std::to_string(file_.size()) +
                             " bytes are there");
        const std::size_t rest = file_.size() - packed_header_bytes;
        if (number(32) > rest || number(32) % 64 != 0)
            return error(status_code::malformed, "directory size", 32,
                         "is " + std::to_string(number(32)) + ", no multiple of 64 inside of the file");
        directory_ = static_cast<std::size_t>(number(32));
        if (number(24) > directory_ / packed_entry_bytes)
            return error(status_code::malformed, "number of matrices", 24,
                         "is " + std::to_string(number(24)) + ", more than the directory has room for");
        count_ = static_cast<std::size_t>(number(24));
        if (!zeros(48, 16)) return error(status_code::malformed, "header", 48, "16 zeros must stand here");
        if (packed_checksum(file_.subspan(packed_header_bytes, directory_)) != number(40))
            return error(status_code::malformed, "checksum", 40, "is not that of the directory, which is damaged");
        return {};
    }

    // The entry at a byte; moves on where the next name and the next panels are.
    [[nodiscard]] status entry(std::size_t at, std::size_t& name, std::size_t& panels, packed_content& out) const {
        packed_entry e;
        const std::size_t length = word(at + 60);
        if (length > packed_header_bytes + directory_ - name)
            return error(status_code::malformed, "name length", at + 60,
                         "the name does not end inside of the directory");
        e.name = {reinterpret_cast<const char*>(file_.data() + name), length};
        name += length;
        std::size_t sides[2];
        for (const std::size_t side : {std::size_t{16}, std::size_t{24}})
            if (number(at + side) > packed_longest_side || !to_size(number(at + side), sides[side / 8 - 2]))
                return error(status_code::malformed, side == 16 ? "rows" : "columns", at + side,
                             in_quotes(e.name) + " has " + std::to_string(number(at + side)) +
                                 ", more than 2^40 or than this program can count");
        if (number(at + 32) != panels)
            return error(status_code::malformed, "offset", at + 32,
                         "the panels of " + in_quotes(e.name) + " must start at byte " + std::to_string(panels));
        if (number(at + 40) % 64 != 0)
            return error(status_code::malformed, "size", at + 40,
                         "the panels of " + in_quotes(e.name) + " have no multiple of 64 bytes");
        if (number(at + 40) > file_.size() - panels)
            return error(status_code::malformed, "size", at + 40,
                         "the panels of " + in_quotes(e.name) + " end beyond the file");
        if (!zeros(at + 70, 2) || !zeros(at + 88, 8))
            return error(status_code::malformed, "entry", at, "zeros must stand between its fields");
        e.layout = {number(at),
                    word(at + 8),
                    word(at + 12),
                    sides[0],
                    sides[1],
                    static_cast<std::size_t>(number(at + 40)),
                    load_little<float>(file_.data() + at + 56)};
        e.panels = file_.data() + panels;
        e.checksum = number(at + 48);
        e.scheme = stored_scheme::read(file_.data() + at + 64);
        panels += e.layout.bytes;
        out.entries.push_back(e);
        return {};
    }

    std::span<const std::byte> file_;
    std::size_t directory_ = 0;
    std::size_t count_ = 0;
};

[[nodiscard]] inline status packed_error(const packed_entry& e, status_code code, std::string_view why) {
    return {code, "packed: matrix " + in_quotes(e.name) + ": " + std::string(why)};
}

} // namespace detail

// Are the panels those that were written? One pass over them. `malformed` if not.
[[nodiscard]] inline status verify_packed(const packed_entry& e) {
    if (detail::packed_checksum({e.panels, e.layout.bytes}) == e.checksum) return {};
    return detail::packed_error(e, status_code::malformed, "its checksum is not that of its panels, which are damaged");
}

namespace detail {

// What a scheme asks of a matrix, without its type: what would be said of each of them is compiled once.
struct wanted_scheme {
    std::uint64_t digest;
    stored_scheme looks;
    bool has_offset;
    bool (*shape)(const packed_layout&, void* out); // packed_shape; false: of another number of bytes
};
template <any_scheme S>
inline constexpr wanted_scheme wanted_for = {
    scheme_digest<S>, stored_scheme::of<S>(), S::has_offset, [](const packed_layout& l, void* out) {
        const packed_shape<S> shape(l.rows, l.cols, l.panel_rows);
        std::size_t needed = 0;
        *static_cast<packed_shape<S>*>(out) = shape;
        return multiply(shape.panels(), shape.panel_bytes(), needed) && needed == l.bytes;
    }};

// Is the matrix of the scheme that is asked for, of which shape, and can it be used where it lies, or be copied?
[[nodiscard]] inline status check_entry(const packed_entry& e, const wanted_scheme& wanted, void* shape, bool copied) {
    const packed_layout& l = e.layout;
    if constexpr (std::endian::native == std::endian::big)
        return packed_error(e, status_code::unsupported, "its panels are little-endian, this machine is not");
    if (l.version != packed_layout_version)
        return packed_error(e, status_code::unsupported,
                            "its panels are of layout " + std::to_string(l.version) + ", only " +
                                std::to_string(packed_layout_version) + " can be read; pack the weights again");
    if (l.scheme != wanted.digest)
        return packed_error(e, status_code::mismatch,
                            "is of another scheme than asked for: " +
                                (e.scheme == wanted.looks ? e.scheme.text() + " in both, with other meanings"
                                                          : e.scheme.text() + ", not " + wanted.looks.text()));
    if (!panel_layout::is_width(l.panel_rows))
        return packed_error(e, status_code::malformed,
                            "its panels have " + std::to_string(l.panel_rows) + " rows; 8, 16 or 32 are possible");
    if (!wanted.has_offset && detail::bit_cast<std::uint32_t>(l.offset) != 0)
        return packed_error(e, status_code::malformed, "its scheme has no offset, but one is there");
    // Every row and every column takes a byte or more of some panel, and a column at most 1024 of a panel: no shape
    // that is made overflows.
    const bool possible = l.cols <= SIZE_MAX / 1024 && (l.rows == 0 || (l.rows <= l.bytes && l.cols <= l.bytes));
    if (!possible || !wanted.shape(l, shape))
        return packed_error(e, status_code::malformed,
                            std::to_string(l.bytes) + " bytes are not what " + std::to_string(l.rows) + " x " +
                                std::to_string(l.cols) + " weights of this scheme take");
    if (copied) return verify_packed(e);
    if (l.bytes == 0 || reinterpret_cast<std::uintptr_t>(e.panels) % 64 == 0) return {};
    return packed_error(e, status_code::mismatch,
                        "its panels are not on a 64-byte boundary of memory; map the file, or read a copy");
}

} // namespace detail

// An open file of packed weights (packed_file_format.hpp has it byte by byte). Header and directory have been checked;
// the panels have not been touched, so that opening a file of any size takes no longer. Panels may hold any bytes:
// kernels read no memory by what stands in them.
class packed_file {
public:
    packed_file() noexcept = default;

    // Maps the file at `path`. If that fails, or the file is not well-formed, `out` stays as it was.
    [[nodiscard]] static status open(const char* path, packed_file& out) {
        mapped_file file;
        status s = mapped_file::open(path, file);
        if (!s.ok()) return s;
        return detail::in_file(path, open(std::move(file), out));
    }
    // Takes over a file that is mapped already.
    [[nodiscard]] static status open(mapped_file file, packed_file& out) {
        status s = parse(file.bytes(), out);
        if (s.ok()) out.file_ = std::move(file);
        return s;
    }
    // Reads a file that is in memory already and must stay there as long as `out` and views of it are used.
    [[nodiscard]] static status parse(std::span<const std::byte> bytes, packed_file& out) {
        detail::packed_content content;
        status s = detail::packed_parser(bytes).run(content);
        if (s.ok()) {
            out.content_ = std::move(content);
            out.file_ = mapped_file();
        }
        return s;
    }

    // In the order of the file.
    [[nodiscard]] std::span<const packed_entry> entries() const noexcept { return content_->entries; }
    // nullptr if there is no matrix of that name.
    [[nodiscard]] const packed_entry* find(std::string_view name) const {
        const std::size_t at = content_->names.find(name, content_->name_at());
        return at == detail::name_index::missing ? nullptr : &content_->entries[at];
    }

private:
    mapped_file file_; // empty after parse
    detail::reset_on_move<detail::packed_content> content_;
};

// The weights where they lie in the file, without a copy and without a look at them (see verify_packed); they stay as
// long as the packed_file. `mismatch`: stored in another scheme, or the file's memory does not start on a 64-byte
// boundary, as a mapped one does; unsupported: of another layout; malformed: of another size than rows and columns
// need. `out` stays as it was then. Kernels take panels of 16 rows: others by repack.
template <any_scheme S> [[nodiscard]] status view_packed(const packed_entry& e, packed_view<S>& out) {
    packed_shape<S> shape;
    status s = detail::check_entry(e, detail::wanted_for<S>, &shape, false);
    if (s.ok()) out = packed_view<S>(shape, shape.bytes() == 0 ? nullptr : e.panels, e.layout.offset);
    return s;
}

// The same in the first format of a list that is the matrix's, for files whose formats are known only at run time.
template <class... Formats>
[[nodiscard]] status view_packed(const packed_entry& e, any_format<packed_view, format_list<Formats...>>& out) {
    status s =
        detail::packed_error(e, status_code::mismatch, "none of the listed formats is its scheme: " + e.scheme.text());
    bool found = false;
    const auto one = [&]<class S>() {
        if (found || e.layout.scheme != scheme_digest<S>) return;
        found = true;
        packed_view<S> w;
        s = view_packed(e, w);
        if (s.ok()) out = w;
    };
    (one.template operator()<typename Formats::scheme>(), ...);
    return s;
}

// A copy of the weights that needs no file any more, verified. Refuses what view_packed and verify_packed refuse, but
// for alignment.
template <any_scheme S> [[nodiscard]] status read_packed(const packed_entry& e, packed<S>& out, allocator from = {}) {
    packed_shape<S> shape;
    status s = detail::check_entry(e, detail::wanted_for<S>, &shape, true);
    if (s.ok()) {
        packed<S> made(shape, from);
        if (made.bytes() != 0) std::memcpy(made.panel(0), e.panels, made.bytes());
        if constexpr (S::has_offset) made.set_offset(e.layout.offset);
        out = static_cast<packed<S>&&>(made);
    }
    return s;
}

namespace detail {

// `use(entry)` of the matrix of that name; not_found without it.
template <class Use>
[[nodiscard]] status with_entry(const char* path, const packed_file& file, std::string_view name, const Use& use) {
    const packed_entry* e = file.find(name);
    if (e == nullptr) return in_file(path, {status_code::not_found, "packed: there is no matrix " + in_quotes(name)});
    return in_file(path, use(*e));
}

} // namespace detail

// The matrix `name` of the file at `path`, as read_packed has it; what save_packed writes has the name "".
template <any_scheme S> [[nodiscard]] status load_packed(const char* path, packed<S>& out, std::string_view name = "") {
    packed_file file;
    status s = packed_file::open(path, file);
    if (!s.ok()) return s;
    return detail::with_entry(path, file, name, [&](const packed_entry& e) { return read_packed(e, out); });
}

// The same as view_packed has it, in `file`, which then holds the mapping. Both stay as they were if it fails.
template <any_scheme S>
[[nodiscard]] status map_packed(const char* path, packed_file& file, packed_view<S>& out, std::string_view name = "") {
    packed_file opened;
    status s = packed_file::open(path, opened);
    if (!s.ok()) return s;
    s = detail::with_entry(path, opened, name, [&](const packed_entry& e) { return view_packed(e, out); });
    if (s.ok()) file = std::move(opened);
    return s;
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
