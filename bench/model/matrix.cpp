// matrix.cpp: a product, then bias, activation, factor and addend.
#include "matrix.hpp"

#include <nibble/isa/lanes.hpp>

#include <algorithm>
#include <stdexcept>
#include <utility>
#include <vector>

namespace bench {
namespace {

class matrix final : public linear {
public:
    matrix(std::unique_ptr<packed_weights> weights, std::string format, double bits, std::size_t outputs,
           std::size_t inputs, nibble::activation_scale scale)
        : weights_(std::move(weights)), format_(std::move(format)), bits_(bits), outputs_(outputs), inputs_(inputs),
          scale_(scale) {}

    [[nodiscard]] std::string_view format() const noexcept override { return format_; }
    [[nodiscard]] std::size_t outputs() const noexcept override { return outputs_; }
    [[nodiscard]] std::size_t inputs() const noexcept override { return inputs_; }
    [[nodiscard]] std::size_t bytes() const noexcept override { return weights_->bytes(); }
    [[nodiscard]] double bits_per_weight() const noexcept override { return bits_; }

    // A product prepares for itself: what is kept is where the activations are, which outlive it.
    void prepare(nibble::matrix_view<const float> x, nibble::prepared_activations&, const nibble::activation_options&,
                 machine&) const override {
        activations_ = x;
    }
    [[nodiscard]] bool fits(const nibble::prepared_activations&) const noexcept override { return false; }
    void multiply(const nibble::prepared_activations&, nibble::matrix_view<float> y, const finish& then,
                  machine& on) const override {
        const bool plain =
            then.bias == nullptr && then.activate == activation::none && then.factor.empty() && then.addend.empty();
        if (plain) return weights_->gemm(activations_, y, on.scratch, on.threads, scale_);
        // y may be what is added to the product.
        if (product_.size() < y.rows() * outputs_) product_.resize(y.rows() * outputs_);
        const nibble::matrix_view<float> product(product_.data(), y.rows(), outputs_);
        weights_->gemm(activations_, product, on.scratch, on.threads, scale_);
        using lanes = nibble::lanes<nibble::best_isa>;
        const finish_step step(then);
        on.threads.parallel_for(y.rows(), [&](std::size_t token, std::size_t) {
            for (std::size_t i = 0; i < outputs_; i += lanes::width) {
                const std::size_t count = std::min<std::size_t>(lanes::width, outputs_ - i);
                const lanes p = lanes::load(product.row(token) + i, count);
                step(p, nibble::position{token, i, count}).store(y.row(token) + i, count);
            }
        });
    }
    void multiply_gated(const nibble::prepared_activations& x, const linear& up, activation f,
                        nibble::matrix_view<float> y, machine& on) const override {
        multiply(x, y, {.activate = f}, on);
        static_cast<const matrix&>(up).activations_ = activations_;
        up.multiply(x, y, {.factor = y}, on);
    }
    // Each expert's rows by themselves.
    void multiply_experts(nibble::matrix_view<const float> x, std::span<const expert> experts, activation f,
                          nibble::matrix_view<float> y, const nibble::activation_options& options,
                          machine& on) const override {
        const nibble::prepared_activations none;
        std::vector<float> numbers;
        for (const expert& e : experts) {
            numbers.clear();
            for (std::size_t i = e.first_row; i < e.first_row + e.rows; ++i) {
                const float* const row = x.row(options.rows.empty() ? i : options.rows[i]);
                numbers.insert(numbers.end(), row, row + x.cols());
            }
            const auto& weights = static_cast<const matrix&>(*e.weights);
            weights.activations_ = {numbers.data(), e.rows, x.cols()};
            const nibble::matrix_view<float> to(y.row(e.first_row), e.rows, y.cols(), y.stride());
            if (e.up != nullptr)
                weights.multiply_gated(none, *e.up, f, to, on);
            else
                weights.multiply(none, to, {}, on);
        }
    }
    void rows(std::span<const std::uint32_t>, nibble::matrix_view<float>, machine&) const override {
        throw std::logic_error("embeddings are not quantized here");
    }

private:
    std::unique_ptr<packed_weights> weights_;
    std::string format_;
    double bits_;
    std::size_t outputs_;
    std::size_t inputs_;
    nibble::activation_scale scale_;
    mutable nibble::matrix_view<const float> activations_{};
    mutable std::vector<float> product_;
};

} // namespace

std::unique_ptr<linear> matrix_of(std::unique_ptr<packed_weights> weights, std::string format, double bits_per_weight,
                                  std::size_t outputs, std::size_t inputs, nibble::activation_scale scale) {
    return std::make_unique<matrix>(std::move(weights), std::move(format), bits_per_weight, outputs, inputs, scale);
}

} // namespace bench
