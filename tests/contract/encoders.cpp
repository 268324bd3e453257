// encoders.cpp: checksums of what is stored: GGUF blocks, quantized matrices of every kind, containers and caches;
// run.sh compares those of programs compiled with floating-point contraction on and off.
#include "../support/kinds.hpp"

#include <nibble/attend.hpp>
#include <nibble/attention/mass.hpp>
#include <nibble/cache/transform.hpp>
#include <nibble/epilogue/destination.hpp>
#include <nibble/gemm.hpp>
#include <nibble/io/ggml_quantize.hpp>
#include <nibble/kv_cache.hpp>
#include <nibble/pack.hpp>
#include <nibble/quantize.hpp>
#include <nibble/quantize/complex.hpp>
#include <nibble/quantize/cross.hpp>
#include <nibble/quantize/lookup.hpp>
#include <nibble/quantize/mixed.hpp>
#include <nibble/quantize/outlier_victim.hpp>
#include <nibble/quantize/rows.hpp>
#include <nibble/recode.hpp>
#include <nibble/requantize.hpp>
#include <nibble/scheme/formats.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string_view>
#include <vector>

namespace nb = nibble;

namespace {

// Sums of four uniform numbers, in a range as weights have it. In bf16 their quotients hit ties exactly, again and
// again.
std::vector<float> numbers(std::size_t count, std::uint32_t seed, bool bf16) {
    std::vector<float> v(count);
    std::uint32_t state = seed;
    for (float& x : v) {
        std::int32_t sum = 0;
        for (int i = 0; i < 4; ++i) {
            state = state * 1664525u + 1013904223u;
            sum += static_cast<std::int32_t>(state >> 12) - (1 << 19);
        }
        x = static_cast<float>(sum) * 0x1p-22f;
        if (bf16) {
            std::uint32_t word = 0;
            std::memcpy(&word, &x, sizeof word);
            word = (word + 0x7fffu + ((word >> 16) & 1u)) & 0xffff0000u;
            std::memcpy(&x, &word, sizeof word);
        }
    }
    return v;
}

class crc32 {
public:
    void add(const void* from, std::size_t bytes) {
        const auto* at = static_cast<const unsigned char*>(from);
        for (std::size_t i = 0; i < bytes; ++i) value_ = (value_ >> 8) ^ table_[(value_ ^ at[i]) & 255u];
    }
    void add(const std::vector<float>& v) { add(v.data(), v.size() * sizeof(float)); }
    [[nodiscard]] std::uint32_t value() const { return ~value_; }

private:
    struct crc_table {
        std::uint32_t at[256] = {};
        crc_table() {
            for (std::uint32_t i = 0; i < 256; ++i) {
                at[i] = i;
                for (int bit = 0; bit < 8; ++bit) at[i] = (at[i] >> 1) ^ ((at[i] & 1u) != 0 ? 0xedb88320u : 0u);
            }
        }
        std::uint32_t operator[](std::size_t i) const { return at[i]; }
    };
    static inline const crc_table table_{};
    std::uint32_t value_ = 0xffffffffu;
};

void print(const char* what, std::string_view of, const char* how, const crc32& crc) {
    std::printf("%s %.*s %s %08x\n", what, static_cast<int>(of.size()), of.data(), how, crc.value());
}

template <nb::ggml_type Type, nb::ggml_encoding Encoding>
void print_blocks(nb::matrix_view<const float> w, const char* how) {
    const auto q = nb::quantize_ggml<Type, Encoding>(w);
    std::vector<std::byte> row(nb::detail::ggml_row_bytes<Type>(w.cols()));
    crc32 crc;
    for (std::size_t i = 0; i < w.rows(); ++i) {
        if (!nb::detail::write_ggml_row<Type>(q, i, row.data())) std::printf("this row cannot be written\n");
        crc.add(row.data(), row.size());
    }
    print("ggml", nb::ggml_block_of<Type>.name, how, crc);
}

void print_ggml() {
    const std::vector<float> exact = numbers(std::size_t{512} * 1024, 1, true);
    const nb::matrix_view<const float> all(exact.data(), 512, 1024);
    const nb::matrix_view<const float> few(exact.data(), 16, 1024); // for searches, which take their time
    nb::for_each_ggml_type([&]<class Type>() {
        if constexpr (nb::has_ggml_reference<Type>) print_blocks<Type, nb::ggml_encoding::reference>(all, "reference");
        print_blocks<Type, nb::ggml_encoding::best>(few, "best");
    });
}

template <class Q>
void print_values(const char* what, std::string_view of, const char* how, const Q& q, std::size_t numbers_each = 1) {
    std::vector<float> y(q.rows() * q.cols() * numbers_each);
    nb::dequantize(q, nb::matrix_view<float>(y.data(), q.rows(), q.cols() * numbers_each));
    crc32 crc;
    crc.add(y);
    print(what, of, how, crc);
}

void print_quantized() {
    constexpr std::size_t rows = 24;
    constexpr std::size_t cols = 520; // the last groups are short
    for (const bool bf16 : {true, false}) {
        const std::vector<float> values = numbers(rows * cols, 2, bf16);
        const nb::matrix_view<const float> w(values.data(), rows, cols);
        nibble_test::for_each_family([&]<class Format>() {
            print_values("absmax", Format::name, bf16 ? "bf16" : "fp32", nb::quantize<typename Format::scheme>(w));
            print_values("least squares", Format::name, bf16 ? "bf16" : "fp32",
                         nb::quantize<typename Format::scheme>(w, {.range = nb::range::least_squares}));
        });
    }
}

void print_containers() {
    constexpr std::size_t rows = 24;
    constexpr std::size_t cols = 512;
    const std::vector<float> values = numbers(rows * cols, 3, true);
    const nb::matrix_view<const float> w(values.data(), rows, cols);
    print_values("container", "k-means", "", nb::quantize_k_means<3, nb::per_group<128>>(w));
    print_values("container", "planes", "", nb::quantize_planes<nb::per_group<64>>(w));
    print_values("container", "mixed", "", nb::quantize_by_error<nb::bitmod_fp4<32>>(w));
    print_values("container", "outlier-victim", "", nb::quantize_outlier_victim<nb::per_channel>(w));
    print_values("container", "complex", "", nb::quantize_complex(w), 2);
    print_values("container", "cross", "", nb::quantize_cross<nb::int8_channel>(w));
    print_values("container", "rows", "", nb::quantize_rows<nb::int8_channel, nb::int4_g32>(w, 0.25));
    print_values("container", "recoded", "", nb::recode<nb::int4_g32>(nb::quantize<nb::int8_g32>(w)));
    nb::quantized<nb::int4_g32> y(rows, rows * 2);
    for (std::size_t i = 0; i < y.scale_count(); ++i) y.scales()[i] = 0x3555; // a third in fp16
    const std::vector<float> other = numbers(rows * 2 * cols, 4, false);
    nb::gemm(w, nb::pack(nb::quantize<nb::int8_channel>(nb::matrix_view<const float>(other.data(), rows * 2, cols))),
             nb::requantize(y));
    print_values("container", "requantized", "", y);
}

template <class Keys, class Values> void print_attention() {
    constexpr std::size_t tokens = 150;
    constexpr std::size_t size = 64;
    constexpr std::size_t queries = 3;
    const std::vector<float> k = numbers(tokens * size, 5, true);
    const std::vector<float> v = numbers(tokens * size, 6, false);
    const std::vector<float> q = numbers(queries * 2 * size, 7, false);
    const nb::matrix_view<const float> keys(k.data(), tokens, size);
    const nb::matrix_view<const float> asked(q.data(), queries, 2 * size);
    nb::kv_cache<Keys, Values> cache(
        nb::kv_cache_options{.head_size = size, .capacity = 256, .key_window = 32, .value_window = 3});
    nb::kv_transform transform{.mean = nb::column_means(keys)};
    transform.order = nb::order_by_norm(keys, 1, transform.mean);
    transform.hadamard = true;
    cache.set_value_transform(std::make_shared<const nb::kv_transform>(transform));
    transform.order.clear();
    transform.hadamard = false;
    transform.rotary.dims = size;
    cache.set_key_transform(std::make_shared<const nb::kv_transform>(transform));
    cache.append(keys, nb::matrix_view<const float>(v.data(), tokens, size));
    for (const auto precision : {nb::attention_precision::fp32, nb::attention_precision::integer}) {
        std::vector<float> out(queries * 2 * size);
        std::vector<float> log_sums(queries * 2);
        std::vector<float> mass(tokens);
        nb::attend_options options{.soft_cap = 5.0f, .precision = precision};
        options.log_sums = nb::matrix_view<float>(log_sums.data(), queries, 2);
        nb::attend(asked, cache, nb::matrix_view<float>(out.data(), queries, 2 * size), options);
        options.log_sums = {};
        nb::attention_mass(asked, cache, nb::matrix_view<const float>(log_sums.data(), queries, 2),
                           nb::matrix_view<float>(mass.data(), 1, tokens), options);
        crc32 crc;
        crc.add(out);
        crc.add(log_sums);
        crc.add(mass);
        print("attention", "int8 and int4", precision == nb::attention_precision::fp32 ? "fp32" : "integer", crc);
    }
}

} // namespace

int main() {
    print_ggml();
    print_quantized();
    print_containers();
    if constexpr (!nibble_test::kinds_only) print_attention<nb::int8_channel, nb::int4_g32>();
}
