// isa.hpp: what one machine can do, as a concept: the primitives that kernels are written in, and the facts they are
// planned by.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/element/float32.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// ---- facts -------------------------------------------------------------------------------------------------------

// The numbers of tokens that register tiles exist for: 1 ... `shorter`, and `longest`.
struct token_tiles {
    std::size_t longest = 4;
    std::size_t shorter = 4;
    [[nodiscard]] friend constexpr bool operator==(const token_tiles&, const token_tiles&) noexcept = default;
};

// What kernels are planned by. The order of prepared activations depends on the first five: they are alike for all
// ISAs that a unit lists (dispatch/fixed.hpp), so that what was prepared once serves each of them.
struct isa_facts {
    bool dots_in_int32 = false;       // are four byte products summed in int32 by one instruction?
    token_tiles integer_tiles{};      // of tiles of integers
    token_tiles float_tiles{};        // of tiles of fp32
    bool matrix_tiles = false;        // has it `matrix_tiles` (matrix_tiles.hpp)?
    bool exact_byte_products = false; // is `add_quads` exact whatever the codes and the activations?
    bool starts_from_sums = false;    // does dot_start need the sums of the activations even if the centre is 0?
    std::size_t vector_registers = 16;
    std::size_t unrolled_quads = 4; // quads of columns in a turn of the loop of several sums, at most: the compiler's
                                    // scheduler for this machine must leave all in registers
    bool prefetches_second_level =
        false; // does what is read much later go to the second-level cache? (streamed codes of 4 bits or more)

    [[nodiscard]] constexpr bool prepares_alike(const isa_facts& other) const noexcept {
        return dots_in_int32 == other.dots_in_int32 && integer_tiles == other.integer_tiles &&
               float_tiles == other.float_tiles && matrix_tiles == other.matrix_tiles &&
               exact_byte_products == other.exact_byte_products;
    }
};

// Distances in bytes that depend on the processor and not on its instructions: `Isa::tuning()` gives those of the one
// that runs this, where it is known.
struct isa_tuning {
    std::size_t one_stream = 2048;      // how far ahead of its reads a tile of one panel prefetches,
    std::size_t several_streams = 1536; // and one of several panels, in each of them
    [[nodiscard]] constexpr std::size_t prefetch_distance(std::size_t streams) const noexcept {
        return streams <= 1 ? one_stream : several_streams;
    }
};

// ---- primitives --------------------------------------------------------------------------------------------------

// An instruction set is a type with lanes of `width` outputs, 8, and static functions on them. generic.hpp defines
// every one in plain C++ and is the contract: an ISA inherits from it and replaces what its machine does better, and
// each replacement must give the same bits. README.md has the table of who replaces what.
//   f32, i32          lanes of fp32 / int32
//   bytes             4 per lane: rows x 4 columns of codes, or four activations for every row
//   words             2 int16 per lane: rows x 2 columns
//   sums              what integer products are summed in (int16 or int32 lanes)
template <class Isa>
concept float_lanes = requires(const float* from, float* to, std::int8_t* rounded, typename Isa::f32 a,
                               std::size_t count, double* wide, const detail::table<float, 16>& list) {
    { Isa::load(from) } -> std::same_as<typename Isa::f32>;
    { Isa::load_some(from, count) } -> std::same_as<typename Isa::f32>;
    { Isa::broadcast(1.0f) } -> std::same_as<typename Isa::f32>;
    { Isa::add(a, a) } -> std::same_as<typename Isa::f32>;
    { Isa::subtract(a, a) } -> std::same_as<typename Isa::f32>;
    { Isa::multiply(a, a) } -> std::same_as<typename Isa::f32>;
    { Isa::divide(a, a) } -> std::same_as<typename Isa::f32>;
    { Isa::fma(a, a, a) } -> std::same_as<typename Isa::f32>;
    { Isa::smaller(a, a) } -> std::same_as<typename Isa::f32>;
    { Isa::larger(a, a) } -> std::same_as<typename Isa::f32>;
    { Isa::select_less(a, a, a, a) } -> std::same_as<typename Isa::f32>;
    { Isa::absolute(a) } -> std::same_as<typename Isa::f32>;
    { Isa::copy_sign(a, a) } -> std::same_as<typename Isa::f32>;
    { Isa::duplicate_even(a) } -> std::same_as<typename Isa::f32>;
    { Isa::duplicate_odd(a) } -> std::same_as<typename Isa::f32>;
    { Isa::round(a) } -> std::same_as<typename Isa::f32>;
    { Isa::exp2i(a) } -> std::same_as<typename Isa::f32>;
    { Isa::power_below(a) } -> std::same_as<typename Isa::f32>;
    { Isa::value_between(list, list, a) } -> std::same_as<typename Isa::f32>;
    Isa::keep(a);
    // stores
    Isa::store(to, a);
    Isa::store_some(to, a, count);
    Isa::store_wide(wide, a);
    Isa::store_rounded(rounded, a);
};

