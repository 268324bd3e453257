// io_support.hpp: builds model files in memory, valid ones and broken ones, and reads all that a reader hands out.
#pragma once

#include <nibble/io/model_file.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace nibble_test {

using bytes = std::vector<std::byte>;

// Little-endian numbers and strings, appended.
class byte_writer {
public:
    template <class T> byte_writer& number(T value) {
        static_assert(std::is_arithmetic_v<T>);
        std::byte raw[sizeof(T)];
        std::memcpy(raw, &value, sizeof value);
        if constexpr (std::endian::native == std::endian::big)
            for (std::size_t i = 0; i < sizeof(T) / 2; ++i) std::swap(raw[i], raw[sizeof(T) - 1 - i]);
        data_.insert(data_.end(), raw, raw + sizeof(T));
        return *this;
    }
    byte_writer& u8(std::uint8_t v) { return number(v); }
    byte_writer& u16(std::uint16_t v) { return number(v); }
    byte_writer& u32(std::uint32_t v) { return number(v); }
    byte_writer& u64(std::uint64_t v) { return number(v); }
    byte_writer& raw(std::string_view text) {
        for (const char c : text) data_.push_back(static_cast<std::byte>(static_cast<unsigned char>(c)));
        return *this;
    }
    byte_writer& raw(const bytes& more) {
        data_.insert(data_.end(), more.begin(), more.end());
        return *this;
    }
    // As GGUF stores it: a 64-bit length, then the characters.
    byte_writer& text(std::string_view s) { return u64(s.size()).raw(s); }
    byte_writer& pad_to(std::size_t alignment) {
        while (data_.size() % alignment != 0) data_.push_back(std::byte{0});
        return *this;
    }
    [[nodiscard]] std::size_t size() const { return data_.size(); }
    [[nodiscard]] bytes take() { return std::move(data_); }

private:
    bytes data_;
};

// ---- GGUF -----------------------------------------------------------------------------------------------------------

struct gguf_entry {
    std::string key;
    bytes value; // type and value
};

struct gguf_tensor {
    std::string name;
    std::vector<std::uint64_t> ne; // contiguous dimension first, as in the file
    std::uint32_t type = 0;
    std::uint64_t offset = 0;
};

// Writes down what it is told, consistent or not.
struct gguf_description {
    std::string magic = "GGUF";
    std::uint32_t version = 3;
    std::optional<std::uint64_t> tensor_count = {};
    std::optional<std::uint64_t> entry_count = {};
    std::vector<gguf_entry> entries = {};
    std::vector<gguf_tensor> tensors = {};
    std::size_t alignment = 32;
    bytes data = {};

    [[nodiscard]] bytes write() const {
        byte_writer w;
        w.raw(magic).u32(version).u64(tensor_count.value_or(tensors.size())).u64(entry_count.value_or(entries.size()));
        for (const gguf_entry& entry : entries) w.text(entry.key).raw(entry.value);
        for (const gguf_tensor& tensor : tensors) {
            w.text(tensor.name).u32(static_cast<std::uint32_t>(tensor.ne.size()));
            for (const std::uint64_t extent : tensor.ne) w.u64(extent);
            w.u32(tensor.type).u64(tensor.offset);
        }
        if (!tensors.empty()) w.pad_to(alignment);
        return w.raw(data).take();
    }
};

template <class T> gguf_entry entry_of(std::string key, std::uint32_t type, T value) {
    return {std::move(key), byte_writer().u32(type).number(value).take()};
}
inline gguf_entry text_entry(std::string key, std::string_view value) {
    return {std::move(key), byte_writer().u32(8).text(value).take()};
}

