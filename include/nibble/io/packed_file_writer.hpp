// packed_file_writer.hpp: puts packed weights into a file that can be mapped, one matrix or a whole model; the inverse
// of packed_file.hpp.
#pragma once

#include <nibble/io/file_error.hpp>
#include <nibble/io/packed_file_format.hpp>
#include <nibble/io/written_file.hpp>

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/reset_on_move.hpp>
#include <nibble/core/status.hpp>
#include <nibble/scheme/scheme.hpp>
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
#include <vector>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// Collects packed weights, of any schemes, then writes them all in the order of add. It copies none: their memory must
// stay until then.
class packed_file_writer {
public:
    // malformed: a name that is there already, or of 2^32 bytes; unsupported: more than 2^40 rows or columns, or a
    // big-endian machine. Nothing is added then. One pass over the panels, for their checksum.
    template <any_scheme S> [[nodiscard]] status add(std::string_view name, const packed_view<S>& w) {
        return add(name, w.untyped(), detail::stored_scheme::of<S>());
    }
    // What owns its memory and is gone after the call cannot stay.
    template <any_scheme S> status add(std::string_view name, packed<S>&& w) = delete;

    // The whole file.
    [[nodiscard]] std::vector<std::byte> bytes() const {
        std::vector<std::byte> head;
        std::vector<std::byte> file;
        for (const std::span<const std::byte> piece : pieces(head)) file.insert(file.end(), piece.begin(), piece.end());
        return file;
    }
    // Writes the file, all or nothing: beside `path`, as "<path>.partial", then moved there. cannot_open if that fails.
    [[nodiscard]] status write(const char* path) const {
        std::vector<std::byte> head;
        return detail::write_file(path, pieces(head));
    }

private:
    struct entry {
        std::string name;
        untyped_packed weights;
        detail::stored_scheme scheme;
        std::uint64_t checksum = 0;
    };

    [[nodiscard]] status add(std::string_view name, const untyped_packed& w, const detail::stored_scheme& scheme) {
        const std::string what = "packed: matrix " + detail::in_quotes(name);
        if constexpr (std::endian::native == std::endian::big)
            return {status_code::unsupported, what + ": files are little-endian, this machine is not"};
        if (w.layout.rows > detail::packed_longest_side || w.layout.cols > detail::packed_longest_side)
            return {status_code::unsupported, what + ": has more than 2^40 rows or columns"};
        if (name.size() > UINT32_MAX) return {status_code::malformed, what + ": the name has 2^32 bytes or more"};
        for (const entry& other : *entries_)
            if (other.name == name) return {status_code::malformed, what + ": was added before"};
        entries_->push_back({std::string(name), w, scheme, detail::packed_checksum({w.panels, w.layout.bytes})});
        return {};
    }

    // What the file consists of, one after the other; `head` gets header and directory.
    [[nodiscard]] std::vector<std::span<const std::byte>> pieces(std::vector<std::byte>& head) const {
        std::size_t directory = entries_->size() * detail::packed_entry_bytes;
        std::size_t panels = 0;
        for (const entry& e : *entries_) {
            directory += e.name.size();
            panels += e.weights.layout.bytes;
        }
        directory = detail::round_up(directory, 64);
        head.assign(detail::packed_header_bytes + directory, std::byte{0});
        std::byte* at = head.data() + detail::packed_header_bytes;
        std::byte* name = at + entries_->size() * detail::packed_entry_bytes;
        std::uint64_t offset = head.size();
        std::vector<std::span<const std::byte>> parts(1);
        for (const entry& e : *entries_) {
            const packed_layout& l = e.weights.layout;
            detail::store_little(at, l.scheme);
            detail::store_little(at + 8, l.version);
            detail::store_little(at + 12, l.panel_rows);
            const std::uint64_t numbers[] = {l.rows, l.cols, offset, l.bytes, e.checksum};
            for (std::size_t i = 0; i < 5; ++i) detail::store_little(at + 16 + 8 * i, numbers[i]);
            detail::store_little(at + 56, l.offset);
            detail::store_little(at + 60, static_cast<std::uint32_t>(e.name.size()));
            e.scheme.write(at + 64);
            if (!e.name.empty()) std::memcpy(name, e.name.data(), e.name.size());
            parts.push_back({e.weights.panels, l.bytes});
            at += detail::packed_entry_bytes;
            name += e.name.size();
            offset += l.bytes;
        }
        std::byte* const header = head.data();
        std::memcpy(header, detail::packed_magic.data(), detail::packed_magic.size());
        detail::store_little(header + 8, detail::packed_byte_order);
        detail::store_little(header + 12, detail::packed_file_version);
        detail::store_little(header + 16, std::uint64_t{head.size() + panels});
        detail::store_little(header + 24, std::uint64_t{entries_->size()});
        detail::store_little(header + 32, std::uint64_t{directory});
        detail::store_little(header + 40, detail::packed_checksum({header + detail::packed_header_bytes, directory}));
        parts[0] = head;
        return parts;
    }

    detail::reset_on_move<std::vector<entry>> entries_;
};

// One matrix to the file at `path`, under the name ""; load_packed and map_packed read it.
template <any_scheme S> [[nodiscard]] status save_packed(const char* path, const packed_view<S>& w) {
    packed_file_writer writer;
    status s = writer.add("", w);
    return s.ok() ? writer.write(path) : s;
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
