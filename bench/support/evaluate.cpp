// evaluate.cpp: the order of work for one scheme, and what each number of its row means.
#include "evaluate.hpp"

#include "eigen_reference.hpp"
#include "rotation.hpp"
#include "sqnr.hpp"

#include <algorithm>
#include <chrono>
#include <memory>

namespace bench {
namespace {

// The sum over rows, taken in the order of rows for any number of threads.
template <class Exact>
error_energy compare_rows(nibble::matrix_view<const Exact> exact, nibble::matrix_view<const float> approximate,
                          executor_ref threads) {
    std::vector<error_energy> rows(exact.rows());
    constexpr std::size_t block = 64;
    threads.parallel_for((exact.rows() + block - 1) / block, [&](std::size_t part, std::size_t) {
        const std::size_t end = std::min(exact.rows(), (part + 1) * block);
        for (std::size_t r = part * block; r < end; ++r)
            rows[r] = compare(exact.row(r), approximate.row(r), exact.cols());
    });
    error_energy sum;
    for (const error_energy& one : rows) sum += one;
    return sum;
}

} // namespace

evaluator::evaluator(const workload& work, const evaluation_settings& settings, machine_limits& limits)
    : work_(work), settings_(settings), limits_(limits), threads_(limits.threads()) {
    std::size_t outputs = 0;
    std::size_t weights = 0;
    for (const weight_tensor& tensor : work.tensors) {
        const auto w = tensor.weights.view();
        exact_.emplace_back(error_tokens * w.rows());
        exact_product(work.inputs(tensor).first(error_tokens), w,
                      nibble::matrix_view<double>(exact_.back().data(), error_tokens, w.rows()), threads_);
        outputs = std::max(outputs, w.rows());
        weights = std::max(weights, w.rows() * w.cols());
    }
    outputs_ = float_matrix(std::max(settings.tokens, error_tokens), outputs);
    weights_ = float_matrix(1, weights);
}

void evaluator::run_eigen(std::size_t tokens) {
    for (const weight_tensor& tensor : work_.tensors) {
        const auto w = tensor.weights.view();
        eigen_product(work_.inputs(tensor).first(tokens), w,
                      nibble::matrix_view<float>(outputs_.view().data(), tokens, w.rows()), threads_);
    }
}

baseline evaluator::eigen() {
    baseline result;
    const double weights = static_cast<double>(work_.weight_count());

    const auto gemm = take_samples(limits_, settings_.gemm, false, {[&] { run_eigen(settings_.tokens); }});
    const double operations = 2e-9 * weights * static_cast<double>(settings_.tokens);
    result.gemm_GFLOPs = median_of(gemm, [&](const sample& s) { return operations / s.seconds[0]; });
    result.gemm_of_fma_peak =
        median_of(gemm, [&](const sample& s) { return operations / s.seconds[0] / s.fma_GFLOPs[0]; });

    std::vector<float_matrix> set;
    for (const weight_tensor& tensor : work_.tensors) set.push_back(tensor.weights);
    const double bytes = weights * sizeof(float);
    rotation<float_matrix> cold(std::move(set), static_cast<std::size_t>(bytes), settings_.cold_bytes);
    const auto gemv = take_samples(limits_, settings_.gemv, true, {[&] {
                                       for (const float_matrix& w : cold.next())
                                           eigen_product(work_.activations.at(w.cols()).first(1), w.view(),
                                                         {outputs_.view().data(), 1, w.rows()}, threads_);
                                   }});
    result.gemv_us = median_of(gemv, [](const sample& s) { return s.seconds[0] * 1e6; });
    result.gemv_GBps = median_of(gemv, [&](const sample& s) { return bytes / s.seconds[0] * 1e-9; });
    result.gemv_of_read_bandwidth =
        median_of(gemv, [&](const sample& s) { return bytes / s.seconds[0] * 1e-9 / s.read_GBps[0]; });
    return result;
}

row evaluator::evaluate(const scheme& format, const std::function<void(std::string_view)>& stage) {
    row result;
    result.scheme = format.name();
    const double weights = static_cast<double>(work_.weight_count());

    // Quantize. The first, untimed run is the one whose result is kept.
    stage("quantize");
    std::vector<std::unique_ptr<quantized_weights>> quantized;
    const auto start = std::chrono::steady_clock::now();
    for (const weight_tensor& tensor : work_.tensors)
        quantized.push_back(format.quantize(tensor.weights.view(), threads_));
    sampling how = settings_.quantize;
    how.known_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const auto quantize = take_samples(limits_, how, false, {[&] {
                                           for (const weight_tensor& tensor : work_.tensors)
                                               (void)format.quantize(tensor.weights.view(), threads_);
                                       }});
    result.quantize_GBps =
        median_of(quantize, [&](const sample& s) { return weights * sizeof(float) / s.seconds[0] * 1e-9; });

    how.known_seconds = 0;
    const auto dequantize =
        take_samples(limits_, how, false, {[&] {
                         for (std::size_t t = 0; t < quantized.size(); ++t) {
                             const auto exact = work_.tensors[t].weights.view();
                             quantized[t]->dequantize({weights_.view().data(), exact.rows(), exact.cols()}, threads_);
                         }
                     }});
    result.dequantize_GBps =
        median_of(dequantize, [&](const sample& s) { return weights * sizeof(float) / s.seconds[0] * 1e-9; });

    // Size and error of the weights themselves; then into the kernel's order.
    stage("pack");
    error_energy weight_error;
    std::vector<std::unique_ptr<packed_weights>> packed;
    std::size_t packed_bytes = 0;
    for (std::size_t t = 0; t < quantized.size(); ++t) {
        const auto exact = work_.tensors[t].weights.view();
        const double share = static_cast<double>(exact.rows() * exact.cols()) / weights;
        result.bits_per_weight += quantized[t]->bits_per_weight() * share;
        const nibble::matrix_view<float> approximate(weights_.view().data(), exact.rows(), exact.cols());
        quantized[t]->dequantize(approximate, threads_);
        weight_error += compare_rows<float>(exact, approximate, threads_);
        packed.push_back(quantized[t]->pack(threads_));
        quantized[t].reset();
        packed_bytes += packed.back()->bytes();
    }
    result.weight_sqnr_db = weight_error.db();

    stage("gemm");
    error_energy gemm_error;
    for (std::size_t t = 0; t < packed.size(); ++t) {
        const weight_tensor& tensor = work_.tensors[t];
        const std::size_t n = tensor.weights.rows();
        const nibble::matrix_view<float> y(outputs_.view().data(), error_tokens, n);
        packed[t]->gemm(work_.inputs(tensor).first(error_tokens), y, scratch_, threads_);
        const nibble::matrix_view<const double> exact(exact_[t].data(), error_tokens, n);
        gemm_error += compare_rows<double>(exact, y, threads_);
    }
    result.gemm_sqnr_db = gemm_error.db();

    // GEMM and Eigen take turns, so that both saw the same machine.
    const auto gemm = take_samples(
        limits_, settings_.gemm, false,
        {[&] {
             for (std::size_t t = 0; t < packed.size(); ++t) {
                 const weight_tensor& tensor = work_.tensors[t];
                 packed[t]->gemm(work_.inputs(tensor).first(settings_.tokens),
                                 {outputs_.view().data(), settings_.tokens, tensor.weights.rows()}, scratch_, threads_);
             }
         },
         [&] { run_eigen(settings_.tokens); }});
    const double operations = 2e-9 * weights * static_cast<double>(settings_.tokens);
    result.gemm_GFLOPs = median_of(gemm, [&](const sample& s) { return operations / s.seconds[0]; });
    result.gemm_of_fma_peak =
        median_of(gemm, [&](const sample& s) { return operations / s.seconds[0] / s.fma_GFLOPs[0]; });
    result.speedup_over_eigen = median_of(gemm, [](const sample& s) { return s.seconds[1] / s.seconds[0]; });

    stage("gemv");
    rotation<std::unique_ptr<packed_weights>> cold(std::move(packed), packed_bytes, settings_.cold_bytes);
    const auto gemv =
        take_samples(limits_, settings_.gemv, true, {[&] {
                         const auto& set = cold.next();
                         for (std::size_t t = 0; t < set.size(); ++t) {
                             const weight_tensor& tensor = work_.tensors[t];
                             set[t]->gemm(work_.inputs(tensor).first(1),
                                          {outputs_.view().data(), 1, tensor.weights.rows()}, scratch_, threads_);
                         }
                     }});
    const double bytes = static_cast<double>(packed_bytes);
    result.gemv_us = median_of(gemv, [](const sample& s) { return s.seconds[0] * 1e6; });
    result.gemv_GBps = median_of(gemv, [&](const sample& s) { return bytes / s.seconds[0] * 1e-9; });
    result.gemv_of_read_bandwidth =
        median_of(gemv, [&](const sample& s) { return bytes / s.seconds[0] * 1e-9 / s.read_GBps[0]; });
    return result;
}

} // namespace bench
