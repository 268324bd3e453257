// isa.hpp: what one machine can do, as a concept; the primitives that kernels are written in.
#pragma once

#include <nibble/core/config.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>

namespace nibble::inline NIBBLE_ABI {

// An instruction set is a type with lanes of 8 outputs and static functions on them. generic.hpp defines every one in
// plain C++ and is the contract: an ISA inherits from it and replaces what its machine does better, and each
// replacement must give the same bits.
//   f32, i32          8 lanes of fp32 / int32
//   bytes             32 bytes: 8 rows x 4 columns of codes, or four activations for every row
//   words             16 int16: 8 rows x 2 columns
//   sums              what integer products are summed in (int16 or int32 lanes)
// A type that serves tiles alone (tile_isa below) may have vectors of twice that length, and says so in `width`.
template <class Isa>
concept isa = requires(const float* from, float* to, typename Isa::f32 a, const std::int32_t* pair, typename Isa::bytes b,
                       typename Isa::sums s, typename Isa::i32 i) {
    { Isa::name } -> std::convertible_to<const char*>;
    { Isa::load(from) } -> std::same_as<typename Isa::f32>;
    Isa::store(to, a);
    { Isa::fma(a, a, a) } -> std::same_as<typename Isa::f32>;
    { Isa::dot_start(pair, 0) } -> std::same_as<typename Isa::sums>;
    { Isa::dot(s, b, b) } -> std::same_as<typename Isa::sums>;
    { Isa::dot_finish(s) } -> std::same_as<typename Isa::i32>;
    { Isa::to_float(i) } -> std::same_as<typename Isa::f32>;
};

namespace detail {

// The instruction set of tiles over unpacked lanes: an ISA itself, unless its header names a wider one, whose vectors hold all
// 16 rows of a panel.
template <isa Isa>
struct tile_isa {
    using type = Isa;
};
template <isa Isa>
using tile_isa_of = typename tile_isa<Isa>::type;

} // namespace detail

} // namespace nibble::inline NIBBLE_ABI