// One entry of every kind; tensors of F32, F16, BF16, block formats without and with bytes per row, and unknown types.
inline gguf_description valid_gguf() {
    gguf_description file;
    file.entries = {
        entry_of("u8", 0, std::uint8_t{200}),
        entry_of("i8", 1, std::int8_t{-5}),
        entry_of("u16", 2, std::uint16_t{60000}),
        entry_of("i16", 3, std::int16_t{-30000}),
        entry_of("u32", 4, std::uint32_t{4000000000}),
        entry_of("i32", 5, std::int32_t{-2000000000}),
        entry_of("f32", 6, 1.5f),
        entry_of("yes", 7, std::uint8_t{1}),
        entry_of("no", 7, std::uint8_t{0}),
        text_entry("text", "llama"),
        entry_of("u64", 10, std::uint64_t{1} << 40),
        entry_of("u64.large", 10, ~std::uint64_t{0}),
        entry_of("i64", 11, std::int64_t{-1} << 40),
        entry_of("f64", 12, 0.1),
        {"numbers", byte_writer().u32(9).u32(2).u64(3).u16(1).u16(2).u16(3).take()},
        {"texts", byte_writer().u32(9).u32(8).u64(2).text("a").text("").take()},
        {"flags", byte_writer().u32(9).u32(7).u64(2).u8(0).u8(1).take()},
        {"nested", byte_writer().u32(9).u32(9).u64(2).u32(0).u64(1).u8(7).u32(8).u64(1).text("x").take()},
        {"empty", byte_writer().u32(9).u32(9).u64(0).take()},
        entry_of("general.alignment", 4, std::uint32_t{16}),
    };
    file.alignment = 16;
    file.tensors = {
        {"f32", {3, 2}, 0, 0},         {"f16", {5}, 1, 32},
        {"bf16", {2, 3, 2}, 30, 48},   {"q4_0", {64, 2}, 2, 80},
        {"iq2_bn", {64, 2}, 135, 160}, {"strange", {7}, 4711, 0},
        {"stranger", {7}, 4712, 64},   {"one", {1, 1, 1, 1}, 24, 208},
    };
    byte_writer data;
    for (int i = 0; i < 6; ++i) data.number(static_cast<float>(i) + 0.25f);      // 0
    data.pad_to(16).u16(0x3c00).u16(0xc000).u16(0x7c00).u16(0x0001).u16(0x3555); // 32
    data.pad_to(16);                                                             // 48
    for (std::uint32_t i = 0; i < 12; ++i) data.u16(static_cast<std::uint16_t>(0x3f80 + 0x40 * i));
    data.pad_to(16); // 80
    for (std::uint32_t i = 0; i < 72; ++i) data.u8(static_cast<std::uint8_t>(i));
    data.pad_to(16); // 160
    for (std::uint32_t i = 0; i < 40; ++i) data.u8(static_cast<std::uint8_t>(i));
    data.pad_to(16).u8(42); // 208
    file.data = data.take();
    return file;
}

// A part of a split model: its numbers, and F32 tensors of 4 zeros of these names.
inline gguf_description split_part(std::uint16_t index, std::uint16_t count, std::int32_t tensors,
                                   const std::vector<std::string>& names, const std::string& architecture = "") {
    gguf_description file;
    if (!architecture.empty()) file.entries.push_back(text_entry("general.architecture", architecture));
    file.entries.push_back(entry_of("split.no", 2, index));
    file.entries.push_back(entry_of("split.count", 2, count));
    file.entries.push_back(entry_of("split.tensors.count", 5, tensors));
    for (std::size_t i = 0; i < names.size(); ++i) file.tensors.push_back({names[i], {4}, 0, 32 * i});
    file.data.resize(32 * names.size());
    return file;
}

// ---- safetensors ----------------------------------------------------------------------------------------------------

inline bytes safetensors(std::string_view header, std::size_t data_bytes, std::optional<std::uint64_t> length = {}) {
    byte_writer w;
    w.u64(length.value_or(header.size())).raw(header);
    for (std::size_t i = 0; i < data_bytes; ++i) w.u8(static_cast<std::uint8_t>(i * 37 + 11));
    return w.take();
}

