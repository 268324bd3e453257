// caches.cpp: rounding, and the list of kernels.
#include "caches.hpp"

#include "cache.hpp"

#include <stdexcept>

namespace bench {

std::function<void(nibble::matrix_view<float> keys, nibble::matrix_view<float> values)>
rounding(const scheme& format, std::size_t head_size, const nibble::thread_pool& threads) {
    return [&format, head_size, &threads](nibble::matrix_view<float> keys, nibble::matrix_view<float> values) {
        for (const nibble::matrix_view<float>& x : {keys, values}) {
            if (x.stride() != x.cols()) throw std::logic_error("keys and values lie close together");
            const nibble::matrix_view<float> heads(x.data(), x.rows() * x.cols() / head_size, head_size);
            format.quantize(heads, threads)->dequantize(heads, threads);
        }
    };
}

double cache_kernel::bits(std::size_t head_size) const {
    double sum = 0;
    nibble::for_each_format(key_formats{}, [&]<class Format>() {
        using stored = typename nibble::detail::key_format<typename Format::scheme>::scheme_type;
        if (Format::name == key_format) sum += nibble::bits_per_weight<stored>(128, head_size) / 2;
    });
    nibble::for_each_format(value_formats{}, [&]<class Format>() {
        if (Format::name == value_format) sum += nibble::bits_per_weight<typename Format::scheme>(128, head_size) / 2;
    });
    return sum;
}

const std::vector<cache_kernel>& cache_kernels() {
    static const std::vector<cache_kernel> all{
        {"f16", "f16", "f16", "f16"},
        {"int8_channel", "int8_channel", "int8", "int8"},
        {"int8_g32", "int8_g32", "int8_g32", "int8_g32"},
        {"mxfp8_e4m3", "mxfp8_e4m3", "mxfp8_e4m3", "mxfp8_e4m3"},
        {"int8_channel", "int4_g32", "int8", "int4_g32"},
        {"int4_g32", "int4_g32", "int4_g32", "int4_g32"},
        {"mxfp4", "mxfp4", "mxfp4", "mxfp4"},
        {"along_tokens_int4_g32_min", "int4_g32_min", "along_tokens_int4_g32_min", "int4_g32_min"},
        {"along_tokens_int2_g32_min", "int2_g32_min", "along_tokens_int2_g32_min", "int2_g32_min"}};
    return all;
}

} // namespace bench
