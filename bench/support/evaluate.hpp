// evaluate.hpp: one scheme on one workload: errors, sizes and speeds, as a row.
#pragma once

#include "measure.hpp"
#include "row.hpp"
#include "scheme.hpp"
#include "workload.hpp"

#include <functional>
#include <string_view>
#include <vector>

namespace bench {

struct evaluation_settings {
    std::size_t tokens = 128;   // M of the GEMM that is timed
    std::size_t cold_bytes = 0; // GEMV rotates over at least so many bytes of packed weights
    sampling quantize;
    sampling gemv;
    sampling gemm;
};

// Eigen's own speed on the unquantized weights, for the report's head.
struct baseline {
    double gemv_us = 0;
    double gemv_GBps = 0;
    double gemv_of_read_bandwidth = 0;
    double gemm_GFLOPs = 0;
    double gemm_of_fma_peak = 0;
};

class evaluator {
public:
    // The error of the GEMM is taken over this many tokens and every output feature, whatever M is timed.
    static constexpr std::size_t error_tokens = 64;

    // Computes the fp64 products of the workload, once for all schemes. `work` must have at least
    // max(settings.tokens, error_tokens) tokens.
    evaluator(const workload& work, const evaluation_settings& settings, machine_limits& limits);

    [[nodiscard]] baseline eigen();
    // `stage` is told what is being done.
    [[nodiscard]] row evaluate(const scheme& format, const std::function<void(std::string_view)>& stage);

private:
    void run_eigen(std::size_t tokens);

    const workload& work_;
    evaluation_settings settings_;
    machine_limits& limits_;
    executor_ref threads_;
    std::vector<std::vector<double>> exact_; // per tensor: error_tokens x N
    float_matrix outputs_;                   // as large as the largest tensor needs
    float_matrix weights_;                   // scratch for dequantized weights
    nibble::workspace scratch_;
};

} // namespace bench