// Escapes, white space, all the types that are read, some that are not, a scalar, an empty tensor, an unknown field.
inline constexpr std::string_view valid_safetensors_header = R"({
  "__metadata__": {"format": "pt", "caf\u00e9\n": "\ud83d\ude00 \"q\" \\ \/ \b\f\r\t", "": ""},
  "bf16": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [24, 36]},
  "f32": {"data_offsets": [0, 24], "shape": [1, 2, 3], "dtype": "F32"},
  "sc\u0061lar": {"dtype": "F16", "shape": [], "data_offsets": [36, 38]},
  "odd": {"dtype": "F16", "shape": [1], "data_offsets": [38, 40]},
  "none": {"dtype": "F32", "shape": [4, 0], "data_offsets": [40, 40]},
  "fp4": {"dtype": "F4", "shape": [6], "data_offsets": [40, 43]},
  "new": {"dtype": "F2_NEW", "shape": [9, 9], "data_offsets": [43, 46],
          "more": [{"a": [true, false, null, -0.5e+3, 0, "\u0041"]}, [], {}]},
  "i8": {"dtype": "I8", "shape": [2], "data_offsets": [46, 48]}
}  )";
inline constexpr std::size_t valid_safetensors_data = 48;

inline bytes valid_safetensors() {
    return safetensors(valid_safetensors_header, valid_safetensors_data);
}

// ---- reading --------------------------------------------------------------------------------------------------------

// The bytes in a heap block of just their size, so that the address sanitizer sees the first byte too far.
class exact_copy {
public:
    explicit exact_copy(std::span<const std::byte> from) : data_(new std::byte[from.size()]), size_(from.size()) {
        if (!from.empty()) std::memcpy(data_.get(), from.data(), from.size());
    }
    [[nodiscard]] std::span<const std::byte> view() const { return {data_.get(), size_}; }

private:
    std::unique_ptr<std::byte[]> data_;
    std::size_t size_;
};

[[nodiscard]] inline bool inside(std::span<const std::byte> all, const void* part, std::size_t size) {
    const auto* begin = static_cast<const std::byte*>(part);
    return begin >= all.data() && begin <= all.data() + all.size() &&
           size <= static_cast<std::size_t>(all.data() + all.size() - begin);
}

template <class Range> [[nodiscard]] unsigned sum_of(const Range& range) {
    unsigned sum = 0;
    for (const auto& item : range) sum += static_cast<unsigned>(item);
    return sum;
}

// Elements of a GGUF array: walked by the format's rules, they must take all of its bytes, no more.
inline bool walk_gguf_array(nibble::gguf_type type, std::uint64_t count, std::span<const std::byte>& rest) {
    const auto take = [&]<class T>(T& out) {
        if (rest.size() < sizeof(T)) return false;
        out = nibble::detail::load_little<T>(rest.data());
        rest = rest.subspan(sizeof(T));
        return true;
    };
    const std::size_t fixed = nibble::detail::gguf_type_bytes(type);
    if (fixed != 0 && count > rest.size() / fixed) return false;
    if (fixed != 0) rest = rest.subspan(static_cast<std::size_t>(count) * fixed);
    for (std::uint64_t i = 0; fixed == 0 && i < count; ++i) {
        std::uint32_t inner = static_cast<std::uint32_t>(nibble::gguf_type::u8);
        std::uint64_t length = 0;
        if (type == nibble::gguf_type::array && !take(inner)) return false;
        if (!take(length) || !walk_gguf_array(static_cast<nibble::gguf_type>(inner), length, rest)) return false;
    }
    return true;
}

