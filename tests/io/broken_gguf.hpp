// broken_gguf.hpp: GGUF files with one fault each, and what the reader must say about it.
#pragma once

#include "broken_file.hpp"
#include "io_support.hpp"

#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace nibble_test {

// A single F32 vector of four elements, to be broken in one place:
//   byte 24 key, 44 its type, 48 its text, 57 name, 66 dimension count, 70 dimension, 78 type, 82 offset, 96 data, 112
//   end
inline gguf_description small_gguf() {
    gguf_description file;
    file.entries = {text_entry("general.name", "x")};
    file.tensors = {{"w", {4}, 0, 0}};
    file.data.resize(16);
    return file;
}

inline std::vector<broken_file> broken_gguf_files() {
    constexpr auto truncated = nibble::status_code::truncated;
    constexpr auto malformed = nibble::status_code::malformed;
    constexpr auto unsupported = nibble::status_code::unsupported;
    static constexpr std::uint64_t huge = std::numeric_limits<std::uint64_t>::max();
    const auto changed = [](const auto& change) {
        gguf_description file = small_gguf();
        change(file);
        return file.write();
    };
    // The entry then begins at byte 24, its value's type at 33, the value at 37.
    const auto with_value = [&](const bytes& value) {
        return changed([&](gguf_description& f) { f.entries[0] = {"k", value}; });
    };
    const auto with_tensor = [&](std::vector<std::uint64_t> ne, std::uint32_t type, std::uint64_t offset = 0) {
        return changed([&](gguf_description& f) { f.tensors[0] = {"w", std::move(ne), type, offset}; });
    };
    const auto cut = [](std::size_t length) {
        bytes file = small_gguf().write();
        file.resize(length);
        return file;
    };
    const auto counts = [](std::uint64_t tensors, std::uint64_t entries) { // 24 bytes
        return byte_writer().raw("GGUF").u32(3).u64(tensors).u64(entries);
    };
    const auto nested = [](int depth) {
        byte_writer w;
        w.u32(9);
        for (int i = 0; i < depth; ++i) w.u32(9).u64(1);
        return w.u32(0).u64(0).take();
    };
    return {
        {"no byte", {}, truncated, "magic at byte 0: needs 4 bytes, 0 bytes are left"},
        {"another magic", changed([](auto& f) { f.magic = "GGML"; }), malformed,
         "magic at byte 0: is not 'GGUF', so this is no GGUF file"},
        {"version 1", changed([](auto& f) { f.version = 1; }), unsupported, "version at byte 4: 1 is neither 2 nor 3"},
        {"version 4", changed([](auto& f) { f.version = 4; }), unsupported, "version at byte 4: 4 is neither 2 nor 3"},
        {"version 0", changed([](auto& f) { f.version = 0; }), unsupported, "version at byte 4: 0 is neither 2 nor 3"},
        {"big endian", changed([](auto& f) { f.version = 0x03000000; }), unsupported,
         "version at byte 4: the file is big-endian"},
        {"more tensors than bytes", changed([](auto& f) { f.tensor_count = 1000; }), truncated,
         "tensor count at byte 8: announces 1000, but 88 bytes are left"},
        {"as many tensors as there are numbers", changed([](auto& f) { f.tensor_count = huge; }), truncated,
         "tensor count at byte 8: announces 18446744073709551615, but 88 bytes are left"},
        {"one tensor more", changed([](auto& f) {
             f.tensor_count = 2;
             f.data.resize(256);
         }),
         malformed, "name of tensor 1 at byte 90: is empty"},
        {"more metadata than bytes", changed([](auto& f) { f.entry_count = 1000; }), truncated,
         "metadata count at byte 16: announces 1000, but 88 bytes are left"},
        {"as much metadata as there are numbers", changed([](auto& f) { f.entry_count = huge; }), truncated,
         "metadata count at byte 16: announces 18446744073709551615, but 88 bytes are left"},
        {"an empty key", changed([](auto& f) { f.entries[0].key = ""; }), malformed,
         "key of metadata entry 0 at byte 24: is empty"},
        {"a key longer than the file",
         byte_writer().raw("GGUF").u32(3).u64(0).u64(1).u64(huge).raw("abcdefghijklmnop").take(), truncated,
         "key of metadata entry 0 at byte 24: a string of 18446744073709551615 bytes, but 16 bytes are left"},
        {"a repeated key", changed([](auto& f) { f.entries.push_back(f.entries[0]); }), malformed,
         "metadata 'general.name' at byte 57: the key comes twice"},
        {"an unknown value type", with_value(byte_writer().u32(13).u64(0).take()), malformed,
         "metadata 'k' at byte 33: unknown value type 13"},
        {"a string longer than the file", with_value(byte_writer().u32(8).u64(1 << 20).take()), truncated,
         "metadata 'k' at byte 37: a string of 1048576 bytes, but 67 bytes are left"},
        {"a boolean of 2", with_value(byte_writer().u32(7).u8(2).take()), malformed,
         "metadata 'k' at byte 37: a boolean that is neither 0 nor 1"},
        {"a boolean of 2 in an array", with_value(byte_writer().u32(9).u32(7).u64(3).u8(0).u8(1).u8(2).take()),
         malformed, "metadata 'k' at byte 51: a boolean that is neither 0 nor 1"},
        {"an array of an unknown type", with_value(byte_writer().u32(9).u32(99).u64(0).take()), malformed,
         "metadata 'k' at byte 37: unknown value type 99"},
        {"an array longer than the file", with_value(byte_writer().u32(9).u32(4).u64(1 << 20).take()), truncated,
         "metadata 'k' at byte 41: announces 1048576, but 63 bytes are left"},
        {"an array whose length in bytes overflows", with_value(byte_writer().u32(9).u32(10).u64(huge / 8 + 2).take()),
         truncated, "metadata 'k' at byte 41: announces 2305843009213693953, but 63 bytes are left"},
        {"an array of more strings than bytes", with_value(byte_writer().u32(9).u32(8).u64(huge).take()), truncated,
         "metadata 'k' at byte 41: announces 18446744073709551615, but 63 bytes are left"},
        {"a string in an array that leaves the file",
         with_value(byte_writer().u32(9).u32(8).u64(2).text("a").u64(1 << 30).take()), truncated,
         "metadata 'k' at byte 58: a string of 1073741824 bytes, but 78 bytes are left"},
        {"an array in an array that leaves the file",
         with_value(byte_writer().u32(9).u32(9).u64(1).u32(0).u64(1 << 30).take()), truncated,
         "metadata 'k' at byte 53: announces 1073741824, but 51 bytes are left"},
        {"arrays nested too deeply", with_value(nested(4)), unsupported,
         "metadata 'k' at byte 85: arrays nested deeper than 4"},
        {"an alignment that is no power of two",
         changed([](auto& f) { f.entries[0] = entry_of("general.alignment", 4, std::uint32_t{24}); }), malformed,
         "metadata 'general.alignment' at byte 53: 24 is not a power of two"},
        {"an alignment of 0",
         changed([](auto& f) { f.entries[0] = entry_of("general.alignment", 4, std::uint32_t{0}); }), malformed,
         "metadata 'general.alignment' at byte 53: 0 is not a power of two"},
        {"an alignment of another type",
         changed([](auto& f) { f.entries[0] = entry_of("general.alignment", 10, std::uint64_t{32}); }), malformed,
         "metadata 'general.alignment' at byte 53: must be an unsigned 32-bit number"},
        {"an alignment beyond the file",
         changed([](auto& f) { f.entries[0] = entry_of("general.alignment", 4, std::uint32_t{1} << 31); }), truncated,
         "tensor data at byte 90: 2147483558 bytes of padding come first, 22 bytes are left"},
        {"a tensor without a name", changed([](auto& f) { f.tensors[0].name = ""; }), malformed,
         "name of tensor 0 at byte 57: is empty"},
        {"a repeated tensor", changed([](auto& f) { f.tensors.push_back(f.tensors[0]); }), malformed,
         "tensor 'w' at byte 90: the name comes twice"},
        {"as many dimensions as there are numbers",
         counts(1, 0).text("w").u32(0xffffffffu).raw(std::string(40, '\0')).take(), truncated,
         "tensor 'w' dimension count at byte 33: announces 4294967295, but 40 bytes are left"},
        {"dimensions whose product overflows before it is 0", with_tensor({0, 1ull << 32, 1ull << 32}, 0), malformed,
         "tensor 'w' dimensions at byte 66: their product overflows"},
        {"five dimensions whose product overflows", with_tensor({2, 1ull << 16, 1ull << 16, 1ull << 16, 1ull << 16}, 0),
         malformed, "tensor 'w' dimensions at byte 66: their product overflows"},
        {"a row of no matrix whose size overflows", with_tensor({1ull << 62, 0}, 0), malformed,
         "tensor 'w' dimensions at byte 66: the size in bytes overflows"},
        {"five dimensions that end behind the file", with_tensor({1, 1, 1, 1, 5}, 0), truncated,
         "tensor 'w' offset at byte 114: 20 bytes of F32 from offset 0, but the file has 16 bytes of tensor data"},
        {"an empty tensor at an offset that is not aligned", with_tensor({0}, 0, 4), malformed,
         "tensor 'w' offset at byte 82: 4 is not a multiple of the alignment 32"},
        {"an index of safetensors files", byte_writer().raw(R"({"weight_map":{"a":"m-1.safetensors"}})").take(),
         malformed,
         "magic at byte 0: is not 'GGUF', so this is no GGUF file; it is an index of safetensors files; "
         "safetensors_model opens it with the file that it names: 'm-1.safetensors'"},
        {"an element count that overflows", with_tensor({1ull << 32, 1ull << 32}, 0), malformed,
         "tensor 'w' dimensions at byte 66: their product overflows"},
        {"an element count that overflows to something small", with_tensor({(1ull << 63) + 2, 2}, 0), malformed,
         "tensor 'w' dimensions at byte 66: their product overflows"},
        {"a size in bytes that overflows", with_tensor({1ull << 62}, 0), malformed,
         "tensor 'w' dimensions at byte 66: the size in bytes overflows"},
        {"a size in bytes that overflows with the rows", with_tensor({2, 1ull << 61}, 27), malformed,
         "tensor 'w' dimensions at byte 66: the size in bytes overflows"},
        {"half a block in a row", with_tensor({48}, 2), malformed,
         "tensor 'w' type at byte 78: Q4_0 has blocks of 32 elements, which do not divide a row of 48"},
        {"an offset that is not aligned", with_tensor({1}, 0, 4), malformed,
         "tensor 'w' offset at byte 82: 4 is not a multiple of the alignment 32"},
        {"an offset behind the end", with_tensor({1}, 0, 32), truncated,
         "tensor 'w' offset at byte 82: 4 bytes of F32 from offset 32, but the file has 16 bytes of tensor data"},
        {"an offset that overflows", with_tensor({1}, 0, huge - 31), truncated,
         "tensor 'w' offset at byte 82: 4 bytes of F32 from offset 18446744073709551584, but the file has 16 bytes of "
         "tensor data"},
        {"data that ends behind the file", with_tensor({5}, 0), truncated,
         "tensor 'w' offset at byte 82: 20 bytes of F32 from offset 0, but the file has 16 bytes of tensor data"},
        {"quantized data that ends behind the file", with_tensor({32}, 2), truncated,
         "tensor 'w' offset at byte 82: 18 bytes of Q4_0 from offset 0, but the file has 16 bytes of tensor data"},
        {"an unknown type behind the end", with_tensor({32}, 4711, 64), truncated,
         "tensor 'w' offset at byte 82: 0 bytes of type 4711 from offset 64, but the file has 16 bytes of tensor data"},
        {"no data at all", changed([](auto& f) { f.data.clear(); }), truncated,
         "tensor 'w' offset at byte 82: 16 bytes of F32 from offset 0, but the file has 0 bytes of tensor data"},
        // Every field that can be cut off.
        {"a version cut off", cut(6), truncated, "version at byte 4: needs 4 bytes, 2 bytes are left"},
        {"a tensor count cut off", cut(15), truncated, "tensor count at byte 8: needs 8 bytes, 7 bytes are left"},
        {"a metadata count cut off", cut(16), truncated, "metadata count at byte 16: needs 8 bytes, 0 bytes are left"},
        {"a key's length cut off", counts(0, 2).text("k").u32(8).text("a text of many bytes").raw("abc").take(),
         truncated, "key of metadata entry 1 at byte 65: needs 8 bytes, 3 bytes are left"},
        {"a value's type cut off", counts(0, 1).text("general.architecture").raw("ab").take(), truncated,
         "metadata 'general.architecture' at byte 52: needs 4 bytes, 2 bytes are left"},
        {"a number cut off", counts(0, 1).text("k").u32(10).raw("1234567").take(), truncated,
         "metadata 'k' at byte 37: needs 8 bytes, 7 bytes are left"},
        {"a string's length cut off", counts(0, 1).text("k").u32(8).raw("123456").take(), truncated,
         "metadata 'k' at byte 37: needs 8 bytes, 6 bytes are left"},
        {"an array's type cut off", counts(0, 1).text("k").u32(9).raw("ab").take(), truncated,
         "metadata 'k' at byte 37: needs 4 bytes, 2 bytes are left"},
        {"an array's length cut off", counts(0, 1).text("k").u32(9).u32(4).raw("abc").take(), truncated,
         "metadata 'k' at byte 41: needs 8 bytes, 3 bytes are left"},
        {"metadata that leaves no room for the tensors",
         counts(2, 1).text("k").u32(8).text(std::string(40, 'x')).raw(std::string(33, 'y')).take(), truncated,
         "tensor count at byte 8: announces 2, but 33 bytes are left"},
        {"a tensor name's length cut off",
         counts(2, 0).text(std::string(40, 'w')).u32(1).u64(4).u32(0).u64(0).raw("12345").take(), truncated,
         "name of tensor 1 at byte 96: needs 8 bytes, 5 bytes are left"},
        {"a tensor name longer than the file", counts(1, 0).u64(1ull << 40).raw(std::string(32, 'w')).take(), truncated,
         "name of tensor 0 at byte 24: a string of 1099511627776 bytes, but 32 bytes are left"},
        {"a dimension count cut off", counts(1, 0).text("blk.31.attn_output.weight").raw("ab").take(), truncated,
         "tensor 'blk.31.attn_output.weight' dimension count at byte 57: needs 4 bytes, 2 bytes are left"},
        {"a dimension cut off", counts(1, 0).text("w").u32(4).u64(1).u64(1).raw("1234").take(), truncated,
         "tensor 'w' dimension count at byte 33: announces 4, but 20 bytes are left"},
        {"a tensor's type cut off", counts(1, 0).text("w").u32(3).u64(1).u64(1).u64(1).raw("abc").take(), truncated,
         "tensor 'w' type at byte 61: needs 4 bytes, 3 bytes are left"},
        {"an offset cut off", counts(1, 0).text("w").u32(2).u64(1).u64(1).u32(0).raw("1234567").take(), truncated,
         "tensor 'w' offset at byte 57: needs 8 bytes, 7 bytes are left"},
        {"the padding cut off", cut(92), truncated,
         "tensor data at byte 90: 6 bytes of padding come first, 2 bytes are left"},
    };
}

} // namespace nibble_test
