// encoders.cpp: what is stored by the encoders that are no format's own, and by what surrounds them: GGUF blocks,
// containers of every kind, products written in codes, and attention over transformed keys and values, against what was
// recorded: the same bits with every compiler, at every level of optimisation and with floating-point contraction or
// without. `nibble_tests '[record]'` writes encoders.txt anew.
#include "support/catch.hpp"
#include "support/digest.hpp"
#include "support/seams.hpp"

#include <nibble/attend.hpp>
#include <nibble/attention/mass.hpp>
#include <nibble/cache/transform.hpp>
#include <nibble/epilogue/activation.hpp>
#include <nibble/epilogue/bias.hpp>
#include <nibble/epilogue/destination.hpp>
#include <nibble/epilogue/residual.hpp>
#include <nibble/epilogue/scale.hpp>
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
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace nb = nibble;
using nibble_test::digest;

namespace {

const std::string recorded_file = NIBBLE_TEST_DATA "/digest/encoders.txt";

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

class recorder {
public:
    // A line of encoders.txt for each.
    void add(const std::string& what, const digest& d) {
        CHECK(lines_.emplace(what, nibble_test::hexadecimal(d.value())).second);
    }
    [[nodiscard]] const std::map<std::string, std::string>& lines() const { return lines_; }

private:
    std::map<std::string, std::string> lines_;
};

template <nb::ggml_type Type, nb::ggml_encoding Encoding>
void add_blocks(recorder& to, nb::matrix_view<const float> w, const char* how) {
    const auto q = nb::quantize_ggml<Type, Encoding>(w);
    std::vector<std::byte> row(nb::detail::ggml_row_bytes<Type>(w.cols()));
    digest d;
    for (std::size_t i = 0; i < w.rows(); ++i) {
        REQUIRE(nb::detail::write_ggml_row<Type>(q, i, row.data()));
        d.add_bytes(row.data(), row.size());
    }
    to.add(std::string(nb::ggml_block_of<Type>.name) + ' ' + how, d);
}

void add_ggml(recorder& to) {
    const std::vector<float> exact = numbers(std::size_t{512} * 1024, 1, true);
    const nb::matrix_view<const float> all(exact.data(), 512, 1024);
    const nb::matrix_view<const float> few(exact.data(), 16, 1024); // for searches, which take their time
    nb::for_each_ggml_type([&]<class Type>() {
        if constexpr (nb::has_ggml_reference<Type>)
            add_blocks<Type, nb::ggml_encoding::reference>(to, all, "reference");
        add_blocks<Type, nb::ggml_encoding::best>(to, few, "best");
    });
}

template <class Q> void add_values(recorder& to, const std::string& what, const Q& q, std::size_t numbers_each = 1) {
    std::vector<float> y(q.rows() * q.cols() * numbers_each);
    nb::dequantize(q, nb::matrix_view<float>(y.data(), q.rows(), q.cols() * numbers_each));
    digest d;
    d.add(y);
    to.add(what, d);
}

void add_containers(recorder& to) {
    constexpr std::size_t rows = 24;
    constexpr std::size_t cols = 512;
    const std::vector<float> values = numbers(rows * cols, 3, true);
    const nb::matrix_view<const float> w(values.data(), rows, cols);
    add_values(to, "k-means", nb::quantize_k_means<3, nb::per_group<128>>(w));
    add_values(to, "planes", nb::quantize_planes<nb::per_group<64>>(w));
    add_values(to, "mixed", nb::quantize_by_error<nb::bitmod_fp4<32>>(w));
    add_values(to, "outlier-victim", nb::quantize_outlier_victim<nb::per_channel>(w));
    add_values(to, "complex", nb::quantize_complex(w), 2);
    add_values(to, "cross", nb::quantize_cross<nb::int8_channel>(w));
    add_values(to, "rows", nb::quantize_rows<nb::int8_channel, nb::int4_g32>(w, 0.25));
    add_values(to, "recoded", nb::recode<nb::int4_g32>(nb::quantize<nb::int8_g32>(w)));
    nb::quantized<nb::int4_g32> y(rows, rows * 2);
    for (std::size_t i = 0; i < y.scale_count(); ++i) y.scales()[i] = 0x3555; // a third in fp16
    const std::vector<float> other = numbers(rows * 2 * cols, 4, false);
    nb::gemm(w, nb::pack(nb::quantize<nb::int8_channel>(nb::matrix_view<const float>(other.data(), rows * 2, cols))),
             nb::requantize(y));
    add_values(to, "requantized", y);
}

template <class Keys, class Values> void add_attention(recorder& to) {
    constexpr std::size_t tokens = 150;
    constexpr std::size_t size = 64;
    constexpr std::size_t queries = 3;
    const std::vector<float> k = numbers(tokens * size, 5, true);
    const std::vector<float> v = numbers(tokens * size, 6, false);
    const std::vector<float> q = numbers(queries * 2 * size, 7, false);
    const nb::matrix_view<const float> keys(k.data(), tokens, size);
    const nb::matrix_view<const float> asked(q.data(), queries, 2 * size);
    nb::kv_cache<Keys, Values> cache(nb::kv_cache_options{
        .head_size = size, .capacity = 256, .key_window = 32, .value_window = 3, .storing = nb::kv_storing::at_append});
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
        digest d;
        d.add(out);
        d.add(log_sums);
        d.add(mass);
        to.add(precision == nb::attention_precision::fp32 ? "attention in fp32" : "attention in integers", d);
    }
}