inline std::string touch_metadata(const nibble::gguf_file& file, std::span<const std::byte> all) {
    unsigned sum = file.version();
    const auto alignment = static_cast<std::size_t>(file.metadata_integer("general.alignment").value_or(32));
    for (const nibble::tensor_info& tensor : file.tensors())
        if (static_cast<std::size_t>(tensor.data - all.data()) % alignment != 0) return "a tensor that is not aligned";
    for (const nibble::gguf_value& value : file.metadata()) {
        if (value.key.empty() || !inside(all, value.key.data(), value.key.size())) return "a key outside of the file";
        if (!inside(all, value.bytes.data(), value.bytes.size())) return "metadata outside of the file";
        sum += sum_of(value.key) + sum_of(value.bytes);
        if (file.metadata_value(value.key) != &value) return "metadata that its key does not find";

        const bool array = value.type == nibble::gguf_type::array;
        const std::size_t fixed = nibble::detail::gguf_type_bytes(value.element_type);
        if (!array && (value.count != 1 || value.element_type != value.type)) return "a value that is not one value";
        if (fixed != 0 && value.bytes.size() != value.count * fixed) return "metadata of another length";
        std::span<const std::byte> rest = value.bytes;
        if (array && (!walk_gguf_array(value.element_type, value.count, rest) || !rest.empty()))
            return "an array of another length";

        const bool text = value.type == nibble::gguf_type::string;
        const bool flag = value.type == nibble::gguf_type::boolean;
        const auto as_text = file.metadata_text(value.key);
        const bool number = fixed != 0 && !array && !flag;
        if (as_text.has_value() != text || (text && as_text->size() != value.bytes.size())) return "a wrong text";
        if (file.metadata_flag(value.key).has_value() != flag) return "a wrong flag";
        if (file.metadata_number(value.key).has_value() != number) return "a wrong number";
        if (file.metadata_integer(value.key).has_value() && !number) return "a wrong integer";
    }
    volatile unsigned sink = sum;
    (void)sink;
    return "";
}

// Strings may have been written with escapes, so they need not lie in the file; they are UTF-8 in any case.
inline std::string touch_metadata(const nibble::safetensors_file& file, std::span<const std::byte> all) {
    const auto is_text = [](std::string_view s) { return nibble::detail::find_invalid_utf8(s) == s.size(); };
    for (const nibble::safetensors_text& entry : file.metadata()) {
        if (!is_text(entry.key) || !is_text(entry.value)) return "metadata that is no UTF-8";
        if (file.metadata_text(entry.key) != entry.value) return "metadata that its key does not find";
    }
    std::size_t covered = 8 + static_cast<std::size_t>(nibble::detail::load_little<std::uint64_t>(all.data()));
    for (const nibble::tensor_info& tensor : file.tensors()) {
        if (!is_text(tensor.name) || !is_text(tensor.type_name)) return "a tensor with a name that is no UTF-8";
        covered += tensor.bytes;
    }
    return covered == all.size() ? "" : "tensors that do not cover the file";
}

inline std::string touch_metadata(const nibble::model_file& file, std::span<const std::byte> all) {
    for (const std::string_view key : {"u8", "text", "general.alignment", "format"})
        if (const auto text = file.metadata_text(key); text.has_value() && text->size() > all.size())
            return "a text longer than the file";
    if (file.as_gguf() != nullptr) return touch_metadata(*file.as_gguf(), all);
    return file.as_safetensors() != nullptr ? touch_metadata(*file.as_safetensors(), all) : "a file of no format";
}

// The whole tensor, and its first, middle and last row each alone, which must be the same.
inline std::string touch_values(const nibble::tensor_info& tensor) {
    const std::size_t rows = tensor.rows();
    const std::size_t cols = tensor.cols();
    if (cols != 0 && rows > 8 * tensor.bytes / cols) return "a shape larger than the data"; // no type is below a bit
    std::vector<float> values(rows * cols + 1);
    if (!nibble::read_matrix(tensor, {values.data(), rows, cols}).ok()) return "a tensor that cannot be read";
    if (rows == 0) return ""; // cols may then be any number
    std::vector<float> row(cols + 1);
    if (nibble::read_rows(tensor, rows, {row.data(), 1, cols}).ok()) return "a row behind the last one";
    for (const std::size_t i : {std::size_t{0}, rows / 2, rows - 1}) {
        if (!nibble::read_rows(tensor, i, {row.data(), 1, cols}).ok()) return "a row that cannot be read";
        if (std::memcmp(row.data(), values.data() + i * cols, cols * sizeof(float)) != 0) return "a row that differs";
    }
    return "";
}

