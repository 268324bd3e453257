// verbs_slice.hpp: the templates behind verbs.hpp, instantiated for a share of the formats. CMake writes a source for
// each share, so that a build uses several cores and no unit takes long.
#pragma once

#include "../support/formats.hpp"
#include "tile_slices.hpp"
#include "verbs.hpp"
#if defined(NIBBLE_TEST_KINDS_ONLY)
#include "../../tests/support/kinds.hpp"
#endif

#include <nibble/gemm.hpp>
#include <nibble/pack.hpp>
#include <nibble/quantize.hpp>
#include <nibble/scheme/formats.hpp>

#include <cstddef>
#include <utility>

namespace bench {

template <class S>
nibble::quantized<S> verbs<S>::quantize(nibble::matrix_view<const float> weights,
                                        const nibble::quantize_options& options, executor_ref threads) {
    return nibble::quantize<S>(weights, options, threads);
}
template <class S>
void verbs<S>::dequantize(const nibble::quantized<S>& weights, nibble::matrix_view<float> out, executor_ref threads) {
    nibble::dequantize(weights, out, threads);
}
template <class S> nibble::packed<S> verbs<S>::pack(const nibble::quantized<S>& weights, executor_ref threads) {
    return nibble::pack(weights, threads);
}
template <class S>
void verbs<S>::gemm(nibble::matrix_view<const float> x, const nibble::packed<S>& weights, nibble::matrix_view<float> y,
                    const nibble::gemm_options& options, executor_ref threads) {
    nibble::gemm(x, weights, y, nibble::identity{}, options, threads);
}

namespace detail {

// Volatile, so that no optimiser knows the answer and leaves the functions out.
template <class Function> [[nodiscard]] bool there(Function* function) {
    Function* volatile at = function;
    return at != nullptr;
}
template <class S> [[nodiscard]] bool instantiated() {
    return there(&verbs<S>::quantize) && there(&verbs<S>::dequantize) && there(&verbs<S>::pack) &&
           there(&verbs<S>::gemm)
#if defined(NIBBLE_TEST_SEAMS)
           // What tests/support/seams.hpp says is here.
           && there(&nibble::quantize<S, nibble::serial>) && there(&nibble::pack<S, nibble::serial>) &&
           there(&nibble::dequantize<nibble::best_isa, S, nibble::serial>) &&
           there(&nibble::kernel::sum_group<nibble::best_isa, S, false>)
#endif
        ;
}

// Narrowed builds of the tests, which have no benchmarks, compile the formats that these test.
#if defined(NIBBLE_TEST_KINDS_ONLY)
template <std::size_t Index, class Format> inline constexpr bool wanted = nibble_test::tested<Index, Format>;
#else
template <std::size_t, class> inline constexpr bool wanted = true;
#endif

template <std::size_t Slice, std::size_t Slices, class... Formats>
[[nodiscard]] bool instantiated_slice_of(nibble::format_list<Formats...>) {
    static constexpr auto slice_of = tile_slices<Slices>(nibble::format_list<Formats...>{});
    return [&]<std::size_t... Index>(std::index_sequence<Index...>) {
        const auto one = [&]<std::size_t I, class Format>() {
            if constexpr (slice_of[I] == Slice && wanted<I, Format>)
                return instantiated<typename Format::scheme>();
            else
                return true;
        };
        return (one.template operator()<Index, Formats>() && ...);
    }(std::index_sequence_for<Formats...>{});
}

} // namespace detail

// Has all verbs of that share of the formats instantiated, since it takes their addresses. Formats with the same tiles
// are in one share, so that these are compiled once.
template <std::size_t Slice, std::size_t Slices> [[nodiscard]] bool instantiated_slice() {
    return detail::instantiated_slice_of<Slice, Slices>(formats{});
}

} // namespace bench
