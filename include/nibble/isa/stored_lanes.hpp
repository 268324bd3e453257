// isa/stored_lanes.hpp: lanes from and to numbers in memory, fp32, fp16 or bf16, whole vectors and what is left at a
// row's end.
#pragma once

#include <nibble/core/config.hpp>
#include <nibble/element/float16.hpp>
#include <nibble/element/float32.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/isa/lanes.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// The first `count` (at most 8) numbers at `from`, exactly, zeros above; reads nothing beyond them.
template <isa Isa, stored_float T>
[[nodiscard]] NIBBLE_INLINE lanes<Isa> load_lanes(const T* from, std::size_t count) noexcept {
    if constexpr (std::same_as<T, float>) {
        return lanes<Isa>::load(from, count);
    } else {
        const auto* words = reinterpret_cast<const std::uint16_t*>(from);
        if (count == lanes<Isa>::width) return lanes<Isa>(Isa::template decode_stored<typename T::codec>(words));
        std::uint16_t some[lanes<Isa>::width] = {};
        __builtin_memcpy(some, words, count * sizeof(std::uint16_t));
        return lanes<Isa>(Isa::template decode_stored<typename T::codec>(some));
    }
}

// The first `count` lanes to `to`, each rounded once as T's constructor does; writes nothing beyond them.
template <isa Isa, stored_float T>
NIBBLE_INLINE void store_lanes(T* to, const lanes<Isa>& x, std::size_t count) noexcept {
    if constexpr (std::same_as<T, float>) {
        x.store(to, count);
    } else {
        auto* words = reinterpret_cast<std::uint16_t*>(to);
        if (count == lanes<Isa>::width) {
            Isa::template encode_stored<typename T::codec>(words, x.value);
        } else {
            std::uint16_t all[lanes<Isa>::width];
            Isa::template encode_stored<typename T::codec>(all, x.value);
            __builtin_memcpy(words, all, count * sizeof(std::uint16_t));
        }
    }
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