// Every step of an epilogue that computes, on this instruction set and in plain C++, which compilers fuse most eagerly.
void add_finished(recorder& to) {
    constexpr std::size_t tokens = 6;
    constexpr std::size_t outputs = 33;
    constexpr std::size_t columns = 203;
    const std::vector<float> w = numbers(outputs * columns, 8, false);
    const std::vector<float> x = numbers(tokens * columns, 9, false);
    const std::vector<float> bias = numbers(outputs, 10, false);
    const std::vector<float> residual = numbers(tokens * outputs, 11, false);
    const auto packed = nb::pack(nb::quantize<nb::int4_g32>(nb::matrix_view<const float>(w.data(), outputs, columns)));
    const auto finish = nb::scale_by{0.13f} | nb::add_bias(bias) | nb::gelu |
                        nb::add_residual(nb::matrix_view<const float>(residual.data(), tokens, outputs)) | nb::silu |
                        nb::clamp{-0.2f, 3.0f};
    const auto add = [&]<class I>(const char* isa) {
        std::vector<float> y(tokens * outputs);
        nb::gemm<I>(nb::matrix_view<const float>(x.data(), tokens, columns), packed,
                    nb::matrix_view<float>(y.data(), tokens, outputs), finish);
        digest d;
        d.add(y);
        to.add(std::string("finished, ") + isa, d);
    };
    add.template operator()<nb::best_isa>("best");
    add.template operator()<nb::generic>("generic");
}

[[nodiscard]] std::map<std::string, std::string> computed() {
    recorder to;
    add_ggml(to);
    add_containers(to);
    add_finished(to);
    add_attention<nb::int8_channel, nb::int4_g32>(to);
    return to.lines();
}

} // namespace

TEST_CASE("blocks, containers and transformed caches have the recorded bits") {
    std::map<std::string, std::string> wanted;
    std::ifstream in(recorded_file);
    for (std::string value, what; in >> value && in.get() == ' ' && std::getline(in, what);) wanted[what] = value;
    const auto got = computed();
    for (const auto& [what, value] : got) {
        INFO(what);
        CHECK(wanted[what] == value);
    }
    CHECK(got.size() == wanted.size());
}

TEST_CASE("the digests of encoders are written anew", "[.][record]") {
    std::ofstream out(recorded_file);
    for (const auto& [what, value] : computed()) out << value << ' ' << what << '\n';
    REQUIRE(out.flush());
}
