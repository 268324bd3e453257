// row.hpp: one line of the comparison, what every report is written from; made by evaluate, marked by pareto.
#pragma once

#include <string>

namespace bench {

struct row {
    std::string scheme;                // the format's name, as in <nibble/scheme/formats.hpp>
    double bits_per_weight = 0;        // codes, scales and zero points of the quantized weights
    double weight_sqnr_db = 0;         // dequantized against original weights
    double gemm_sqnr_db = 0;           // the kernel's output against fp64 over the original weights and activations
    double quantize_GBps = 0;          // fp32 bytes read per second
    double dequantize_GBps = 0;        // fp32 bytes written per second
    double gemv_us = 0;                // one token through all weights, colder than the last-level cache
    double gemv_GBps = 0;              // packed bytes per second
    double gemv_of_read_bandwidth = 0; // gemv_GBps over the read bandwidth of the same moments
    double gemm_GFLOPs = 0;            // 2 M N K per second
    double gemm_of_fma_peak = 0;       // gemm_GFLOPs over the fp32 fma peak of the same moments
    double speedup_over_eigen = 0;     // time of Eigen's fp32 product over the time of gemm, same M and threads
    bool pareto = false;               // no other row has at most its bits and at least its gemm_sqnr_db
};

} // namespace bench
