// seams.cpp: a program whose kernels are compiled in another unit (seams_kernels.cpp), by nibble/instantiate.hpp.
#include <nibble/core/view.hpp>
#include <nibble/instantiate.hpp>
#include <nibble/kv_cache.hpp>
#include <nibble/pack.hpp>
#include <nibble/quantize.hpp>
#include <nibble/scheme/formats.hpp>

#include <cmath>
#include <cstddef>
#include <cstdio>

namespace nb = nibble;

NIBBLE_EXTERN_ACTIVATIONS();
NIBBLE_EXTERN_GEMM(nibble::int4_g32);
NIBBLE_EXTERN_ATTENTION();
NIBBLE_EXTERN_KEYS(nibble::int4_g32);
NIBBLE_EXTERN_VALUES(nibble::int4_g32);

namespace {

constexpr std::size_t rows = 20;
constexpr std::size_t cols = 96;

// The unit vectors pick columns of the weights: what dequantize says they are.
bool product_is_right() {
    float w[rows * cols];
    for (std::size_t i = 0; i < rows * cols; ++i) w[i] = std::sin(static_cast<float>(i));
    const auto stored = nb::quantize<nb::int4_g32>(nb::matrix_view<const float>(w, rows, cols));
    float exact[rows * cols];
    nb::dequantize(stored, nb::matrix_view<float>(exact, rows, cols));
    const auto packed = nb::pack(stored);
    for (std::size_t k = 0; k < cols; ++k) {
        float x[cols] = {};
        float y[rows];
        x[k] = 1.0f;
        nb::gemm(nb::matrix_view<const float>(x, 1, cols), packed, nb::matrix_view<float>(y, 1, rows));
        for (std::size_t n = 0; n < rows; ++n) // 127 x (scale x 1/127) is rounded three times
            if (std::fabs(y[n] - exact[n * cols + k]) > 1e-6f * std::fabs(exact[n * cols + k])) return false;
    }
    return true;
}

// A query that sees one token gets its value as the cache stores it.
bool attention_is_right() {
    nb::kv_cache_options options;
    options.head_size = 32;
    options.capacity = 16;
    nb::kv_cache<nb::int4_g32, nb::int4_g32> cache(options);
    float k[32], v[32], out[32], stored_keys[32], stored[32];
    for (std::size_t c = 0; c < 32; ++c) {
        k[c] = std::cos(static_cast<float>(c));
        v[c] = std::sin(static_cast<float>(c));
    }
    cache.append(nb::matrix_view<const float>(k, 1, 32), nb::matrix_view<const float>(v, 1, 32));
    cache.read_keys(0, 0, nb::matrix_view<float>(stored_keys, 1, 32));
    cache.read_values(0, 0, nb::matrix_view<float>(stored, 1, 32));
    for (const auto precision : {nb::attention_precision::fp32, nb::attention_precision::integer}) {
        nb::attend_options how;
        how.precision = precision;
        nb::attend(nb::matrix_view<const float>(stored_keys, 1, 32), cache, nb::matrix_view<float>(out, 1, 32), how);
        for (std::size_t c = 0; c < 32; ++c)
            if (std::fabs(out[c] - stored[c]) > 1e-6f * std::fabs(stored[c])) return false;
    }
    return true;
}

} // namespace

int main() {
    const bool product = product_is_right();
    const bool attention = attention_is_right();
    std::printf("gemm %s, attend %s\n", product ? "is right" : "is WRONG", attention ? "is right" : "is WRONG");
    return product && attention ? 0 : 1;
}
