// layer_support.hpp: checkpoints' layers made by hand, and what their weights are by the layouts' own words, bit by
// bit.
#pragma once

#include <nibble/io/safetensors.hpp>

#include "io_support.hpp"
#include "support/random.hpp"

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nibble_test {

struct layer_tensor {
    std::string name;
    std::string type;
    std::vector<std::size_t> shape;
    bytes data;
};

// A safetensors file of tensors that may be wrong in any way but their length.
inline bytes layer_file(const std::vector<layer_tensor>& tensors) {
    std::string header = "{";
    bytes data;
    for (const layer_tensor& tensor : tensors) {
        header +=
            (header.size() == 1 ? "\"" : ",\"") + tensor.name + "\":{\"dtype\":\"" + tensor.type + "\",\"shape\":[";
        for (std::size_t i = 0; i < tensor.shape.size(); ++i)
            header += (i == 0 ? "" : ",") + std::to_string(tensor.shape[i]);
        header += "],\"data_offsets\":[" + std::to_string(data.size()) + ",";
        data.insert(data.end(), tensor.data.begin(), tensor.data.end());
        header += std::to_string(data.size()) + "]}";
    }
    return byte_writer().u64(header.size() + 1).raw(header).raw("}").raw(data).take();
}

// Numbers of a fixed sequence.
class layer_random {
public:
    explicit layer_random(std::uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}
    std::uint32_t next() {
        state_ ^= state_ << 13;
        state_ ^= state_ >> 7;
        state_ ^= state_ << 17;
        return static_cast<std::uint32_t>((state_ * 0x2545f4914f6cdd1du) >> 32);
    }
    std::uint32_t below(std::uint32_t n) { return next() % n; }

private:
    std::uint64_t state_;
};

inline bytes random_bytes(layer_random& random, std::size_t count) {
    bytes data(count);
    for (std::byte& b : data) b = static_cast<std::byte>(random.next() & 255u);
    return data;
}

inline std::size_t type_bytes(std::string_view type) {
    return type == "F32" || type == "I32" ? 4 : type == "U8" || type == "I8" || type.starts_with("F8_") ? 1 : 2;
}

// Finite numbers around 2^-6 of either sign in F16, BF16 or F32.
inline bytes random_scales(layer_random& random, std::string_view type, std::size_t count) {
    byte_writer w;
    for (std::size_t i = 0; i < count; ++i) {
        const std::uint32_t sign = random.below(8) == 0 ? 1 : 0;
        if (type == "F16")
            w.u16(static_cast<std::uint16_t>(sign << 15 | (9 + random.below(3)) << 10 | random.below(1024)));
        if (type == "BF16")
            w.u16(static_cast<std::uint16_t>(sign << 15 | (121 + random.below(3)) << 7 | random.below(128)));
        if (type == "F32") w.u32(sign << 31 | (121 + random.below(3)) << 23 | random.below(1u << 23));
    }
    return w.take();
}

// ---- decoding, from the layouts' descriptions and nothing of the library
// ---------------------------------------------

inline std::uint32_t word_at(const bytes& data, std::size_t i) {
    std::uint32_t word = 0;
    for (std::size_t b = 0; b < 4; ++b) word |= static_cast<std::uint32_t>(data[4 * i + b]) << (8 * b);
    return word;
}
inline float float_at(const bytes& data, std::size_t i) {
    return std::bit_cast<float>(word_at(data, i));
}

// `bits` bits of a stream of words, from bit `at` on, one by one.
template <class Word> std::uint32_t stream_bits(const Word& word, std::size_t at, int bits) {
    std::uint32_t value = 0;
    for (int b = 0; b < bits; ++b) {
        const std::size_t bit = at + static_cast<std::size_t>(b);
        value |= (word(bit / 32) >> (bit % 32) & 1u) << b;
    }
    return value;
}

// Number i of F16, BF16 or F32, as a double.
inline double number_at(const bytes& data, std::string_view type, std::size_t i) {
    if (type == "F32") return static_cast<double>(float_at(data, i));
    const auto code = static_cast<unsigned>(data[2 * i]) | static_cast<unsigned>(data[2 * i + 1]) << 8;
    if (type == "BF16") return static_cast<double>(std::bit_cast<float>(code << 16));
    const double sign = (code >> 15) != 0 ? -1.0 : 1.0;
    const int e = static_cast<int>(code >> 10 & 31u);
    const int m = static_cast<int>(code & 1023u);
    return sign * (e == 0 ? std::ldexp(m, -24) : std::ldexp(1024 + m, e - 25));
}

// A product of fp32 numbers, rounded once: exact in double.
inline float rounded_product(double a, double b) {
    return static_cast<float>(a * b);
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

// The tensors of `original` in `file`, type, shape and bytes; "" if they are all there and nothing else is.
inline std::string differences(const std::vector<layer_tensor>& original, const nibble::safetensors_file& file) {
    for (const layer_tensor& tensor : original) {
        const nibble::tensor_info* found = file.find(tensor.name);
        if (found == nullptr) return tensor.name + " is missing";
        if (found->type_name != tensor.type) return tensor.name + " has type " + std::string(found->type_name);
        if (found->shape != tensor.shape) return tensor.name + " has another shape";
        if (found->bytes != tensor.data.size() ||
            (found->bytes != 0 && std::memcmp(found->data, tensor.data.data(), found->bytes) != 0))
            return tensor.name + " has other bytes";
    }
    return file.tensors().size() == original.size() ? "" : "there are other tensors";
}

// ---- layers
// ----------------------------------------------------------------------------------------------------------

// The expected weights, N x K in the order of the inputs, beside the tensors.
struct made_layer {
    std::vector<layer_tensor> tensors;
    std::size_t rows = 0;
    std::size_t cols = 0;
    std::vector<float> weights;
};

// groups[k] is the group of input k; ascending, or shuffled (act-order).
inline std::vector<std::uint32_t> groups_of_inputs(layer_random& random, std::size_t cols, std::size_t group,
                                                   bool shuffled) {
    std::vector<std::uint32_t> groups(cols);
    for (std::size_t k = 0; k < cols; ++k) groups[k] = static_cast<std::uint32_t>(k / group);
    if (shuffled)
        for (std::size_t k = cols; k > 1; --k)
            std::swap(groups[k - 1], groups[random.below(static_cast<std::uint32_t>(k))]);
    return groups;
}
inline bytes int32_bytes(const std::vector<std::uint32_t>& values) {
    byte_writer w;
    for (const std::uint32_t value : values) w.u32(value);
    return w.take();
}

// v2: zeros as stored; v1: plus one, modulo 2^b.
inline made_layer make_gptq(std::uint64_t seed, std::size_t rows, std::size_t cols, int bits, std::size_t group,
                            std::string scale_type, bool v2, bool act_order, bool zero_of_zero = true) {
    layer_random random(seed);
    const auto b = static_cast<std::size_t>(bits);
    const std::size_t groups = (cols + group - 1) / group;
    made_layer made;
    made.rows = rows;
    made.cols = cols;
    bytes qweight = random_bytes(random, cols * b / 32 * rows * 4);
    bytes qzeros = random_bytes(random, groups * (rows * b / 32) * 4);
    if (!zero_of_zero) // no stored zero of all ones, which is a zero point of 0 in v1: clear the lowest bit of every
                       // code
        for (std::size_t g = 0; g < groups; ++g)
            for (std::size_t n = 0; n < rows; ++n) {
                const std::size_t bit = g * rows * b + n * b;
                qzeros[bit / 8] &= static_cast<std::byte>(~(1u << (bit % 8)));
            }
    bytes scales = random_scales(random, scale_type, groups * rows);
    const std::vector<std::uint32_t> index = groups_of_inputs(random, cols, group, act_order);
    const std::size_t zero_words = rows * b / 32;
    made.weights.resize(rows * cols);
    for (std::size_t n = 0; n < rows; ++n)
        for (std::size_t k = 0; k < cols; ++k) {
            const std::size_t g = index[k];
            const auto q = stream_bits([&](std::size_t w) { return word_at(qweight, w * rows + n); }, k * b, bits);
            auto z = stream_bits([&](std::size_t w) { return word_at(qzeros, g * zero_words + w); }, n * b, bits);
            if (!v2) z = (z + 1) % (1u << bits);
            made.weights[n * cols + k] = rounded_product(static_cast<double>(q) - static_cast<double>(z),
                                                         number_at(scales, scale_type, g * rows + n));
        }
    made.tensors = {{"l.qweight", "I32", {cols * b / 32, rows}, qweight},
                    {"l.qzeros", "I32", {groups, zero_words}, qzeros},
                    {"l.scales", scale_type, {groups, rows}, scales},
                    {"l.g_idx", "I32", {cols}, int32_bytes(index)}};
    return made;
}

inline made_layer make_awq(std::uint64_t seed, std::size_t rows, std::size_t cols, std::size_t group,
                           std::string scale_type) {
    layer_random random(seed);
    const std::size_t groups = (cols + group - 1) / group;
    made_layer made;
    made.rows = rows;
    made.cols = cols;
    bytes qweight = random_bytes(random, cols * rows / 2);
    bytes qzeros = random_bytes(random, groups * rows / 2);
    bytes scales = random_scales(random, scale_type, groups * rows);
    constexpr std::size_t order[8] = {0, 2, 4, 6, 1, 3, 5, 7}; // nibble p holds this output of the eight
    made.weights.resize(rows * cols);
    for (std::size_t k = 0; k < cols; ++k)
        for (std::size_t c = 0; c < rows / 8; ++c)
            for (std::size_t p = 0; p < 8; ++p) {
                const std::size_t n = 8 * c + order[p];
                const std::uint32_t q = word_at(qweight, k * (rows / 8) + c) >> (4 * p) & 15u;
                const std::uint32_t z = word_at(qzeros, k / group * (rows / 8) + c) >> (4 * p) & 15u;
                made.weights[n * cols + k] = rounded_product(static_cast<double>(q) - static_cast<double>(z),
                                                             number_at(scales, scale_type, k / group * rows + n));
            }
    made.tensors = {{"l.qweight", "I32", {cols, rows / 8}, qweight},
                    {"l.qzeros", "I32", {groups, rows / 8}, qzeros},
                    {"l.scales", scale_type, {groups, rows}, scales}};
    return made;
}

inline made_layer make_compressed_tensors(std::uint64_t seed, std::size_t rows, std::size_t cols, int bits,
                                          std::size_t group, std::string scale_type, bool symmetric, bool act_order) {
    layer_random random(seed);
    const std::size_t per_word = static_cast<std::size_t>(32 / bits);
    const std::size_t words = (cols + per_word - 1) / per_word;
    const std::size_t groups = (cols + group - 1) / group;
    const std::size_t zero_rows = (rows + per_word - 1) / per_word;
    made_layer made;
    made.rows = rows;
    made.cols = cols;
    std::vector<std::uint32_t> packed(rows * words, 0);
    std::vector<std::uint32_t> zeros(zero_rows * groups, 0);
    std::vector<int> z(rows * groups, 0);
    const int half = 1 << (bits - 1);
    if (!symmetric)
        for (std::size_t n = 0; n < rows; ++n)
            for (std::size_t g = 0; g < groups; ++g) {
                z[n * groups + g] = static_cast<int>(random.below(1u << bits)) - half;
                zeros[n / per_word * groups + g] |= static_cast<std::uint32_t>(z[n * groups + g] + half)
                                                    << (static_cast<std::size_t>(bits) * (n % per_word));
            }
    bytes scales = random_scales(random, scale_type, rows * groups);
    const std::vector<std::uint32_t> index = groups_of_inputs(random, cols, group, act_order);
    made.weights.resize(rows * cols);
    for (std::size_t n = 0; n < rows; ++n)
        for (std::size_t k = 0; k < cols; ++k) {
            const int q = static_cast<int>(random.below(1u << bits)) - half;
            packed[n * words + k / per_word] |= static_cast<std::uint32_t>(q + half)
                                                << (static_cast<std::size_t>(bits) * (k % per_word));
            const std::size_t slot = n * groups + index[k];
            made.weights[n * cols + k] = rounded_product(q - z[slot], number_at(scales, scale_type, slot));
        }
    made.tensors = {{"l.weight_packed", "I32", {rows, words}, int32_bytes(packed)},
                    {"l.weight_scale", scale_type, {rows, groups}, scales},
                    {"l.weight_shape", "I64", {2}, byte_writer().u64(rows).u64(cols).take()}};
    if (!symmetric) made.tensors.push_back({"l.weight_zero_point", "I32", {zero_rows, groups}, int32_bytes(zeros)});
    if (act_order) made.tensors.push_back({"l.weight_g_idx", "I32", {cols}, int32_bytes(index)});
    return made;
}

// scale_shape {} or {1}: tensor; {N, 1}: channel; {N, groups}; tiles of 128 x 128 for fp8.
inline double fp8_value(unsigned code, bool e5m2) {
    const int mantissa = e5m2 ? 2 : 3;
    const int bias = e5m2 ? 15 : 7;
    const int e = static_cast<int>(code & 127u) >> mantissa;
    const int m = static_cast<int>(code) & ((1 << mantissa) - 1);
    const double magnitude =
        e == 0 ? std::ldexp(m, 1 - bias - mantissa) : std::ldexp((1 << mantissa) + m, e - bias - mantissa);
    return (code & 128u) != 0 ? -magnitude : magnitude;
}
inline made_layer make_naive(std::uint64_t seed, std::size_t rows, std::size_t cols, std::string type,
                             std::vector<std::size_t> scale_shape, std::string scale_type, bool symmetric, bool tiles) {
    layer_random random(seed);
    made_layer made;
    made.rows = rows;
    made.cols = cols;
    bytes weight = random_bytes(random, rows * cols);
    for (std::byte& b : weight) // no NaN and no infinity in FP8: the exponent's lowest bit goes
        if (type != "I8") b &= type == "F8_E5M2" ? std::byte{0xfb} : std::byte{0xf7};
    std::size_t slots = 1;
    for (const std::size_t extent : scale_shape) slots *= extent;
    bytes scales = random_scales(random, scale_type, slots);
    bytes zeros = random_bytes(random, slots);
    made.weights.resize(rows * cols);
    const std::size_t per_row = slots / (tiles || slots == 1 ? 1 : rows);
    const std::size_t group = tiles ? 128 : (cols + per_row - 1) / per_row;
    for (std::size_t n = 0; n < rows; ++n)
        for (std::size_t k = 0; k < cols; ++k) {
            const std::size_t slot = tiles        ? n / 128 * ((cols + 127) / 128) + k / 128
                                     : slots == 1 ? 0
                                                  : n * per_row + k / group;
            const auto code = static_cast<unsigned>(weight[n * cols + k]);
            const auto signed_of = [](unsigned c) {
                return static_cast<double>(c < 128 ? static_cast<int>(c) : static_cast<int>(c) - 256);
            };
            const double q = type == "I8"
                                 ? signed_of(code) - (symmetric ? 0.0 : signed_of(static_cast<unsigned>(zeros[slot])))
                                 : fp8_value(code, type == "F8_E5M2");
            made.weights[n * cols + k] = rounded_product(q, number_at(scales, scale_type, slot));
        }
    made.tensors = {{"l.weight", type, {rows, cols}, weight}, {"l.weight_scale", scale_type, scale_shape, scales}};
    if (!symmetric) made.tensors.push_back({"l.weight_zero_point", "I8", scale_shape, zeros});
    return made;
}

inline constexpr double e2m1_values[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};

// divided: compressed-tensors, whose global scale divides.
inline made_layer make_nvfp4(std::uint64_t seed, std::size_t rows, std::size_t cols, bool divided, float global) {
    layer_random random(seed);
    made_layer made;
    made.rows = rows;
    made.cols = cols;
    bytes weight = random_bytes(random, rows * cols / 2);
    bytes scales = random_bytes(random, rows * cols / 16);
    for (std::byte& b : scales) b &= std::byte{0x77}; // positive, not NaN
    const float outer = divided ? 1.0f / global : global;
    made.weights.resize(rows * cols);
    for (std::size_t i = 0; i < rows * cols; ++i) {
        const unsigned code =
            static_cast<unsigned>(weight[i / 2]) >> (4 * (i % 2)) & 15u; // the first in the low nibble
        const double e2m1 = (code & 8u) != 0 ? -e2m1_values[code & 7u] : e2m1_values[code & 7u];
        const float scale =
            rounded_product(fp8_value(static_cast<unsigned>(scales[i / 16]), false), static_cast<double>(outer));
        made.weights[i] = rounded_product(e2m1, static_cast<double>(scale));
    }
    const std::string number = "F32";
    made.tensors = {{divided ? "l.weight_packed" : "l.weight", "U8", {rows, cols / 2}, weight},
                    {"l.weight_scale", "F8_E4M3", {rows, cols / 16}, scales},
                    {divided ? "l.weight_global_scale" : "l.weight_scale_2", number,
                     divided ? std::vector<std::size_t>{1} : std::vector<std::size_t>{},
                     byte_writer().number(global).take()}};
    return made;
}

// `least` to `least` + 15: the exponents of the scales, with a bias of 127.
inline made_layer make_mxfp4(std::uint64_t seed, std::size_t rows, std::size_t cols, std::string scale_type,
                             std::uint32_t least = 112) {
    layer_random random(seed);
    made_layer made;
    made.rows = rows;
    made.cols = cols;
    bytes weight = random_bytes(random, rows * cols / 2);
    bytes scales(rows * cols / 32);
    for (std::byte& b : scales) b = static_cast<std::byte>(least + random.below(16));
    made.weights.resize(rows * cols);
    for (std::size_t i = 0; i < rows * cols; ++i) {
        const unsigned code =
            static_cast<unsigned>(weight[i / 2]) >> (4 * (i % 2)) & 15u; // the first in the low nibble
        const double e2m1 = (code & 8u) != 0 ? -e2m1_values[code & 7u] : e2m1_values[code & 7u];
        made.weights[i] = rounded_product(e2m1, std::ldexp(1.0, static_cast<int>(scales[i / 32]) - 127));
    }
    made.tensors = {{"l.weight_packed", "U8", {rows, cols / 2}, weight},
                    {"l.weight_scale", scale_type, {rows, cols / 32}, scales}};
    return made;
}

inline constexpr float nf4_values[16] = {-1.0f,
                                         -0.6961928009986877f,
                                         -0.5250730514526367f,
                                         -0.39491748809814453f,
                                         -0.28444138169288635f,
                                         -0.18477343022823334f,
                                         -0.09105003625154495f,
                                         0.0f,
                                         0.07958029955625534f,
                                         0.16093020141124725f,
                                         0.24611230194568634f,
                                         0.33791524171829224f,
                                         0.44070982933044434f,
                                         0.5626170039176941f,
                                         0.7229568362236023f,
                                         1.0f};
inline float fp4_value(unsigned code) {
    constexpr double twelfths[8] = {0, 0.0625, 8, 12, 4, 6, 2, 3};
    const auto magnitude = static_cast<float>(twelfths[code & 7u] / 12.0);
    return (code & 8u) != 0 ? -magnitude : magnitude;
}

// The signed dynamic map: midpoints of 2^i intervals of [0.1, 1] times 10^(i - 6), i = 0 ... 6, of both signs, 0 and 1;
// in fp32, as PyTorch computes it.
inline std::vector<float> dynamic_map() {
    std::vector<float> map(256, 0.0f);
    std::size_t at = 0;
    for (int i = 0; i <= 6; ++i) {
        const int last = 1 << i;
        const float step = (1.0f - 0.1f) / static_cast<float>(last);
        std::vector<float> ends;
        for (int j = 0; j <= last; ++j)
            ends.push_back(2 * j < last || j == 0 ? std::fma(step, static_cast<float>(j), 0.1f)
                                                  : std::fma(-step, static_cast<float>(last - j), 1.0f));
        for (std::size_t j = 0; j + 1 < ends.size(); ++j, ++at) {
            map[128 + at] = (ends[j] + ends[j + 1]) / 2.0f * static_cast<float>(std::pow(10.0, i - 6));
            map[126 - at] = -map[128 + at];
        }
    }
    map[255] = 1.0f;
    return map;
}

inline bytes float_bytes(const std::vector<float>& values) {
    byte_writer w;
    for (const float value : values) w.number(value);
    return w.take();
}

// nested: 0, or the size of the blocks of absmax codes. `nudge` moves one entry of the nested map, as other roundings
// do.
inline made_layer make_bitsandbytes(std::uint64_t seed, std::size_t rows, std::size_t cols, bool is_nf4,
                                    std::size_t block, std::size_t nested, bool nudge = false) {
    layer_random random(seed);
    made_layer made;
    made.rows = rows;
    made.cols = cols;
    const std::size_t count = rows * cols;
    const std::size_t blocks = (count + block - 1) / block;
    bytes weight = random_bytes(random, (count + 1) / 2);
    if (count % 2 != 0) weight.back() &= std::byte{0xf0};
    std::vector<float> map(16);
    for (unsigned c = 0; c < 16; ++c) map[c] = is_nf4 ? nf4_values[c] : fp4_value(c);
    bytes absmax = nested != 0 ? random_bytes(random, blocks) : random_scales(random, "F32", blocks);
    std::vector<float> nested_map = dynamic_map();
    if (nudge) nested_map[200] *= 1.01f;
    bytes nested_absmax = random_scales(random, "F32", nested != 0 ? (blocks + nested - 1) / nested : 0);
    const float offset = 0.0371246338f;
    made.weights.resize(count);
    for (std::size_t i = 0; i < count; ++i) {
        const unsigned code =
            static_cast<unsigned>(weight[i / 2]) >> (i % 2 == 0 ? 4 : 0) & 15u; // the first in the high nibble
        const std::size_t slot = i / block;
        float scale = 0.0f;
        if (nested != 0) {
            const float product =
                rounded_product(static_cast<double>(nested_map[static_cast<std::size_t>(absmax[slot])]),
                                static_cast<double>(float_at(nested_absmax, slot / nested)));
            scale = static_cast<float>(static_cast<double>(product) + static_cast<double>(offset));
        } else {
            scale = float_at(absmax, slot);
        }
        made.weights[i] = rounded_product(static_cast<double>(map[code]), static_cast<double>(scale));
    }
    const std::string kind = is_nf4 ? "nf4" : "fp4";
    std::string state = "{\"quant_type\": \"" + kind + "\", \"blocksize\": " + std::to_string(block) +
                        ", \"dtype\": \"bfloat16\", \"shape\": [" + std::to_string(rows) + ", " + std::to_string(cols) +
                        "]";
    if (nested != 0) {
        char text[64];
        std::snprintf(text, sizeof text, "%.17g", static_cast<double>(offset));
        state += ", \"nested_blocksize\": " + std::to_string(nested) +
                 ", \"nested_dtype\": \"float32\", \"nested_offset\": " + text;
    }
    state += "}";
    made.tensors = {{"l.weight", "U8", {weight.size(), 1}, weight},
                    {"l.weight.absmax", nested != 0 ? "U8" : "F32", {blocks}, absmax},
                    {"l.weight.quant_map", "F32", {16}, float_bytes(map)}};
    if (nested != 0) {
        made.tensors.push_back({"l.weight.nested_absmax", "F32", {nested_absmax.size() / 4}, nested_absmax});
        made.tensors.push_back({"l.weight.nested_quant_map", "F32", {256}, float_bytes(nested_map)});
    }
    made.tensors.push_back(
        {"l.weight.quant_state.bitsandbytes__" + kind, "U8", {state.size()}, byte_writer().raw(state).take()});
    return made;
}

} // namespace nibble_test
