// peers.cpp: fp32 weights as a scheme, and the list of what was built.
#include "peers.hpp"

#include "support/eigen_reference.hpp"
#include "support/workload.hpp"

#include <Eigen/Core>

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <string_view>
#include <utility>

namespace bench {
namespace {

float_matrix copy_of(nibble::matrix_view<const float> from) {
    float_matrix made(from.rows(), from.cols());
    for (std::size_t row = 0; row < from.rows(); ++row) std::copy_n(from.row(row), from.cols(), made.view().row(row));
    return made;
}

class float_packed final : public packed_weights {
public:
    float_packed(float_matrix weights, float_product product) : weights_(std::move(weights)), product_(product) {}
    [[nodiscard]] std::size_t bytes() const override { return weights_.rows() * weights_.cols() * sizeof(float); }
    [[nodiscard]] std::unique_ptr<packed_weights> clone() const override {
        return std::make_unique<float_packed>(*this);
    }
    void gemm(nibble::matrix_view<const float> x, nibble::matrix_view<float> y, nibble::workspace&,
              executor_ref threads, nibble::activation_scale) const override {
        product_(x, weights_.view(), y, threads);
    }

private:
    float_matrix weights_;
    float_product product_;
};

class float_weights final : public quantized_weights {
public:
    float_weights(float_matrix weights, float_product product) : weights_(std::move(weights)), product_(product) {}
    [[nodiscard]] double bits_per_weight() const override { return 32; }
    void dequantize(nibble::matrix_view<float> out, executor_ref) const override {
        for (std::size_t row = 0; row < weights_.rows(); ++row)
            std::copy_n(weights_.view().row(row), weights_.cols(), out.row(row));
    }
    [[nodiscard]] std::unique_ptr<packed_weights> pack(executor_ref) const override {
        return std::make_unique<float_packed>(weights_, product_);
    }

private:
    float_matrix weights_;
    float_product product_;
};

class float_scheme final : public scheme {
public:
    float_scheme(std::string name, float_product product) : name_(std::move(name)), product_(product) {}
    [[nodiscard]] std::string_view name() const override { return name_; }
    [[nodiscard]] std::unique_ptr<quantized_weights> quantize(nibble::matrix_view<const float> weights,
                                                              executor_ref) const override {
        return std::make_unique<float_weights>(copy_of(weights), product_);
    }

private:
    std::string name_;
    float_product product_;
};

std::string eigen_isa() {
    // "AVX512, FMA, AVX2, AVX, SSE, ...": the first is the widest.
    std::string name(Eigen::SimdInstructionSetsInUse());
    name = name.substr(0, name.find(','));
    std::transform(name.begin(), name.end(), name.begin(),
                   [](unsigned char c) { return c == ' ' ? '_' : static_cast<char>(std::tolower(c)); });
    return name;
}

} // namespace

std::unique_ptr<scheme> make_float_scheme(std::string name, float_product product) {
    return std::make_unique<float_scheme>(std::move(name), product);
}

std::vector<peer> all_peers() {
    std::vector<peer> peers;
    peers.push_back({make_float_scheme("eigen_f32", eigen_product), true, eigen_isa(), false});
#if defined(NIBBLE_BENCH_OPENBLAS)
    add_openblas(peers);
#endif
#if defined(NIBBLE_BENCH_ONEDNN)
    add_onednn(peers);
#endif
    return peers;
}

} // namespace bench
