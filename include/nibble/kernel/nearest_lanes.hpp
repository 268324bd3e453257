// kernel/nearest_lanes.hpp: the values of an element nearest to lanes of fp32, in the fewest operations that its values
// allow.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/element.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/isa/lanes.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// The values that encoders of E produce reach from lowest<E> to this.
template <element E> inline constexpr float highest = E::decode(encode<E>(3.4028234e38f));

// Does E have the values of a binary float of so many bits behind its leading one, and their negatives? From `unit` on,
// the smallest of them, equal steps up to 2^(bits + 1) units, then twice as large ones for each power of two, and an
// end anywhere.
struct float_grid {
    bool exists = false;
    bool symmetric = false; // a list with 0 and the negatives of all values, float or not
    int bits = 0;
    float unit = 0.0f;
};
template <element E>
inline constexpr float_grid float_grid_of = [] {
    float_grid g{};
    if constexpr (E::bits > 8) {
        return g;
    } else {
        constexpr const detail::grid<E>& sorted = detail::sorted_grid<E>;
        if constexpr (sorted.count >= 3 && sorted.count % 2 == 1) {
            const std::size_t middle = sorted.count / 2;
            for (std::size_t i = 0; i <= middle; ++i)
                if (sorted.values.at[middle + i] != -sorted.values.at[middle - i]) return g;
            g.symmetric = true;
            g.unit = sorted.values.at[middle + 1];
            for (g.bits = 0; g.bits < 7 && !g.exists; ++g.bits) {
                bool same = true;
                float value = 0.0f;
                float step = g.unit;
                float power = g.unit * static_cast<float>(2 << g.bits); // where steps double
                for (std::size_t i = 1; i <= middle && same; ++i) {
                    value += step;
                    same = sorted.values.at[middle + i] == value;
                    if (value == power) {
                        step *= 2.0f;
                        power *= 2.0f;
                    }
                }
                g.exists = same;
                if (same) break;
            }
        }
        return g;
    }
}();

// The values of E from the one at `first` of its ascending list on, with the middles between them: of at most 16.
template <element E, std::size_t First> struct level_list {
    detail::table<float, 16> values{};
    detail::table<float, 16> thresholds{};
    static constexpr std::size_t count = detail::sorted_grid<E>.count - First;
    constexpr level_list() {
        for (std::size_t i = 0; i < 16; ++i) {
            const std::size_t at = detail::min_of(i, count - 1);
            values.at[i] = detail::sorted_grid<E>.values.at[First + at];
            thresholds.at[i] = detail::infinity;
            if (i + 1 < count)
                thresholds.at[i] = (values.at[i] + detail::sorted_grid<E>.values.at[First + i + 1]) * 0.5f;
        }
    }
};
template <element E, std::size_t First> inline constexpr level_list<E, First> levels_from{};

// The values of E nearest to t, of NaN any. Among equally near ones any: what a search tries need not be what encode
// gives.
template <element E, isa Isa> [[nodiscard]] NIBBLE_INLINE lanes<Isa> nearest_values(const lanes<Isa>& t) noexcept {
    using vector = lanes<Isa>;
    constexpr detail::integer_mapping g = detail::integer_mapping_of<E>;
    constexpr float_grid f = float_grid_of<E>;
    if constexpr (g.linear) {
        // 1.5 x 2^23 units: from here on fp32 has nothing between them. The addition cannot fuse with a product in
        // front: the limits stand between.
        const vector integers(12582912.0f * detail::exp2i(g.exponent));
        return (smaller(larger(t, vector(lowest<E>)), vector(highest<E>)) + integers) - integers;
    } else if constexpr (f.exists) {
        // The power of two at or below t, times 2^(23 - bits), leaves of a sum with it the bits that E has.
        const vector size = smaller(absolute(t), vector(largest<E>));
        const vector power = larger(power_below(size), vector(f.unit * static_cast<float>(1 << f.bits)));
        const vector magic = (power * vector(detail::exp2i(23 - f.bits))).kept(); // no fused operations
        return copy_sign((size + magic) - magic, t);
    } else {
        constexpr const detail::grid<E>& sorted = detail::sorted_grid<E>;
        constexpr std::size_t first = f.symmetric ? sorted.count / 2 : 0;
        const vector size = f.symmetric ? absolute(t) : t;
        vector value(sorted.values.at[first]);
        if constexpr (sorted.count - first <= 16) {
            value = value_between(levels_from<E, first>.values, levels_from<E, first>.thresholds, size);
        } else {
            for (std::size_t i = first; i + 1 < sorted.count; ++i) {
                const float below = sorted.values.at[i];
                const float above = sorted.values.at[i + 1];
                value = select_less(vector((below + above) * 0.5f), size, vector(above), value);
            }
        }
        return f.symmetric ? copy_sign(value, t) : value;
    }
}

// Of a single number.
template <element E, isa Isa> [[nodiscard]] NIBBLE_INLINE float nearest_value(float t) noexcept {
    float all[Isa::width];
    Isa::store(all, nearest_values<E>(lanes<Isa>(t)).value);
    return all[0];
}

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
