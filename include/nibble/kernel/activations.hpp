// kernel/activations.hpp: activations in the order a tile reads them: int8 or int16 quads, or fp32 columns, token by token.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/view.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/kernel/quantize.hpp>
#include <nibble/tensor/layout.hpp>

#include <cstddef>
#include <cstdint>

namespace nibble::inline NIBBLE_ABI::kernel {

// How a row of activations is cut: parts as the weights have them, each part into phases of equal length over which sums
// are kept.
struct phase_plan {
    std::size_t per_part = 1; // phases of a full part
    std::size_t quads = 1;    // quads per phase; a part's last phase may be shorter
    // At most `longest` quads, which must be no less than a step: phases begin on steps, as tiles that read the packed
    // stream unpack a step at a time.
    [[nodiscard]] static constexpr phase_plan make(const detail::depth_plan& depth, std::size_t longest) noexcept {
        phase_plan p{};
        const std::size_t step_quads = depth.step / panel_layout::quad;
        const std::size_t part_steps = detail::max_of<std::size_t>(1, depth.padded_part / depth.step);
        p.per_part = detail::ceil_div(part_steps, longest / step_quads);
        p.quads = detail::ceil_div(part_steps, p.per_part) * step_quads;
        return p;
    }
};

// Quantized activations of one block of tokens (at most 4), as one tile reads them.
//   values      narrow: [quad][token][4] int8; wide: [quad][token] four int16 in the order of columns 0 2 1 3
//   pair_sums   [part x per_part + phase][token]: sums over columns 0, 1 and over columns 2, 3 of every quad, two int16
//   part_sums   [part][token]: the sum of the part's values (times its scale if scales are per part), as fp32
//   scales      [token], or [part][token]
struct activation_block {
    std::int8_t* values;
    std::int32_t* pair_sums;
    float* part_sums;
    float* scales;
};

// value = round(x x 127 / max|x|) clamped to +-127, scale = max|x| / 127, ties to even. A token (or part) with a NaN or
// an infinity gets the scale NaN, so that all its results are NaN; one whose magnitudes stay below 3.8e-37 becomes zero.
inline float quantize_row(const float* x, std::size_t count, std::int8_t* out, float largest, bool nonfinite) noexcept {
    const float inverse = static_cast<float>(detail::activation_limit) / largest;
    if (nonfinite || !detail::is_finite(inverse)) {
        for (std::size_t i = 0; i < count; ++i) out[i] = 0;
        return nonfinite ? detail::quiet_nan : 0.0f;
    }
    for (std::size_t i = 0; i < count; ++i) {
        float v = detail::round_even(x[i] * inverse);
        v = v > -127.0f ? v : -127.0f;
        v = v < 127.0f ? v : 127.0f;
        out[i] = static_cast<std::int8_t>(static_cast<std::int32_t>(v));
    }
    return largest / static_cast<float>(detail::activation_limit);
}

// Quantizes tokens [first, first + tokens) of x into a block; `row` is scratch for depth.padded bytes.
template <bool Wide>
inline void quantize_block_of_tokens(matrix_view<const float> x, std::size_t first, std::size_t tokens,
                                     const detail::depth_plan& depth, const phase_plan& phases, bool per_part,
                                     const activation_block& out, std::int8_t* row) noexcept {
    for (std::size_t t = 0; t < tokens; ++t) {
        const float* from = x.row(first + t);
        float scale = 0.0f;
        group_statistics whole{};
        if (!per_part) whole = measure(from, x.cols(), false);
        for (std::size_t part = 0; part < depth.count; ++part) {
            const std::size_t n = depth.columns(part);
            const std::size_t begin = depth.begin(part);
            const std::size_t padded = detail::round_up(n, depth.step);
            const float* columns = from + depth.column(part);
            const group_statistics g = per_part ? measure(columns, n, false) : whole;
            scale = quantize_row(columns, n, row + begin, g.largest, g.nonfinite);
            for (std::size_t i = n; i < padded; ++i) row[begin + i] = 0;
            // Sums by phase.
            std::int32_t total = 0;
            const std::size_t quads = padded / panel_layout::quad;
            for (std::size_t phase = 0, q = 0; q < quads; ++phase, q += phases.quads) {
                std::int32_t low = 0;
                std::int32_t high = 0;
                const std::int8_t* v = row + begin + q * panel_layout::quad;
                const std::size_t m = detail::min_of(phases.quads, quads - q);
                for (std::size_t i = 0; i < m; ++i) {
                    low += v[4 * i] + v[4 * i + 1];
                    high += v[4 * i + 2] + v[4 * i + 3];
                }
                total += low + high;
                out.pair_sums[(part * phases.per_part + phase) * tokens + t] = static_cast<std::int32_t>(
                    static_cast<std::uint16_t>(low) | (static_cast<std::uint32_t>(static_cast<std::uint16_t>(high)) << 16));
            }
            const float sum = static_cast<float>(total);
            out.part_sums[part * tokens + t] = per_part ? sum * scale : sum;
            if (per_part) out.scales[part * tokens + t] = scale;
        }
        if (!per_part) out.scales[t] = scale;
        const std::size_t quads = depth.padded / panel_layout::quad;
        if constexpr (Wide) {
            auto* to = reinterpret_cast<std::int16_t*>(out.values) + 4 * t;
            for (std::size_t q = 0; q < quads; ++q, to += 4 * tokens) {
                to[0] = row[4 * q];
                to[1] = row[4 * q + 2];
                to[2] = row[4 * q + 1];
                to[3] = row[4 * q + 3];
            }
        } else {
            std::int8_t* to = out.values + 4 * t;
            for (std::size_t q = 0; q < quads; ++q, to += 4 * tokens) __builtin_memcpy(to, row + 4 * q, 4);
        }
    }
}

// fp32 activations of one block of tokens: values [padded column][token], zeros where columns are padded, and the sum of
// each part's columns in order, [part][token].
inline void copy_block_of_tokens(matrix_view<const float> x, std::size_t first, std::size_t tokens,
                                 const detail::depth_plan& depth, float* values, float* part_sums) noexcept {
    for (std::size_t t = 0; t < tokens; ++t) {
        const float* from = x.row(first + t);
        for (std::size_t part = 0; part < depth.count; ++part) {
            const std::size_t n = depth.columns(part);
            const float* columns = from + depth.column(part);
            float* to = values + depth.begin(part) * tokens + t;
            float sum = 0.0f;
            for (std::size_t i = 0; i < n; ++i) {
                to[i * tokens] = columns[i];
                sum += columns[i];
            }
            for (std::size_t i = n; i < detail::round_up(n, depth.step); ++i) to[i * tokens] = 0.0f;
            part_sums[part * tokens + t] = sum;
        }
    }
}

} // namespace nibble::inline NIBBLE_ABI::kernel