template <class Isa>
concept byte_dots =
    requires(const std::uint8_t* codes, const std::int8_t* activations, const std::int32_t* pair, std::int32_t* to,
             typename Isa::bytes b, typename Isa::words w, typename Isa::i32 i, typename Isa::sums s) {
        { Isa::load_bytes(codes) } -> std::same_as<typename Isa::bytes>;
        { Isa::broadcast4(activations) } -> std::same_as<typename Isa::bytes>;
        { Isa::template join<4>(b, b) } -> std::same_as<typename Isa::bytes>;
        { Isa::dot_start(pair, 0) } -> std::same_as<typename Isa::sums>;
        { Isa::dot(s, b, b) } -> std::same_as<typename Isa::sums>;
        { Isa::dot_finish(s) } -> std::same_as<typename Isa::i32>;
        { Isa::add_finished(i, s) } -> std::same_as<typename Isa::i32>;
        { Isa::load_words(pair) } -> std::same_as<typename Isa::words>;
        { Isa::broadcast2(pair) } -> std::same_as<typename Isa::words>;
        { Isa::add_pairs(i, w, w) } -> std::same_as<typename Isa::i32>;
        { Isa::zeros() } -> std::same_as<typename Isa::i32>;
        { Isa::add(i, i) } -> std::same_as<typename Isa::i32>;
        { Isa::load(pair) } -> std::same_as<typename Isa::i32>;
        { Isa::to_float(i) } -> std::same_as<typename Isa::f32>;
        { Isa::as_i32(b) } -> std::same_as<typename Isa::i32>;
        Isa::pin(s);
        // stores
        Isa::store(to, i);
    };
// What unpacking takes besides.
template <class Isa>
concept code_fields =
    requires(const std::uint8_t* from, std::uint8_t* to, std::int16_t* words, const std::int32_t* pair,
             typename Isa::bytes b, typename Isa::words w, typename Isa::i32 i) {
        { Isa::low_nibbles(b) } -> std::same_as<typename Isa::bytes>;
        { Isa::high_nibbles(b) } -> std::same_as<typename Isa::bytes>;
        { Isa::template field<2, 3>(b) } -> std::same_as<typename Isa::bytes>;
        { Isa::even_words(b) } -> std::same_as<typename Isa::words>;
        { Isa::odd_words(b) } -> std::same_as<typename Isa::words>;
        { Isa::multiply_pairs(w, w) } -> std::same_as<typename Isa::i32>;
        { Isa::pairs_start(pair, 0) } -> std::same_as<typename Isa::i32>;
        { Isa::add_quads(i, b, b) } -> std::same_as<typename Isa::i32>;
        { Isa::subtract(i, i) } -> std::same_as<typename Isa::i32>;
        // stores
        Isa::store_bytes(to, b);
        Isa::store_words(words, w);
    };

// `decodes<E>`: are codes of E decoded here? By an ISA always; by what it has for panels (below) where that is worth
// while.
template <class Isa>
concept decoders = requires(const std::uint32_t* from) {
    requires Isa::template decodes<f32>;
    { Isa::template decode_stored<f32>(from) } -> std::same_as<typename Isa::f32>;
    { Isa::template decode_exact<f32>(from) } -> std::same_as<typename Isa::f32>;
};

template <class Isa>
concept machine = requires(const void* at) {
    { Isa::name } -> std::convertible_to<const char*>;
    requires std::same_as<std::remove_const_t<decltype(Isa::width)>, std::size_t>;
    requires std::same_as<std::remove_const_t<decltype(Isa::facts)>, isa_facts>;
    { Isa::tuning() } -> std::same_as<isa_tuning>;
    Isa::prefetch(at);
    Isa::prefetch_second_level(at);
};

// What matrix_tiles.hpp defines, of machines that have it.
template <class Isa>
concept matrix_multiplier = requires {
    typename Isa::matrix_tiles::session;
    { Isa::matrix_tiles::usable() } -> std::same_as<bool>;
};

template <class Isa>
concept isa = machine<Isa> && float_lanes<Isa> && byte_dots<Isa>;

// An ISA that programs can choose: all of it.
template <class Isa>
concept whole_isa = isa<Isa> && code_fields<Isa> && decoders<Isa> && Isa::width == 8 &&
                    (!Isa::facts.matrix_tiles || matrix_multiplier<Isa>);

namespace detail {

// What tiles over unpacked lanes use: an ISA itself, or vectors of twice the length, which hold all 16 rows of a panel,
// that it names as `panel_isa`. These have float_lanes, byte_dots and their own `fields` (as `field`, of both halves of
// a panel), and decode what they say.
template <isa Isa> struct panel_isa {
    using type = Isa;
};
template <isa Isa>
    requires requires { typename Isa::panel_isa; }
struct panel_isa<Isa> {
    using type = std::conditional_t<std::is_void_v<typename Isa::panel_isa>, Isa, typename Isa::panel_isa>;
};
template <isa Isa> using panel_isa_of = typename panel_isa<Isa>::type;

// Does one vector hold all rows of a panel?
template <isa Isa> inline constexpr bool panel_in_one_vector = panel_isa_of<Isa>::width == 16;

} // namespace detail

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
