// synthetic.hpp: weights and activations drawn like a language model's, the same bits with every compiler and library.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bench {

// A counter-based generator: draw number `index` of stream `stream`, in any order and from any thread. The finalizer is
// SplitMix64's. No std:: distribution is used, because they differ from one library to the next.
[[nodiscard]] constexpr std::uint64_t random_bits(std::uint64_t stream, std::uint64_t index) noexcept {
    std::uint64_t z = index * 0x9e3779b97f4a7c15u + stream * 0xd1342543de82ef95u + 0x632be59bd9b4e019u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    z = (z ^ (z >> 32)) * 0xd6e8feb86659fd93u;
    return z ^ (z >> 32);
}

namespace detail {

[[nodiscard]] constexpr std::int64_t sum_of_quarters(std::uint64_t bits) noexcept {
    std::int64_t sum = 0;
    for (int i = 0; i < 4; ++i) sum += static_cast<std::int64_t>((bits >> (16 * i)) & 0xffff);
    return sum;
}

// A bell of standard deviation 1 that ends at 4.9: the sum of eight uniform 16-bit integers. Sums of integers and one
// product are exact or rounded once, so neither contraction nor a math library can change a bit.
[[nodiscard]] constexpr float bell(std::uint64_t stream, std::uint64_t index) noexcept {
    const std::int64_t sum = sum_of_quarters(random_bits(stream, 2 * index)) +
                             sum_of_quarters(random_bits(stream, 2 * index + 1)) - 4 * 65535;
    return static_cast<float>(sum) * (1.0f / 53510.0f); // 65536 sqrt(8 / 12)
}

// (low + [0, width)) / 1024, exactly.
[[nodiscard]] constexpr float factor(std::uint64_t bits, unsigned low, unsigned width) noexcept {
    return static_cast<float>(low + bits % width) / 1024.0f;
}

} // namespace detail

struct random_streams {
    std::uint64_t seed = 1;
    enum : std::uint64_t { weight, weight_row, weight_column, weight_tail, activation, token, channel, tail, count };
    [[nodiscard]] constexpr std::uint64_t operator()(std::uint64_t which) const noexcept {
        return seed * count + which;
    }
};

// Row `row` of a weight matrix: a bell of standard deviation about 0.02, one value in 16 drawn 1.75 times as wide
// (excess kurtosis about 0.5, like a trained linear layer), rows between 0.6 and 1.6 of that, and one input channel in
// 256 2 to 4 times as large.
inline void synthetic_weight_row(std::size_t row, float* out, std::size_t cols, std::uint64_t seed = 1) noexcept {
    const random_streams stream{seed};
    const float row_factor = 0.02f * detail::factor(random_bits(stream(stream.weight_row), row), 614, 1024);
    for (std::size_t k = 0; k < cols; ++k) {
        const std::uint64_t column = random_bits(stream(stream.weight_column), k);
        const std::uint64_t index = static_cast<std::uint64_t>(row) << 32 | k;
        float value = detail::bell(stream(stream.weight), index) * row_factor;
        if (random_bits(stream(stream.weight_tail), index) % 16 == 0) value *= 1.75f;
        if (column % 256 == 0) value *= detail::factor(column >> 32, 2048, 2048);
        out[k] = value;
    }
}

// Token `token` of an activation matrix: a bell of standard deviation about 1, tokens between 0.6 and 1.6 of that, one
// value in 32 three times as wide, and the outlier channels that make activations hard: one in 256, 4 to 20 times as
// large.
inline void synthetic_activation_row(std::size_t token, float* out, std::size_t cols, std::uint64_t seed = 1) noexcept {
    const random_streams stream{seed};
    const float token_factor = detail::factor(random_bits(stream(stream.token), token), 614, 1024);
    for (std::size_t k = 0; k < cols; ++k) {
        const std::uint64_t channel = random_bits(stream(stream.channel), k);
        const std::uint64_t index = static_cast<std::uint64_t>(token) << 32 | k;
        float value = detail::bell(stream(stream.activation), index) * token_factor;
        if (random_bits(stream(stream.tail), index) % 32 == 0) value *= 3.0f;
        if (channel % 256 == 0) value *= detail::factor(channel >> 32, 4096, 16384);
        out[k] = value;
    }
}

} // namespace bench
