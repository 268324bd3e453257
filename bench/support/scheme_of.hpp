// scheme_of.hpp: a format of nibble's as a bench::scheme. Its verbs are verbs/verbs.hpp's, compiled elsewhere.
#pragma once

#include "../verbs/verbs.hpp"
#include "scheme.hpp"

#include <nibble/gemm.hpp>
#include <nibble/pack.hpp>
#include <nibble/quantize.hpp>
#include <nibble/scheme/formats.hpp>
#include <nibble/tensor/kv_layout.hpp>

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bench {

namespace detail {

template <class Scheme> class packed_weights_of final : public packed_weights {
public:
    packed_weights_of(nibble::packed<Scheme> weights, int limit) : weights_(std::move(weights)), limit_(limit) {}

    [[nodiscard]] std::size_t bytes() const override { return weights_.bytes(); }
    [[nodiscard]] std::unique_ptr<packed_weights> clone() const override {
        return std::make_unique<packed_weights_of>(*this);
    }
    void gemm(nibble::matrix_view<const float> x, nibble::matrix_view<float> y, nibble::workspace& scratch,
              executor_ref threads, nibble::activation_scale scale) const override {
        verbs<Scheme>::gemm(x, weights_, y,
                            nibble::gemm_options{.workspace = &scratch,
                                                 .activations = {.scale = scale, .quantization = {.qmax = limit_}}},
                            threads);
    }

private:
    nibble::packed<Scheme> weights_;
    int limit_;
};

template <class Scheme> class quantized_weights_of final : public quantized_weights {
public:
    quantized_weights_of(nibble::quantized<Scheme> weights, int limit) : weights_(std::move(weights)), limit_(limit) {}

    [[nodiscard]] double bits_per_weight() const override { return nibble::bits_per_weight(weights_); }
    void dequantize(nibble::matrix_view<float> out, executor_ref threads) const override {
        verbs<Scheme>::dequantize(weights_, out, threads);
    }
    [[nodiscard]] std::unique_ptr<packed_weights> pack(executor_ref threads) const override {
        return std::make_unique<packed_weights_of<Scheme>>(verbs<Scheme>::pack(weights_, threads), limit_);
    }

private:
    nibble::quantized<Scheme> weights_;
    int limit_;
};

template <class Format> class scheme_of final : public scheme {
public:
    static constexpr int seven_bits = 64;
    explicit scheme_of(int limit = nibble::activation_quantization{}.qmax)
        : name_(std::string(Format::name) + (limit == seven_bits ? "_a7" : "")), limit_(limit) {}
    [[nodiscard]] std::string_view name() const override { return name_; }
    [[nodiscard]] std::unique_ptr<scheme> with_seven_bits() const override {
        // Where small activations have tiles of their own.
        using plan = nibble::kernel::gemm_plan<typename Format::scheme, nibble::best_isa>;
        if constexpr (plan::has_alternative && nibble::kernel::has_tile_sources<typename plan::alternative>)
            return std::make_unique<scheme_of>(seven_bits);
        else
            return nullptr;
    }
    [[nodiscard]] bool stores_tokens() const override { return nibble::token_scheme<typename Format::scheme>; }
    [[nodiscard]] std::vector<nibble::activation_scale> activation_scales() const override {
        using S = typename Format::scheme;
        std::vector<nibble::activation_scale> scales;
        if constexpr (nibble::kernel::gemm_plan<S, nibble::best_isa>::integers) {
            if (nibble::detail::scheme_traits<S>::has_groups()) scales.push_back(nibble::activation_scale::per_group);
            scales.push_back(nibble::activation_scale::per_token);
        }
        return scales;
    }
    [[nodiscard]] std::unique_ptr<quantized_weights> quantize(nibble::matrix_view<const float> weights,
                                                              executor_ref threads) const override {
        using S = typename Format::scheme;
        return std::make_unique<quantized_weights_of<S>>(
            verbs<S>::quantize(weights, nibble::quantize_options{}, threads), limit_);
    }
    [[nodiscard]] std::unique_ptr<quantized_weights> search(nibble::matrix_view<const float> weights,
                                                            executor_ref threads) const override {
        using S = typename Format::scheme;
        return std::make_unique<quantized_weights_of<S>>(
            verbs<S>::quantize(weights, nibble::quantize_options{.range = nibble::range::least_squares}, threads),
            limit_);
    }

private:
    std::string name_;
    int limit_;
};

} // namespace detail

// One for each format of a list, in its order.
template <class... Formats>
[[nodiscard]] std::vector<std::unique_ptr<scheme>> make_schemes(nibble::format_list<Formats...>) {
    std::vector<std::unique_ptr<scheme>> made;
    (made.push_back(std::make_unique<detail::scheme_of<Formats>>()), ...);
    return made;
}

} // namespace bench
