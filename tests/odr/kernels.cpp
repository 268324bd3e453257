// kernels.cpp: some of each verb, to be compiled with different flags into one program; ENTRY names its only function.
// Without standard containers of its own, as in any unit that is compiled for one instruction set among several.
#include <nibble/nibble.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>

namespace {

constexpr std::size_t m = 5, n = 40, k = 256;

template <class Scheme> std::uint32_t hash_of_product(std::uint32_t hash) {
    float w[n * k], x[m * k], y[m * n];
    std::uint32_t state = 1;
    const auto next = [&state] {
        state = state * 1664525u + 1013904223u;
        return static_cast<float>(static_cast<std::int32_t>(state) >> 8) * (1.0f / 8388608.0f);
    };
    for (float& value : w) value = next();
    for (float& value : x) value = next();
    const auto packed = nibble::pack(nibble::quantize<Scheme>(nibble::matrix_view<const float>(w, n, k)));
    nibble::gemm(nibble::matrix_view<const float>(x, m, k), packed, nibble::matrix_view<float>(y, m, n));
    for (const float value : y) hash = (hash ^ __builtin_bit_cast(std::uint32_t, value)) * 16777619u;
    return hash;
}

// Keys in one scheme and values in another, as they are or transformed or turned, attended to in every precision.
enum class through { nothing, transform, rotary };
template <class Keys, class Values> std::uint32_t hash_of_attention(std::uint32_t hash, through how) {
    constexpr std::size_t tokens = 70, size = 24;
    float k_and_v[2 * tokens * size], q[2 * size], out[2 * size];
    std::uint32_t state = 7;
    const auto next = [&state] {
        state = state * 1664525u + 1013904223u;
        return static_cast<float>(static_cast<std::int32_t>(state) >> 8) * (1.0f / 8388608.0f);
    };
    for (float& value : k_and_v) value = next();
    for (float& value : q) value = next();
    nibble::kv_cache<Keys, Values> cache(nibble::kv_cache_options{.head_size = size, .capacity = 128, .value_window = 3});
    if (how != through::nothing) {
        nibble::kv_transform t{.mean = nibble::column_means(nibble::matrix_view<const float>(k_and_v, tokens, size))};
        if (how == through::transform) {
            t.order = nibble::order_by_norm(nibble::matrix_view<const float>(k_and_v, tokens, size), 1);
            t.hadamard = true;
            cache.set_value_transform(std::make_shared<const nibble::kv_transform>(t));
        } else {
            t.rotary.dims = size;
        }
        cache.set_key_transform(std::make_shared<const nibble::kv_transform>(t));
    }
    cache.append(nibble::matrix_view<const float>(k_and_v, tokens, size),
                 nibble::matrix_view<const float>(k_and_v + tokens * size, tokens, size));
    for (const auto precision : {nibble::attention_precision::fp32, nibble::attention_precision::integer}) {
        nibble::attend(nibble::matrix_view<const float>(q, 1, 2 * size), cache, nibble::matrix_view<float>(out, 1, 2 * size),
                       nibble::attend_options{.precision = precision});
        for (const float value : out) hash = (hash ^ __builtin_bit_cast(std::uint32_t, value)) * 16777619u;
    }
    return hash;
}

} // namespace

extern "C" std::uint32_t ENTRY() {
    std::uint32_t hash = 2166136261u;
    hash = hash_of_product<nibble::int4_g128>(hash);  // integer family
    hash = hash_of_product<nibble::nvfp4>(hash);      // two levels of scales
    hash = hash_of_product<nibble::mxfp6_e3m2>(hash); // float family
    for (const through how : {through::nothing, through::transform, through::rotary})
        hash = hash_of_attention<nibble::int8_channel, nibble::int4_g32>(hash, how);
    return hash;
}
