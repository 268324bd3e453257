// fuzz_gguf.cpp: libFuzzer's entry for the GGUF reader, and mutations that know the parts of such a file.
#include "fuzz_support.hpp"

#include <nibble/io/gguf.hpp>
#include <nibble/io/gguf_quantized.hpp>
#include <nibble/quantize.hpp>
#include <nibble/scheme/ggml_formats.hpp>

#include <bit>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

namespace nb = nibble;
using nibble_test::byte_writer;
using nibble_test::bytes;
using nibble_test::choices;
using nibble_test::gguf_description;
using nibble_test::gguf_entry;
using nibble_test::gguf_tensor;

namespace {

// A file taken apart as far as it makes sense. Believes more than the reader does: broken parts are what it is for.
class gguf_parts {
public:
    explicit gguf_parts(std::span<const std::byte> file) : rest_(file), size_(file.size()) {}

    [[nodiscard]] std::optional<gguf_description> take() {
        gguf_description file;
        std::string_view magic;
        std::uint64_t tensors = 0;
        std::uint64_t entries = 0;
        if (!raw(magic, 4) || !number(file.version) || !number(tensors) || !number(entries)) return std::nullopt;
        file.magic = magic;
        for (std::uint64_t i = 0; i < entries; ++i) {
            gguf_entry entry;
            if (!text(entry.key)) return file;
            const std::span<const std::byte> start = rest_;
            std::uint32_t type = 0;
            if (!number(type) || !skip(type, 0)) return file;
            entry.value.assign(start.begin(), start.end() - static_cast<std::ptrdiff_t>(rest_.size()));
            file.entries.push_back(std::move(entry));
        }
        for (std::uint64_t i = 0; i < tensors; ++i) {
            gguf_tensor tensor;
            std::uint32_t rank = 0;
            if (!text(tensor.name) || !number(rank) || rank > 8) return file;
            tensor.ne.resize(rank);
            for (std::uint64_t& extent : tensor.ne)
                if (!number(extent)) return file;
            if (!number(tensor.type) || !number(tensor.offset)) return file;
            file.tensors.push_back(std::move(tensor));
        }
        const std::size_t padding = (file.alignment - (size_ - rest_.size()) % file.alignment) % file.alignment;
        if (padding < rest_.size()) rest_ = rest_.subspan(padding);
        file.data.assign(rest_.begin(), rest_.end());
        return file;
    }

private:
    [[nodiscard]] bool raw(std::string_view& out, std::uint64_t size) {
        if (size > rest_.size()) return false;
        out = {reinterpret_cast<const char*>(rest_.data()), static_cast<std::size_t>(size)};
        rest_ = rest_.subspan(out.size());
        return true;
    }
    template <class T> [[nodiscard]] bool number(T& out) {
        std::string_view from;
        if (!raw(from, sizeof(T))) return false;
        out = nb::detail::load_little<T>(reinterpret_cast<const std::byte*>(from.data()));
        return true;
    }
    [[nodiscard]] bool text(std::string& out) {
        std::uint64_t size = 0;
        std::string_view from;
        if (!number(size) || !raw(from, size)) return false;
        out = from;
        return true;
    }
    [[nodiscard]] bool skip(std::uint32_t type, int depth) {
        std::string_view value;
        std::string string;
        if (type == 8) return text(string);
        if (type != 9) return raw(value, type > 12 ? 0 : nb::detail::gguf_type_bytes(static_cast<nb::gguf_type>(type)));
        std::uint64_t count = 0;
        if (depth > 6 || !number(type) || !number(count) || count > rest_.size()) return false;
        for (std::uint64_t i = 0; i < count; ++i)
            if (!skip(type, depth + 1)) return false;
        return true;
    }

