// kernels.cpp: every verb, to be compiled with different flags into one program; ENTRY names its function,
// ENTRY_weights and ENTRY_product those that hand packed weights from one such unit to the other. Without standard
// containers of its own, as in any unit that is compiled for one instruction set among several.
#include <nibble/any.hpp>
#include <nibble/nibble.hpp>
#include <nibble/quantize/complex.hpp>
#include <nibble/quantize/cross.hpp>
#include <nibble/quantize/lookup.hpp>
#include <nibble/quantize/mixed.hpp>
#include <nibble/quantize/outlier_victim.hpp>
#include <nibble/quantize/rows.hpp>
#include <nibble/recode.hpp>

#include <cstddef>
#include <cstdint>

namespace {

constexpr std::size_t m = 5, n = 40, k = 256;

// Numbers and what became of them.
struct numbers {
    std::uint32_t state;
    void fill(float* to, std::size_t count) {
        for (std::size_t i = 0; i < count; ++i) {
            state = state * 1664525u + 1013904223u;
            to[i] = static_cast<float>(static_cast<std::int32_t>(state) >> 8) * (1.0f / 8388608.0f);
        }
    }
};
struct digest {
    std::uint32_t value = 2166136261u;
    template <class T> void add(const T* from, std::size_t count) {
        for (std::size_t i = 0; i < count; ++i) {
            std::uint32_t word = 0;
            __builtin_memcpy(&word, from + i, sizeof(T));
            value = (value ^ word) * 16777619u;
        }
    }
    template <class Q> void add_values(const Q& q, std::size_t numbers_each = 1) {
        static float y[n * k * 2];
        nibble::dequantize(q, nibble::matrix_view<float>(y, q.rows(), q.cols() * numbers_each));
        add(y, q.rows() * q.cols() * numbers_each);
    }
};

struct matrices {
    float w[n * k], x[m * k], y[m * n];
    matrices() {
        numbers of{1};
        of.fill(w, n * k);
        of.fill(x, m * k);
    }
    nibble::matrix_view<const float> weights() const { return {w, n, k}; }
    nibble::matrix_view<const float> tokens() const { return {x, m, k}; }
    nibble::matrix_view<float> results() { return {y, m, n}; }
};

// What surrounds products: activations prepared, gathered and given as codes, epilogues, destinations, two products in
// one.
void add_verbs(digest& d) {
    static matrices in;
    using scheme = nibble::int4_g128;
    const auto q = nibble::quantize<scheme>(in.weights(), {.range = nibble::range::least_squares});
    const auto w = nibble::pack(q);
    d.add_values(nibble::unpack(w));
    d.add_values(nibble::recode<nibble::int4_g32>(nibble::quantize<nibble::int8_g32>(in.weights())));

    nibble::workspace memory;
    const std::uint32_t rows[] = {4, 0, 2, 2, 1};
    nibble::gemm_options options{.workspace = &memory, .activations = {.rows = rows}};
    float bias[n], residual[m * n];
    numbers{2}.fill(bias, n);
    numbers{3}.fill(residual, m * n);
    nibble::gemm(in.tokens(), w, in.results(),
                 nibble::scale_by{0.5f} | nibble::add_bias(bias) | nibble::gelu |
                     nibble::add_residual(nibble::matrix_view<const float>(residual, m, n)) | nibble::silu,
                 options);
    d.add(in.y, m * n);
    const std::uint32_t ascending[] = {0, 1, 2, 3, 4};
    nibble::gemm(in.tokens(), w, nibble::scatter_rows(in.results(), ascending));
    nibble::gemm(in.tokens(), w, nibble::scatter_add(in.results(), ascending));
    d.add(in.y, m * n);
    nibble::gemm_gated(in.tokens(), w, w, in.results(), nibble::silu);
    d.add(in.y, m * n);
    nibble::quantized<nibble::int8_channel> codes(m, n);
    for (std::size_t i = 0; i < codes.scale_count(); ++i) codes.scales()[i] = 0x2c00;
    nibble::gemm(in.tokens(), w, nibble::requantize(codes));
    d.add_values(codes);

    float sums[n];
    nibble::weight_sums(w, sums);
    d.add(sums, n);
    nibble::gemm(nibble::prepare<scheme>(in.tokens(), {.scale = nibble::activation_scale::per_group}), w, in.results());
    d.add(in.y, m * n);
    std::int32_t integers[m * n];
    const auto whole = nibble::pack(nibble::quantize<nibble::int8_channel>(in.weights()));
    nibble::gemm_integer(nibble::prepare<nibble::int8_channel>(in.tokens()), whole,
                         nibble::matrix_view<std::int32_t>(integers, m, n));
    d.add(integers, m * n);
    nibble::float16_t half[m * k];
    for (std::size_t i = 0; i < m * k; ++i) half[i] = nibble::float16_t(in.x[i]);
    nibble::gemm(nibble::matrix_view<nibble::float16_t>(half, m, k), w, in.results());
    d.add(in.y, m * n);

    using list = nibble::format_list<nibble::named_format<"int4_g128", scheme>,
                                     nibble::named_format<"int8_channel", nibble::int8_channel>>;
    const nibble::any_packed<list> any = nibble::pack(nibble::any_quantized<list>(q));
    nibble::gemm(in.tokens(), any, in.results());
    d.add(in.y, m * n);
    nibble::hadamard(in.x, 64);
    d.add(in.x, m * k);
}

#if !defined(NIBBLE_TEST_A_PART)
template <class Scheme> void add_product(digest& d) {
    static matrices in;
    const auto packed = nibble::pack(nibble::quantize<Scheme>(in.weights()));
    nibble::gemm(in.tokens(), packed, in.results());
    d.add(in.y, m * n);
}

void add_containers(digest& d) {
    static matrices in;
    const nibble::matrix_view<const float> w = in.weights();
    d.add_values(nibble::quantize_k_means<3, nibble::per_group<128>>(w));
    d.add_values(nibble::quantize_planes<nibble::per_group<64>>(w));
    d.add_values(nibble::quantize_by_error<nibble::bitmod_fp4<32>>(w));
    d.add_values(nibble::quantize_by_quota<nibble::mixed_integers<2, 4, 32>>(w, 0.25));
    d.add_values(nibble::quantize_outlier_victim<nibble::per_channel>(w));
    d.add_values(nibble::quantize_complex(w), 2);
    d.add_values(nibble::quantize_cross<nibble::int8_channel>(w));
    d.add_values(nibble::quantize_rows<nibble::int8_channel, nibble::int4_g32>(w, 0.25));
    d.add_values(nibble::quantize_transposed<nibble::int4_g32>(w));
}
#endif

// Keys in one scheme and values in another, as they are or transformed or turned, attended to in every precision.
enum class through { nothing, transform, rotary };
template <class Keys, class Values> void add_attention(digest& d, through how) {
    constexpr std::size_t tokens = 70, size = 24;
    float k_and_v[2 * tokens * size], q[2 * size], out[2 * size], other[2 * size], mass[tokens];
    float log_sums[2], log_others[2];
    numbers of{7};
    of.fill(k_and_v, 2 * tokens * size);
    of.fill(q, 2 * size);
    const nibble::matrix_view<const float> keys(k_and_v, tokens, size), values(k_and_v + tokens * size, tokens, size);
    nibble::kv_cache<Keys, Values> cache(
        nibble::kv_cache_options{.head_size = size, .capacity = 128, .page_tokens = 32, .value_window = 3, .sinks = 2});
    if (how != through::nothing) {
        nibble::kv_transform t{.mean = nibble::column_means(keys)};
        if (how == through::transform) {
            t.order = nibble::order_by_norm(keys, 1);
            t.hadamard = true;
            cache.set_value_transform(nibble::make_shared<const nibble::kv_transform>(t));
        } else {
            t.rotary.dims = size;
        }
        cache.set_key_transform(nibble::make_shared<const nibble::kv_transform>(t));
    }
    cache.append(keys, values);
    cache.truncate(tokens - 1);
    cache.append(nibble::matrix_view<const float>(keys.row(0), 1, size),
                 nibble::matrix_view<const float>(values.row(0), 1, size));
    const nibble::kv_cache<Keys, Values> copy = cache.fork();
    cache.read_keys(0, 5, nibble::matrix_view<float>(other, 2, size));
    d.add(other, 2 * size);
    cache.read_values(0, 5, nibble::matrix_view<float>(other, 2, size));
    d.add(other, 2 * size);
    nibble::workspace memory;
    for (int integer = 0; integer < 2; ++integer) {
        nibble::attend_options options{.precision = integer != 0 ? nibble::attention_precision::integer
                                                                 : nibble::attention_precision::fp32,
                                       .workspace = &memory};
        options.log_sums = nibble::matrix_view<float>(log_sums, 1, 2);
        nibble::attend(nibble::matrix_view<const float>(q, 1, 2 * size), cache,
                       nibble::matrix_view<float>(out, 1, 2 * size), options);
        d.add(out, 2 * size);
        options.log_sums = nibble::matrix_view<float>(log_others, 1, 2);
        nibble::attend(nibble::matrix_view<const float>(q, 1, 2 * size), copy,
                       nibble::matrix_view<float>(other, 1, 2 * size), options);
        options.log_sums = {};
        nibble::attention_mass(nibble::matrix_view<const float>(q, 1, 2 * size), cache,
                               nibble::matrix_view<const float>(log_sums, 1, 2),
                               nibble::matrix_view<float>(mass, 1, tokens), options);
        d.add(mass, tokens);
        const auto important = nibble::important_tokens(nibble::matrix_view<const float>(mass, 1, tokens), 0.5);
        d.add(important.data(), important.size());
        nibble::merge_attention(
            nibble::matrix_view<float>(out, 1, 2 * size), nibble::matrix_view<float>(log_sums, 1, 2),
            nibble::matrix_view<const float>(other, 1, 2 * size), nibble::matrix_view<const float>(log_others, 1, 2));
        d.add(out, 2 * size);
    }
}

} // namespace

