// layer_tensors.hpp: takes the tensors of one layer out of safetensors files and says what does not fit together.
#pragma once

#include <nibble/io/file_error.hpp>
#include <nibble/io/tensor_file.hpp>
#include <nibble/io/tensor_source.hpp>

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/status.hpp>

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::detail {

[[nodiscard]] inline std::string extents_text(const std::vector<std::size_t>& shape) {
    std::string text = "[";
    for (std::size_t i = 0; i < shape.size(); ++i) text.append(i == 0 ? "" : ", ").append(std::to_string(shape[i]));
    return text += "]";
}

// Every function returns false (or nullptr) after setting the error. A tensor that came out of a tensor_source has
// just the bytes that its shape and type need, so checking those two is all it takes to stay inside of it.
class layer_tensors {
public:
    layer_tensors(const tensor_source& file, std::string_view prefix) : file_(file), prefix_(prefix) {}

    [[nodiscard]] const status& error() const noexcept { return error_; }
    bool fail(status_code code, std::string_view what, std::string_view why) {
        error_ = {code, "layer " + in_quotes(prefix_) + ": " + std::string(what) + ": " + std::string(why)};
        return false;
    }
    bool fail(status_code code, const tensor_info& tensor, std::string_view why) {
        return fail(code, "tensor " + in_quotes(tensor.name), why);
    }

    // nullptr if there is none; no error.
    [[nodiscard]] const tensor_info* find(std::string_view suffix) const {
        return file_.find(std::string(prefix_).append(suffix));
    }
    [[nodiscard]] const tensor_info* require(std::string_view suffix) {
        const tensor_info* tensor = find(suffix);
        if (tensor == nullptr)
            fail(status_code::not_found, "tensor " + detail::in_quotes(std::string(prefix_).append(suffix)),
                 "is missing");
        return tensor;
    }
    [[nodiscard]] bool expect_type(const tensor_info& tensor, std::initializer_list<std::string_view> types) {
        std::string all;
        for (const std::string_view type : types) {
            if (tensor.type_name == type) return true;
            all.append(all.empty() ? "" : " or ").append(type);
        }
        return fail(status_code::mismatch, tensor, "is " + std::string(tensor.type_name) + ", expected " + all);
    }
    // A matrix with at least one row and column: no product of extents in a reader overflows then, because the file has
    // bytes for every element.
    [[nodiscard]] bool expect_matrix(const tensor_info& tensor) {
        if (tensor.shape.size() == 2 && tensor.shape[0] != 0 && tensor.shape[1] != 0) return true;
        return fail(status_code::mismatch, tensor,
                    "has shape " + extents_text(tensor.shape) + ", expected a matrix that is not empty");
    }
    // `why` says where the expected extents come from.
    [[nodiscard]] bool expect_shape(const tensor_info& tensor, std::initializer_list<std::size_t> extents,
                                    std::string_view why) {
        const std::vector<std::size_t> wanted(extents);
        if (tensor.shape == wanted) return true;
        return fail(status_code::mismatch, tensor,
                    "has shape " + extents_text(tensor.shape) + ", expected " + extents_text(wanted) + " (" +
                        std::string(why) + ")");
    }
    // A single number, of any rank.
    [[nodiscard]] bool expect_one(const tensor_info& tensor) {
        for (const std::size_t extent : tensor.shape)
            if (extent != 1)
                return fail(status_code::mismatch, tensor,
                            "has shape " + extents_text(tensor.shape) + ", expected one number");
        return true;
    }

    // How many columns share a scale, from the number of groups per row, ceil(cols / size), if only one size makes as
    // many. Mostly several do: then only `given` can tell (0: not given, -1: the whole row), which the layout calls
    // `option`; failing that `hint`, where it agrees with the shapes (what the file says besides, 0 if nothing).
    [[nodiscard]] bool group_size(const tensor_info& scales, std::size_t cols, std::size_t groups,
                                  std::string_view option, int given, int hint, std::size_t& out) {
        const std::string has = "has " + std::to_string(groups) + " groups for " + std::to_string(cols) + " columns";
        if (given < -1) return fail(status_code::unsupported, option, std::to_string(given) + " is no group size");
        if (groups == 0 || groups > cols) return fail(status_code::mismatch, scales, has);
        const auto size_of = [&](int size) { return size == -1 ? cols : static_cast<std::size_t>(size); };
        if (given != 0) {
            out = size_of(given);
            if (ceil_div(cols, out) == groups) return true;
            return fail(status_code::mismatch, scales,
                        "has " + std::to_string(groups) + " groups, expected " + std::to_string(ceil_div(cols, out)) +
                            " (" + std::to_string(cols) + " columns in groups of " + std::to_string(out) + ")");
        }
        if ((hint == -1 || hint > 0) && ceil_div(cols, size_of(hint)) == groups) {
            out = size_of(hint);
            return true;
        }
        // One group is the whole row, whatever size it has beyond that.
        const std::size_t smallest = ceil_div(cols, groups);
        const std::size_t largest = groups == 1 ? smallest : ceil_div(cols, groups - 1) - 1;
        if (largest < smallest) return fail(status_code::mismatch, scales, has + ", which no size of groups makes");
        if (largest > smallest)
            return fail(status_code::mismatch, scales,
                        has + ", which groups of " + std::to_string(smallest) + " to " + std::to_string(largest) +
                            " columns make: say the " + std::string(option) +
                            " of the checkpoint's configuration (read_quantization_config takes it from there)");
        out = smallest;
        return true;
    }

    // An integer in the file's metadata, 0 if there is none.
    [[nodiscard]] int metadata_integer(std::string_view key) const {
        int value = 0;
        const std::optional<std::string_view> text = file_.metadata_text(key);
        if (!text.has_value()) return 0;
        const char* end = text->data() + text->size();
        const auto parsed = std::from_chars(text->data(), end, value);
        return parsed.ec == std::errc() && parsed.ptr == end ? value : 0;
    }

    // The order that makes groups contiguous: columns[k] is the input column at place k, ascending within a group;
    // empty if that is the order already. `group` is the group size, or 0 to take it from the index. Every group must
    // have `group` columns, the last one the rest.
    [[nodiscard]] bool column_order(const tensor_info& index, std::size_t cols, std::size_t groups, std::size_t& group,
                                    std::vector<std::uint32_t>& columns) {
        if (!expect_type(index, {"I32"}) || !expect_shape(index, {cols}, "one group per column")) return false;
        if (cols > 0xffffffffu) return fail(status_code::unsupported, index, "more than 2^32 columns");
        std::vector<std::size_t> starts(groups + 1, 0);
        const auto at = [&](std::size_t k) { return load_little<std::int32_t>(index.data + 4 * k); };
        for (std::size_t k = 0; k < cols; ++k) {
            const std::int32_t g = at(k);
            if (g < 0 || static_cast<std::size_t>(g) >= groups)
                return fail(status_code::malformed, index,
                            "column " + std::to_string(k) + " is in group " + std::to_string(g) + " of " +
                                std::to_string(groups));
            ++starts[static_cast<std::size_t>(g) + 1];
        }
        if (group == 0) group = max_of<std::size_t>(starts[1], 1);
        bool ordered = true;
        for (std::size_t g = 0; g < groups; ++g) {
            const std::size_t wanted = g * group < cols ? min_of(group, cols - g * group) : 0;
            if (wanted == 0 || starts[g + 1] != wanted || (g + 1 == groups && g * group + wanted != cols))
                return fail(status_code::malformed, index,
                            "group " + std::to_string(g) + " has " + std::to_string(starts[g + 1]) +
                                " columns, expected " +
                                (wanted == 0 ? std::string("at least 1") : std::to_string(wanted)) + " (groups of " +
                                std::to_string(group) + ")");
            starts[g + 1] += starts[g];
        }
        for (std::size_t k = 0; k < cols && ordered; ++k) ordered = static_cast<std::size_t>(at(k)) == k / group;
        columns.clear();
        if (ordered) return true;
        columns.resize(cols);
        for (std::size_t k = 0; k < cols; ++k)
            columns[starts[static_cast<std::size_t>(at(k))]++] = static_cast<std::uint32_t>(k);
        return true;
    }

private:
    tensor_source file_;
    std::string_view prefix_;
    status error_;
};

} // namespace nibble::inline NIBBLE_ABI::detail
NIBBLE_HEADER_END;
