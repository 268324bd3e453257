// linear.cpp: the formats that weights can be in. Each takes about three seconds of compilation: a much longer list is
// cut into units by the seams of nibble/instantiate.hpp.
#include "linear.hpp"

#include <nibble/any.hpp>
#include <nibble/gemm_grouped.hpp>
#include <nibble/io/gguf_quantized.hpp>
#include <nibble/scheme/ggml_formats.hpp>

#include <stdexcept>
#include <utility>
#include <vector>

namespace {

// GPTQ and AWQ of 4 bits in groups of 128 or 32, FP8 with a scale per output: what quantized checkpoints are read to.
using checkpoint_formats = nb::format_list<nb::named_format<"int4_g128_asym", nb::int4_g128_asym>,
                                           nb::named_format<"int4_g32_asym", nb::int4_g32_asym>,
                                           nb::named_format<"fp8_e4m3_channel", nb::fp8_e4m3_channel>>;
// Floats, as checkpoints come; GGUF's blocks of 32, and its K types, what most files hold.
using formats =
    nb::join_formats<nb::format_list<nb::named_format<"f32", nb::f32_plain>, nb::named_format<"f16", nb::f16_plain>,
                                     nb::named_format<"bf16", nb::bf16_plain>, nb::named_format<"q4_0", nb::q4_0>,
                                     nb::named_format<"q5_0", nb::q5_0>, nb::named_format<"q8_0", nb::q8_0>,
                                     nb::named_format<"int4_g32", nb::int4_g32>, nb::named_format<"mxfp4", nb::mxfp4>,
                                     nb::named_format<"q4_k", nb::q4_k>, nb::named_format<"q5_k", nb::q5_k>,
                                     nb::named_format<"q6_k", nb::q6_k>>,
                     checkpoint_formats>;

class listed_linear final : public linear {
public:
    explicit listed_linear(nb::any_packed<formats> weights) : weights_(std::move(weights)) {}

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
    void multiply_gated(const nb::prepared_activations& x, const linear& up, activation f, nb::matrix_view<float> y,
                        machine& on) const override {
        const auto& other = static_cast<const listed_linear&>(up);
        nb::gemm_gated(x, weights_, other.weights_, y, finish_step({.activate = f}), {.workspace = &on.scratch},
                       on.threads);
    }
    void multiply_experts(nb::matrix_view<const float> x, std::span<const expert> experts, activation f,
                          nb::matrix_view<float> y, const nb::activation_options& options, machine& on) const override {
        const nb::gemm_options with{.workspace = &on.scratch, .activations = options};
        weights_.visit([&]<class Scheme>(const nb::packed<Scheme>&) {
            const auto of = [](const linear* w) -> const nb::packed<Scheme>& {
                const auto* held = static_cast<const listed_linear*>(w)->weights_.template get_if<Scheme>();
                if (held == nullptr) throw std::runtime_error("experts of a layer are in different formats");
                return *held;
            };
            if (experts.front().up != nullptr) {
                std::vector<nb::gemm_gated_group<Scheme>> groups;
                for (const expert& e : experts) groups.push_back({of(e.weights), of(e.up), e.first_row, e.rows});
                nb::gemm_gated_grouped(x, groups, y, finish_step({.activate = f}), with, on.threads);
            } else {
                std::vector<nb::gemm_group<Scheme>> groups;
                for (const expert& e : experts) groups.push_back({of(e.weights), e.first_row, e.rows});
                nb::gemm_grouped(x, groups, y, with, on.threads);
            }
        });
    }
    void rows(std::span<const std::uint32_t> ids, nb::matrix_view<float> out, machine& on) const override {
        nb::dequantize_rows(weights_, ids, out, on.threads);
    }

private:
    nb::any_packed<formats> weights_;
};

} // namespace

nb::status read_tensor(const nb::tensor_info& tensor, const nb::thread_pool& threads, std::unique_ptr<linear>& out) {
    nb::any_quantized<formats> stored;
    nb::status s = nb::read_quantized(tensor, stored);
    if (s) out = std::make_unique<listed_linear>(nb::pack(stored, threads));
    return s.code() == nb::status_code::unsupported ? nb::status() : s;
}

nb::status read_checkpoint_layer(const nb::tensor_source& file, std::string_view name, const nb::layer_options& options,
                                 nb::matrix_view<float> w, const nb::thread_pool& threads,
                                 std::unique_ptr<linear>& out) {
    nb::quantized_layer<checkpoint_formats> layer;
    const nb::status s = nb::read_layer(file, name, layer, options);
    if (!s) return s;
    if (w.empty() && !layer.columns.empty())
        return {nb::status_code::unsupported,
                "layer '" + std::string(name) + "': its columns are in act-order; take --weights to quantize it anew"};
    if (w.empty())
        layer.weights.visit([&](const auto& held) { out = std::make_unique<listed_linear>(nb::pack(held, threads)); });
    else if (layer.weights.rows() == w.rows() && layer.weights.cols() == w.cols())
        nb::dequantize_layer(layer, w);
    else
        return {nb::status_code::mismatch,
                "layer '" + std::string(name) + "' has another shape than the configuration says"};
    return s;
}

std::unique_ptr<linear> quantize_matrix(nb::matrix_view<const float> w, std::string_view format,
                                        const nb::thread_pool& threads) {
    nb::any_quantized<formats> made;
    if (!nb::quantize(w, format, made, {.range = nb::range::least_squares}, threads)) return nullptr;
    return std::make_unique<listed_linear>(nb::pack(made, threads));
}

std::string weight_formats() {
    return names_of(formats{});
}
