// linear_unit.hpp: linear layers over a list of formats. A unit that includes this and calls weight_unit_of takes about
// three seconds of compilation for each format: a list is cut where that becomes too long.
#pragma once

#include "linear.hpp"

#include <nibble/any.hpp>
#include <nibble/epilogue/activation.hpp>
#include <nibble/io/gguf_quantized.hpp>

#include <utility>

// All that may follow a product in one type, so that the products of a format are compiled once: a branch for each
// vector of results costs nothing beside the sums behind it.
struct finish_step : nb::epilogue_step {
    finish with;
    explicit finish_step(const finish& f) noexcept : with(f) {}
    template <class Lanes> Lanes operator()(const Lanes& product, const nb::position& at) const noexcept {
        Lanes y = product;
        if (with.bias != nullptr) y = y + Lanes::load(with.bias + at.output, at.count);
        y = y.kept();
        if (with.activate == activation::silu) y = nb::silu(y, at);
        if (with.activate == activation::gelu) y = nb::gelu(y, at);
        if (!with.factor.empty()) y = (y.kept() * Lanes::load(with.factor.row(at.token) + at.output, at.count)).kept();
        if (!with.addend.empty()) y = y + Lanes::load(with.addend.row(at.token) + at.output, at.count);
        return y;
    }
};

template <class List> class linear_of final : public linear {
public:
    explicit linear_of(nb::any_packed<List> weights) : weights_(std::move(weights)) {}

    [[nodiscard]] std::string_view format() const noexcept override { return weights_.name(); }
    [[nodiscard]] std::size_t outputs() const noexcept override { return weights_.rows(); }
    [[nodiscard]] std::size_t inputs() const noexcept override { return weights_.cols(); }
    [[nodiscard]] std::size_t bytes() const noexcept override { return weights_.bytes(); }
    [[nodiscard]] double bits_per_weight() const noexcept override { return weights_.bits_per_weight(); }

    void prepare(nb::matrix_view<const float> x, nb::prepared_activations& into, const nb::activation_options& options,
                 machine& on) const override {
        nb::prepare(x, weights_, into, options, on.threads);
    }
    [[nodiscard]] bool fits(const nb::prepared_activations& x) const noexcept override { return nb::fits(x, weights_); }
    void multiply(const nb::prepared_activations& x, nb::matrix_view<float> y, const finish& then,
                  machine& on) const override {
        nb::gemm(x, weights_, y, finish_step(then), {.workspace = &on.scratch}, on.threads);
    }
    void rows(std::span<const std::uint32_t> ids, nb::matrix_view<float> out, machine& on) const override {
        nb::dequantize_rows(weights_, ids, out, on.threads);
    }

private:
    nb::any_packed<List> weights_;
};

template <class List> [[nodiscard]] weight_unit weight_unit_of() {
    weight_unit unit{};
    unit.names = [] {
        std::string names;
        nb::for_each_format(List{}, [&]<class Format>() { (names += ' ') += Format::name; });
        return names;
    };
    unit.read = [](const nb::tensor_info& tensor, const nb::thread_pool& threads, std::unique_ptr<linear>& out) {
        nb::any_quantized<List> stored;
        nb::status s = nb::read_quantized(tensor, stored);
        if (s) out = std::make_unique<linear_of<List>>(nb::pack(stored, threads));
        return s.code() == nb::status_code::unsupported ? nb::status() : s;
    };
    unit.quantize = [](std::string_view format, nb::matrix_view<const float> w, const nb::thread_pool& threads,
                       std::unique_ptr<linear>& out) {
        nb::any_quantized<List> made;
        if (nb::quantize(w, format, made, {.range = nb::range::least_squares}, threads))
            out = std::make_unique<linear_of<List>>(nb::pack(made, threads));
    };
    return unit;
}
