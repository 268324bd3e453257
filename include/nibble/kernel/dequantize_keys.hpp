// kernel/dequantize_keys.hpp: panels of stored keys as fp32, for what is done to keys between the cache and the
// product.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/isa/lanes.hpp>
#include <nibble/kernel/attention_keys.hpp>
#include <nibble/kernel/attention_side.hpp>
#include <nibble/kernel/gemm_plan.hpp>
#include <nibble/kernel/softmax.hpp>
#include <nibble/tensor/kv_layout.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

template <isa Isa, class Keys> class panel_decoder {
    using format = detail::key_format<Keys>;
    using side = attention_side<Isa, typename format::scheme_type, false>;
    static constexpr std::size_t rows = panel_layout::rows;

public:
    // Without `used` it takes no memory, and is not to be asked.
    panel_decoder(const detail::plain_key_layout& keys, float fixed, bool used, arena& memory) noexcept
        : keys_(keys), fixed_(fixed) {
        const std::size_t slots = used ? detail::max_of(rows, detail::round_up(keys.channels, 8)) : 0;
        scales_ = memory.take<float>(slots);
        minimums_ = memory.take<float>(slots);
        lanes_ = memory.take<std::byte>(used && !side::plain ? keys.depth.padded * side::lane_bytes : 0);
    }

    // out[channel][16 tokens] of panel p of a piece, + mean[channel] where there is one.
    NIBBLE_NOINLINE void decode(const key_piece& piece, std::size_t p, const float* mean, float* out) noexcept {
        const std::byte* lanes_at = piece.codes + p * keys_.panel_bytes;
        if constexpr (!side::plain) {
            side::unpack(lanes_at, keys_.depth.padded, lanes_);
            lanes_at = lanes_;
        }
        const auto* from = reinterpret_cast<const float*>(lanes_at);
        const auto* scales = reinterpret_cast<const typename side::scale_code*>(piece.scales);
        const auto* zeros = reinterpret_cast<const typename side::zero_code*>(piece.zeros);
        using L = token_lanes<Isa>;
        if constexpr (format::tokens_per_group != 0) {
            const std::size_t slot = (piece.begun + p) / (format::tokens_per_group / rows) * keys_.slots;
            side::decode_channel_scales(scales + slot, zeros + slot, keys_.channels, fixed_, scales_, minimums_);
            for (std::size_t c = 0; c < keys_.channels; ++c) {
                const L scale(scales_[c]), minimum(side::has_minimum ? minimums_[c] : 0.0f);
                const L add(mean != nullptr ? mean[c] : 0.0f);
                for (std::size_t t = 0; t < rows; t += L::width)
                    one(from + c * rows + t, scale, minimum, add).store(out + c * rows + t, L::width);
            }
        } else {
            for (std::size_t g = 0; g < keys_.depth.count; ++g) {
                const std::size_t slot = p * keys_.slots + g * rows;
                side::decode_scales(scales + slot, zeros + slot, rows, fixed_, scales_, minimums_);
                const float* own = from + keys_.depth.begin(g) * rows;
                for (std::size_t i = 0; i < keys_.depth.columns(g); ++i) {
                    const std::size_t c = keys_.depth.column(g) + i;
                    const L add(mean != nullptr ? mean[c] : 0.0f);
                    for (std::size_t t = 0; t < rows; t += L::width) {
                        const L scale = L::load(scales_ + t, L::width);
                        const L minimum = side::has_minimum ? L::load(minimums_ + t, L::width) : L(0.0f);
                        one(own + i * rows + t, scale, minimum, add).store(out + c * rows + t, L::width);
                    }
                }
            }
        }
    }

private:
    // lane x scale + minimum + mean.
    template <class L>
    [[nodiscard]] static NIBBLE_INLINE L one(const float* lane, const L& scale, const L& minimum,
                                             const L& add) noexcept {
        if constexpr (side::has_minimum)
            return fma(L::load(lane, L::width), scale, minimum) + add;
        else
            return fma(L::load(lane, L::width), scale, add);
    }

    const detail::plain_key_layout& keys_;
    float fixed_;
    float* scales_ = nullptr;
    float* minimums_ = nullptr;
    std::byte* lanes_ = nullptr;
};

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
