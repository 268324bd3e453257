// codebook.hpp: elements whose values are a list; nf4 and yours.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/levels.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// Levels::levels is a static constexpr array of 2 to 256 distinct finite floats; code c means levels[c]. If they are
// not a power of two in number, the codes above are never produced and decode to the last level. Rounding: under
// nearest_even a value halfway between two levels, the middle rounded to fp32, goes to the lower one, as bitsandbytes
// has it for NF4; every other rounding is as `rounding` says. NaN is encoded as 0 would be.
template <class Levels> struct codebook {
    static constexpr std::size_t count = sizeof(Levels::levels) / sizeof(float);
    static_assert(count >= 2 && count <= 256, "codebook: 2 to 256 levels");
    static constexpr int bits = detail::bit_width(count - 1);
    using code = std::uint8_t;

private:
    struct order {
        detail::table<float, count> values{};
        detail::table<std::uint8_t, count> codes{};
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
        return o;
    }();
    static constexpr bool valid = [] {
        for (std::size_t i = 0; i < count; ++i)
            if (!detail::is_finite(ascending.values.at[i]) ||
                (i > 0 && ascending.values.at[i] == ascending.values.at[i - 1]))
                return false;
        return true;
    }();
    static_assert(valid, "codebook: levels must be finite and distinct");
    // For levels.hpp, by value: what is constant there must not depend on this class being complete.
    struct list {
        static constexpr std::size_t count = codebook::count;
        static constexpr detail::list_tie ties = detail::list_tie::down;
        static constexpr order sorted = ascending;
    };

public:
    [[nodiscard]] static constexpr float decode(code c) noexcept {
        const std::size_t masked = c & ((std::size_t{1} << bits) - 1);
        return Levels::levels[masked < count ? masked : count - 1];
    }
    template <rounding Rounding = rounding::nearest_even, overflow = overflow::saturate>
    [[nodiscard]] NIBBLE_INLINE static constexpr code encode(float x, std::uint32_t random = 0) noexcept {
        return detail::encode_level<list, Rounding>(x, random);
    }
};

// NF4 of QLoRA (Dettmers et al., 2023): the quantiles of a normal distribution, 0 and +-1 among them.
struct nf4_levels {
    static constexpr float levels[16] = {-1.0f,
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
};
using nf4 = codebook<nf4_levels>;

static_assert(nf4::bits == 4 && nf4::encode(-0.05f) == 6 && nf4::encode(0.05f) == 8 && nf4::encode(0.3f) == 11);
static_assert(nf4::encode(0.87f) == 15 && nf4::encode(-9.0f) == 0 && nf4::decode(15) == 1.0f);

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