// Reads every byte that an open file hands out, and says what is wrong with it ("" if nothing is).
template <class File> std::string touch(const File& file, std::span<const std::byte> all) {
    unsigned sum = 0;
    for (const nibble::tensor_info& tensor : file.tensors()) {
        sum += sum_of(tensor.name) + sum_of(tensor.type_name);
        if (tensor.type_name.empty()) return "a type without a name";
        for (const char c : tensor.type_name)
            if (c < ' ' || c > '~') return "a type that cannot be printed";
        if (file.find(tensor.name) != &tensor) return "a tensor that its name does not find";
        if (!inside(all, tensor.data, tensor.bytes)) return "data outside of the file";
        sum += sum_of(std::span(tensor.data, tensor.bytes));
        if (tensor.type == nibble::tensor_type::other) {
            if (nibble::read_matrix(tensor, {}).code() != nibble::status_code::unsupported) return "other was read";
            continue;
        }
        if (const std::string complaint = touch_values(tensor); !complaint.empty()) return complaint;
    }
    if (file.find("no such tensor, surely") != nullptr) return "a tensor that is not there";
    volatile unsigned sink = sum;
    (void)sink;
    return touch_metadata(file, all);
}

// What is missing in the message of a failed parse of `all` ("" if nothing is): it names the format, a field, an offset
// within the input or just behind it, and a reason. That is "<format>: <field> at byte <offset>: <why>".
inline std::string complaint_about(const nibble::status& s, std::span<const std::byte> all) {
    const std::string& message = s.message();
    const auto wrong = [&](const char* what) { return std::string(what) + ": " + message; };
    if (s.code() != nibble::status_code::truncated && s.code() != nibble::status_code::malformed &&
        s.code() != nibble::status_code::unsupported)
        return wrong("a code that is not about the content of a file");
    std::size_t field = 0;
    for (const std::string_view format : {"gguf: ", "safetensors: "})
        if (message.starts_with(format)) field = format.size();
    if (field == 0) return wrong("a message that does not name the format");
    // The last one: a tensor's name may contain anything. So may the files that an index names, behind the first one.
    constexpr std::string_view before = " at byte ";
    const bool first =
        message.starts_with("gguf: magic at byte ") || message.starts_with("safetensors: header length at byte ");
    const std::size_t found = first ? message.find(before) : message.rfind(before);
    if (found == std::string::npos || found <= field) return wrong("a message without a field and an offset");
    std::size_t at = found + before.size();
    std::uint64_t offset = 0;
    const std::size_t digits = at;
    for (; at < message.size() && message[at] >= '0' && message[at] <= '9' && at - digits < 19; ++at)
        offset = 10 * offset + static_cast<std::uint64_t>(message[at] - '0');
    if (at == digits || offset > all.size()) return wrong("a message with an offset outside of the file");
    if (message.compare(at, 2, ": ") != 0 || at + 2 >= message.size()) return wrong("a message without a reason");
    return "";
}

// Opens a copy of `all` and reads everything in it; a failure must say why. "" if all is as it should be.
template <class File> std::string open_and_touch(std::span<const std::byte> all, bool& opened) {
    const exact_copy copy(all);
    File file;
    const nibble::status s = File::parse(copy.view(), file);
    opened = s.ok();
    if (s.ok()) return touch(file, copy.view());
    if (!file.tensors().empty()) return "a failed parse that leaves tensors behind";
    // What model_file says about a file of neither format speaks of the bytes that tell them apart.
    if (std::is_same_v<File, nibble::model_file> && s.message().starts_with("model file: neither")) return "";
    return complaint_about(s, copy.view());
}

} // namespace nibble_test
