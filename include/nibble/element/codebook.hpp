// codebook.hpp: elements whose values are a list; nf4 and yours.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>

namespace nibble::inline NIBBLE_ABI {

// Levels::levels is a static constexpr array of 2 to 256 distinct finite floats; code c means levels[c]. If they are not
// a power of two in number, the codes above are never produced and decode to the last level.
// Rounding: nearest, and a value exactly halfway (in fp32) between two levels goes to the lower one, as bitsandbytes
// has it for NF4. NaN is encoded as 0 would be. half_away and nearest_even are the same here.
template <class Levels>
struct codebook {
    static constexpr std::size_t count = sizeof(Levels::levels) / sizeof(float);
    static_assert(count >= 2 && count <= 256, "codebook: 2 to 256 levels");
    static constexpr int bits = std::bit_width(count - 1);
    using code = std::uint8_t;

private:
    struct order {
        detail::table<float, count> values{};
        detail::table<std::uint8_t, count> codes{};
        detail::table<float, count> thresholds{}; // thresholds[i]: above it the answer is at least i + 1
    };
    static constexpr order ascending = [] {
        order o{};
        for (std::size_t c = 0; c < count; ++c) {
            const float v = Levels::levels[c];
            std::size_t at = c;
            for (; at > 0 && o.values.at[at - 1] > v; --at) {
                o.values.at[at] = o.values.at[at - 1];
                o.codes.at[at] = o.codes.at[at - 1];
            }
            o.values.at[at] = v;
            o.codes.at[at] = static_cast<std::uint8_t>(c);
        }
        for (std::size_t i = 0; i + 1 < count; ++i)
            o.thresholds.at[i] = static_cast<float>(
                (static_cast<double>(o.values.at[i]) + static_cast<double>(o.values.at[i + 1])) * 0.5);
        return o;
    }();
    static constexpr bool valid = [] {
        for (std::size_t i = 0; i < count; ++i)
            if (!detail::is_finite(ascending.values.at[i]) ||
                (i > 0 && ascending.values.at[i] == ascending.values.at[i - 1]))
                return false;
        return true;
    }();
    static constexpr bool in_order = [] {
        for (std::size_t i = 0; i < count; ++i)
            if (ascending.codes.at[i] != i) return false;
        return true;
    }();
    static_assert(valid, "codebook: levels must be finite and distinct");

public:
    [[nodiscard]] static constexpr float decode(code c) noexcept {
        const std::size_t masked = c & ((std::size_t{1} << bits) - 1);
        return Levels::levels[masked < count ? masked : count - 1];
    }
    template <rounding Rounding = rounding::nearest_even, overflow = overflow::saturate>
    [[nodiscard]] NIBBLE_INLINE static constexpr code encode(float x, std::uint32_t random = 0) noexcept {
        x = x == x ? x : 0.0f;
        if constexpr (Rounding == rounding::nearest_even || Rounding == rounding::half_away) {
            if constexpr (count <= 16) {
                // A sum of comparisons: branch-free, so that a loop over it vectorizes.
                std::uint32_t rank = 0;
                for (std::size_t i = 0; i + 1 < count; ++i) rank += x > ascending.thresholds.at[i] ? 1u : 0u;
                if constexpr (in_order)
                    return static_cast<code>(rank);
                else
                    return ascending.codes.at[rank];
            } else {
                std::size_t rank = 0;
                for (std::size_t step = std::bit_floor(count - 1); step > 0; step /= 2)
                    if (rank + step < count && x > ascending.thresholds.at[rank + step - 1]) rank += step;
                return ascending.codes.at[rank];
            }
        } else {
            if (x <= ascending.values.at[0]) return ascending.codes.at[0];
            if (x >= ascending.values.at[count - 1]) return ascending.codes.at[count - 1];
            std::size_t low = 0;
            while (low + 2 < count && ascending.values.at[low + 1] <= x) ++low;
            const float below = ascending.values.at[low];
            const float above = ascending.values.at[low + 1];
            bool up = false;
            if constexpr (Rounding == rounding::toward_zero) {
                up = x != below && detail::abs_of(above) < detail::abs_of(below);
            } else {
                const double chance = static_cast<double>(random) * 0x1p-32;
                up = chance * (static_cast<double>(above) - static_cast<double>(below)) <
                     static_cast<double>(x) - static_cast<double>(below);
            }
            return ascending.codes.at[up ? low + 1 : low];
        }
    }
};

// NF4 of QLoRA (Dettmers et al., 2023): the quantiles of a normal distribution, 0 and +-1 among them.
struct nf4_levels {
    static constexpr float levels[16] = {
        -1.0f,                 -0.6961928009986877f,  -0.5250730514526367f, -0.39491748809814453f,
        -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
        0.07958029955625534f,  0.16093020141124725f,  0.24611230194568634f, 0.33791524171829224f,
        0.44070982933044434f,  0.5626170039176941f,   0.7229568362236023f,  1.0f};
};
using nf4 = codebook<nf4_levels>;

static_assert(nf4::bits == 4 && nf4::encode(-0.05f) == 6 && nf4::encode(0.05f) == 8 && nf4::encode(0.3f) == 11);
static_assert(nf4::encode(0.87f) == 15 && nf4::encode(-9.0f) == 0 && nf4::decode(15) == 1.0f);

} // namespace nibble::inline NIBBLE_ABI
