// kernel/dequantize.hpp: the loop behind dequantize: codes of a group to fp32 values.
#pragma once

#include <nibble/core/config.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/kernel/quantize.hpp>
#include <nibble/scheme/scheme.hpp>

#include <cstddef>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// The values of `count` codes of one scale group, as quantized::value_at has them. Reads up to 7 codes more than there
// are.
template <isa Isa, any_scheme S>
NIBBLE_INLINE void decode_group(const typename detail::scheme_traits<S>::code* codes, std::size_t count, float scale,
                                float zero, float* out) noexcept {
    using element = typename detail::scheme_traits<S>::element;
    using f32 = typename Isa::f32;
    const f32 s = Isa::broadcast(scale);
    const f32 z = Isa::broadcast(zero);
    const auto value = [&](std::size_t i) NIBBLE_INLINE_LAMBDA -> f32 {
        const f32 plain = Isa::template decode_exact<element>(codes + i);
        if constexpr (!S::scaled)
            return plain;
        else if constexpr (S::has_integer_zero)
            return Isa::multiply(s, Isa::subtract(plain, z));
        else if constexpr (S::has_minimum)
            return Isa::fma(s, plain, z);
        else
            return Isa::multiply(s, plain);
    };
    std::size_t i = 0;
    for (; i + Isa::width <= count; i += Isa::width) Isa::store(out + i, value(i));
    if (i < count) Isa::store_some(out + i, value(i), count - i);
}

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
