// gemm_format_slice.hpp: the templates behind gemm_format.hpp; included by the sources that CMake writes for
// gemm/slices/ alone.
#pragma once

#include "../../bench/verbs/tile_slices.hpp"
#include "../../bench/verbs/verbs.hpp"
#include "gemm_format.hpp"
#include "kinds.hpp"

#include <nibble/epilogue/activation.hpp>
#include <nibble/epilogue/bias.hpp>
#include <nibble/epilogue/residual.hpp>
#include <nibble/epilogue/scale.hpp>
#include <nibble/gemm.hpp>
#include <nibble/prepare.hpp>
#include <nibble/quantize.hpp>
#include <nibble/scheme/formats.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

namespace gemm_test {

// What surrounds the sums differs from family to family alone, and takes long to compile.
#if defined(NIBBLE_TEST_EVERY_DIGEST)
inline constexpr bool every_digest = true;
#else
inline constexpr bool every_digest = false;
#endif

template <class S, bool AllIsas, bool Surrounded> class gemm_weights_of final : public gemm_weights {
public:
    explicit gemm_weights_of(const nibble::quantized<S>& q)
        : plain_(plain_of(q)), packed_(bench::verbs<S>::pack(q, nibble::serial{})) {}
    gemm_weights_of(plain_weights plain, nibble::packed<S> packed)
        : plain_(std::move(plain)), packed_(std::move(packed)) {}

    [[nodiscard]] const plain_weights& plain() const override { return plain_; }
    [[nodiscard]] std::size_t isas() const override {
        std::size_t count = 0;
        for_each_own_isa([&]<class I>() { ++count; });
        return count;
    }
    void gemm(std::size_t isa, nibble::matrix_view<const float> x, nibble::matrix_view<float> y,
              const nibble::gemm_options& options, const any_executor& threads) const override {
        std::size_t at = 0;
        for_each_own_isa([&]<class I>() {
            if (at++ != isa) return;
            if constexpr (std::is_same_v<I, nibble::best_isa>)
                bench::verbs<S>::gemm(x, packed_, y, options, threads);
            else
                nibble::gemm<I>(x, packed_, y, nibble::identity{}, options, threads);
        });
    }
    [[nodiscard]] bool surrounded() const override { return Surrounded; }
    void gemm_finished(std::size_t isa, nibble::matrix_view<const float> x, nibble::matrix_view<float> y,
                       std::span<const float> bias, nibble::matrix_view<const float> residual,
                       const nibble::gemm_options& options, const any_executor& threads) const override {
        const auto finish =
            nibble::scale_by{0.125f} | nibble::add_bias(bias) | nibble::gelu | nibble::add_residual(residual);
        std::size_t at = 0;
        for_each_own_isa([&]<class I>() {
            if constexpr (Surrounded)
                if (at++ == isa) nibble::gemm<I>(x, packed_, y, finish, options, threads);
        });
    }
    void gemm_prepared(std::size_t isa, nibble::matrix_view<const float> x, nibble::matrix_view<float> y,
                       const nibble::activation_options& prepared, const any_executor& threads) const override {
        std::size_t at = 0;
        for_each_own_isa([&]<class I>() {
            if constexpr (Surrounded)
                if (at++ == isa)
                    nibble::gemm<I>(nibble::prepare<S, I>(x, prepared, threads), packed_, y, nibble::identity{}, {},
                                    threads);
        });
    }
    [[nodiscard]] std::span<const std::byte> packed_bytes() const override {
        return {packed_.bytes() == 0 ? nullptr : packed_.panel(0), packed_.bytes()};
    }
    [[nodiscard]] std::size_t workspace_bytes(std::size_t tokens, std::size_t concurrency,
                                              const nibble::gemm_options& options) const override {
        std::size_t most = 0; // of calls on any of the ISAs
        for_each_own_isa([&]<class I>() {
            const std::size_t bytes = nibble::gemm_workspace_bytes<I>(packed_, tokens, concurrency, options);
            most = bytes > most ? bytes : most;
        });
        return most;
    }
    [[nodiscard]] std::unique_ptr<gemm_weights> copy_to(nibble::allocator from) const override {
        nibble::packed<S> copy(packed_.rows(), packed_.cols(), from);
        if (packed_.bytes() != 0) std::memcpy(copy.panel(0), packed_.panel(0), packed_.bytes());
        if constexpr (S::has_offset) copy.set_offset(packed_.offset());
        return std::make_unique<gemm_weights_of>(plain_, std::move(copy));
    }

private:
    template <class Visit> static void for_each_own_isa(const Visit& visit) {
        if constexpr (AllIsas)
            nibble::for_each_isa(visit);
        else
            visit.template operator()<nibble::best_isa>();
    }

    plain_weights plain_;
    nibble::packed<S> packed_;
};

template <class Format, bool AllIsas, bool Surrounded> class gemm_format_of final : public gemm_format {
public:
    using S = typename Format::scheme;
    using traits = nibble::detail::scheme_traits<S>;
    using element = typename traits::element;

    [[nodiscard]] std::string_view name() const override { return Format::name; }
    [[nodiscard]] int bits() const override { return element::bits; }
    [[nodiscard]] float decode(std::uint32_t code) const override {
        return element::decode(static_cast<typename element::code>(code));
    }
    [[nodiscard]] bool scaled() const override { return S::scaled; }
    [[nodiscard]] bool two_level() const override { return S::two_level; }
    [[nodiscard]] bool has_integer_zero() const override { return S::has_integer_zero; }
    [[nodiscard]] bool has_minimum() const override { return S::has_minimum; }
    [[nodiscard]] int scale_bits() const override { return traits::scale_element::bits; }
    [[nodiscard]] int outer_bits() const override { return traits::outer_element::bits; }
    [[nodiscard]] std::unique_ptr<gemm_weights> quantize(nibble::matrix_view<const float> w) const override {
        return std::make_unique<gemm_weights_of<S, AllIsas, Surrounded>>(
            bench::verbs<S>::quantize(w, {}, nibble::serial{}));
    }
    [[nodiscard]] std::unique_ptr<gemm_weights> fill(std::size_t rows, std::size_t cols,
                                                     const code_pattern& pattern) const override {
        nibble::quantized<S> q(rows, cols);
        constexpr std::size_t width = static_cast<std::size_t>(element::bits);
        for (std::size_t i = 0; i < rows; ++i)
            for (std::size_t j = 0; j < cols; ++j) {
                const std::uint32_t code = pattern.code(i, j);
                for (std::size_t b = 0; b < width; ++b) {
                    const std::size_t at = j * width + b;
                    std::uint8_t& byte = q.row_codes(i)[at / 8];
                    byte = static_cast<std::uint8_t>(byte | (((code >> b) & 1u) << (at % 8)));
                }
            }
        const std::size_t run = traits::group_size(cols);
        for (std::size_t i = 0; i < rows; ++i)
            for (std::size_t g = 0; g * run < cols; ++g) {
                const std::size_t slot = traits::granularity::index(i, g * run, cols);
                if constexpr (S::scaled)
                    q.scales()[slot] = pattern.scale ? static_cast<typename traits::scale_code>(pattern.scale(i, g))
                                                     : nibble::encode<typename traits::scale_element>(1.0f);
                if constexpr (S::two_level) {
                    const std::size_t outer = traits::outer_granularity::index(i, g * run, cols);
                    q.outer_scales()[outer] = pattern.outer
                                                  ? static_cast<typename traits::outer_code>(pattern.outer(i, g))
                                                  : nibble::encode<typename traits::outer_element>(1.0f);
                }
                if constexpr (S::has_two_level_minimum)
                    q.outer_zeros()[traits::outer_granularity::index(i, g * run, cols)] =
                        nibble::encode<typename traits::outer_zero_element>(1.0f);
                if constexpr (traits::has_zero)
                    q.zeros()[slot] = static_cast<typename traits::zero_code>(pattern.zero ? pattern.zero(i, g) : 0u);
            }
        return std::make_unique<gemm_weights_of<S, AllIsas, Surrounded>>(q);
    }
};

template <std::size_t Slice, class... Formats>
std::vector<std::unique_ptr<gemm_format>> make_gemm_slice_of(nibble::format_list<Formats...> list) {
    static constexpr auto slices = bench::tile_slices<NIBBLE_TEST_GEMM_SLICES>(nibble::format_list<Formats...>{});
    (void)list;
    std::vector<std::unique_ptr<gemm_format>> made;
    [&]<std::size_t... Index>(std::index_sequence<Index...>) {
        const auto add = [&]<std::size_t I, class Format>() {
            using all = nibble::all_formats;
            constexpr bool all_isas = nibble_test::on_all_isas<I, Format>;
            constexpr bool surrounded = every_digest || nibble_test::first_of_its_family<I, Format>(all{});
            if constexpr (slices[I] == Slice && nibble_test::tested<I, Format>) {
                made.push_back(std::make_unique<gemm_format_of<Format, all_isas, surrounded>>());
                // What seams.hpp says is here, whatever is made of the calls to it.
                if constexpr (all_isas) {
                    auto* volatile sums = &nibble::kernel::sum_group<nibble::generic, typename Format::scheme, false>;
                    static_cast<void>(sums);
                }
            }
        };
        (add.template operator()<Index, Formats>(), ...);
    }(std::index_sequence_for<Formats...>{});
    return made;
}

template <std::size_t Slice> std::vector<std::unique_ptr<gemm_format>> make_gemm_slice() {
    return make_gemm_slice_of<Slice>(nibble::all_formats{});
}

} // namespace gemm_test