    std::span<const std::byte> rest_;
    std::size_t size_;
};

bytes some_value(choices& random, std::uint32_t type, std::size_t file_size, int depth) {
    byte_writer w;
    if (type == 9) {
        const auto inner = static_cast<std::uint32_t>(random.below(random.once_in(9) ? 15 : 13));
        const std::size_t count = depth > 4 ? 0 : random.below(4);
        w.u32(inner).u64(random.once_in(6) ? random.number(file_size) : count);
        for (std::size_t i = 0; i < count; ++i) w.raw(some_value(random, inner, file_size, depth + 1));
        return w.take();
    }
    if (type == 8) return w.text(random.once_in(2) ? "" : "text").take();
    const std::uint64_t value = type == 7 ? random.below(random.once_in(9) ? 256 : 2) : random.number(file_size);
    const std::size_t size = type > 12 ? 0 : nb::detail::gguf_type_bytes(static_cast<nb::gguf_type>(type));
    w.u64(value);
    bytes out = w.take();
    out.resize(size);
    return out;
}

void change_entry(gguf_description& file, choices& random, std::size_t file_size) {
    auto& entries = file.entries;
    if (entries.empty() || random.once_in(4)) entries.push_back({"key" + std::to_string(random.below(9)), {}});
    gguf_entry& entry = entries[random.below(entries.size())];
    const auto type = static_cast<std::uint32_t>(random.below(random.once_in(9) ? 15 : 13));
    switch (random.below(6)) {
    case 0:
        nibble_test::mutate_part(entry.key, 40);
        break;
    case 1:
        nibble_test::mutate_part(entry.value, 64);
        break;
    case 2:
        entries.push_back(gguf_entry(entry));
        break;
    case 3:
        entries.erase(entries.begin() + (&entry - entries.data()));
        break;
    case 4:
        file.alignment = std::size_t{1} << random.below(8);
        entry = nibble_test::entry_of(
            "general.alignment", 4,
            static_cast<std::uint32_t>(random.once_in(4) ? random.number(file_size) : file.alignment));
        break;
    default:
        entry.value = byte_writer().u32(type).raw(some_value(random, type, file_size, 0)).take();
    }
}

void change_tensor(gguf_description& file, choices& random, std::size_t file_size) {
    auto& tensors = file.tensors;
    if (tensors.empty() || random.once_in(4))
        tensors.push_back({"tensor" + std::to_string(random.below(9)), {4}, 0, 0});
    gguf_tensor& tensor = tensors[random.below(tensors.size())];
    switch (random.below(7)) {
    case 0:
        nibble_test::mutate_part(tensor.name, 40);
        break;
    case 1:
        tensors.push_back(gguf_tensor(tensor));
        break;
    case 2:
        tensors.erase(tensors.begin() + (&tensor - tensors.data()));
        break;
    case 3:
        tensor.offset = random.number(file_size);
        break;
    case 4:
        tensor.ne.resize(random.below(8), random.below(4));
        break;
    case 5:
        if (!tensor.ne.empty()) tensor.ne[random.below(tensor.ne.size())] = random.number(file_size);
        break;
    default: // another type, and a row that is a number of its blocks
        const auto& block = nb::detail::gguf_blocks[random.below(std::size(nb::detail::gguf_blocks))];
        tensor.type = random.once_in(9) ? static_cast<std::uint32_t>(random.number(file_size)) : block.id;
        tensor.ne = {block.elements * (random.once_in(9) ? 0 : 1 + random.below(2)), 1 + random.below(3)};
    }
}

// Places every tensor behind the one before it, and gives them the data they need if that is not much.
void lay_out(gguf_description& file) {
    std::uint64_t at = 0;
    for (gguf_tensor& tensor : file.tensors) {
        std::uint64_t size = 0;
        const nb::detail::gguf_block* block = nb::detail::find_gguf_block(tensor.type);
        if (block != nullptr) {
            const std::uint64_t cols = tensor.ne.empty() ? 1 : tensor.ne[0];
            size = cols == 0 ? 0 : cols / block->elements * block->bytes + block->row_bytes;
            for (std::size_t i = 1; i < tensor.ne.size(); ++i) size *= tensor.ne[i];
        }
        tensor.offset = at;
        if (size < 4096) at += (size + file.alignment - 1) / file.alignment * file.alignment;
    }
    file.data.resize(at < 65536 ? static_cast<std::size_t>(at) : 65536, std::byte{0x3c});
}

// The tensor as quantized weights: refused with its name, or the weights that read_matrix gives.
std::string touch_quantized(const nb::tensor_info& tensor) {
    nb::any_quantized<nb::ggml_formats> weights;
    const nb::status s = nb::read_quantized(tensor, weights);
    if (tensor.type == nb::tensor_type::other) {
        const bool named = s.message().find("tensor " + nb::detail::in_quotes(tensor.name)) == 0;
        return s.code() == nb::status_code::unsupported && named && weights.empty() ? "" : "other was read as weights";
    }
    if (tensor.is_empty())
        return s.code() == nb::status_code::mismatch && weights.empty() ? "" : "weights of an empty tensor";
    const std::size_t rows = tensor.rows();
    const std::size_t cols = tensor.cols();
    if (!s.ok() || weights.rows() != rows || weights.cols() != cols) return "weights that cannot be read";
    std::vector<float> expected(rows * cols);
    std::vector<float> values(rows * cols);
    if (!nb::read_matrix(tensor, {expected.data(), rows, cols}).ok()) return "a tensor that cannot be read";
    weights.visit([&](const auto& held) { nb::dequantize(held, nb::matrix_view<float>(values.data(), rows, cols)); });
    for (std::size_t i = 0; i < values.size(); ++i)
        if (std::bit_cast<std::uint32_t>(values[i]) != std::bit_cast<std::uint32_t>(expected[i]) &&
            !(std::isnan(values[i]) && std::isnan(expected[i])))
            return std::string(tensor.type_name) + ": a weight that read_matrix reads as another number";
    return "";
}

// The input as one of two parts of a model whose other part is good: every tensor lies in one of them.
std::string join_with_good_part(std::span<const std::byte> input, std::size_t place) {
    static const bytes other[] = {nibble_test::split_part(0, 2, 2, {"a"}).write(),
                                  nibble_test::split_part(1, 2, 2, {"b"}).write()};
    const std::span<const std::byte> good = other[1 - place];
    const std::span<const std::byte> parts[] = {place == 0 ? input : good, place == 0 ? good : input};
    nb::gguf_file file;
    if (!nb::gguf_file::parse(parts, file).ok()) return file.tensors().empty() ? "" : "tensors of a failed parse";
    for (const nb::tensor_info& tensor : file.tensors()) {
        if (!nibble_test::inside(input, tensor.data, tensor.bytes) &&
            !nibble_test::inside(good, tensor.data, tensor.bytes))
            return "a tensor outside of both parts";
        if (file.find(tensor.name) != &tensor) return "a tensor that its name does not find";
        volatile unsigned sink = nibble_test::sum_of(std::span(tensor.data, tensor.bytes));
        static_cast<void>(sink);
    }
    return "";
}

} // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
    choices random(seed);
    if (random.once_in(3)) return LLVMFuzzerMutate(data, size, max_size);
    std::optional<gguf_description> file = gguf_parts({reinterpret_cast<const std::byte*>(data), size}).take();
    if (!file) file = nibble_test::valid_gguf();
    switch (random.below(8)) {
    case 0:
    case 1:
        change_entry(*file, random, size);
        break;
    case 2:
    case 3:
    case 4:
        change_tensor(*file, random, size);
        break;
    case 5:
        nibble_test::mutate_part(file->data, 1024);
        break;
    case 6:
        (random.once_in(2) ? file->tensor_count : file->entry_count) = random.number(size);
        break;
    default:
        file->version = random.once_in(2) ? 2 : static_cast<std::uint32_t>(random.number(size));
    }
    if (!random.once_in(3)) lay_out(*file);
    return nibble_test::replace_input(file->write(), data, size, max_size);
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::span<const std::byte> input(reinterpret_cast<const std::byte*>(data), size);
    nibble_test::examine<nb::gguf_file>(input, nb::model_format::gguf);

    const nibble_test::exact_copy copy(input);
    nibble_test::report(join_with_good_part(copy.view(), 0));
    nibble_test::report(join_with_good_part(copy.view(), 1));
    nb::gguf_file file;
    if (!nb::gguf_file::parse(copy.view(), file).ok()) return 0;
    for (const nb::tensor_info& tensor : file.tensors()) nibble_test::report(touch_quantized(tensor));
    return 0;
}