// Not optimised, all of it shows which functions it calls; else a part has to do.
extern "C" std::uint32_t ENTRY() {
    digest d;
    add_verbs(d);
    add_attention<nibble::int8_channel, nibble::int4_g32>(d, through::nothing);
    add_attention<nibble::int8_channel, nibble::int4_g32>(d, through::transform);
    add_attention<nibble::int8_channel, nibble::int4_g32>(d, through::rotary);
#if !defined(NIBBLE_TEST_A_PART)
    add_containers(d);
    add_product<nibble::nvfp4>(d);      // two levels of scales
    add_product<nibble::mxfp6_e3m2>(d); // float family
#endif
    return d.value;
}

#define NIBBLE_TEST_JOIN(a, b) a##b
#define NIBBLE_TEST_NAME(a, b) NIBBLE_TEST_JOIN(a, b)
using exchanged = nibble::int4_g128;

extern "C" const nibble::untyped_packed* NIBBLE_TEST_NAME(ENTRY, _weights)() {
    static matrices in;
    static const nibble::packed<exchanged> w = nibble::pack(nibble::quantize<exchanged>(in.weights()));
    static const nibble::untyped_packed weights = w.untyped();
    return &weights;
}
extern "C" std::uint32_t NIBBLE_TEST_NAME(ENTRY, _product)(const nibble::untyped_packed* weights) {
    static matrices in;
    digest d;
    nibble::gemm(in.tokens(), nibble::packed_view<exchanged>(*weights), in.results());
    d.add(in.y, m * n);
    return d.value;
}
