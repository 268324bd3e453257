// component_errors.cpp: attention with keys and values of every pair of kinds of numbers is off by what its parts are
// off by.
//   TurboMind (Zhang et al., 2025): queries, keys and values each in a precision of its own.
#include "support/attended.hpp"
#include "support/attention_reference.hpp"
#include "support/catch.hpp"
#include "support/kinds.hpp"
#include "support/lists.hpp"

#include <nibble/attend.hpp>
#include <nibble/kv_cache.hpp>
#include <nibble/quantize.hpp>
#include <nibble/scheme/formats.hpp>

#include <cmath>
#include <cstddef>
#include <type_traits>
#include <vector>

namespace nb = nibble;
using namespace attend_test;

namespace {

constexpr std::size_t tokens_stored = 300;
constexpr std::size_t channels = 64;
constexpr std::size_t queries = 24;

// Plain numbers of 32 and of 16 bits, integers of 8 and of 4, and a minifloat.
using kinds =
    nibble_test::type_list<nb::f32_plain, nb::bf16_plain, nb::int8_channel, nb::int4_g32, nb::fp8_e4m3_channel>;

double relative_squares(const std::vector<float>& got, const std::vector<double>& want) {
    double error = 0.0, power = 0.0;
    for (std::size_t i = 0; i < want.size(); ++i) {
        error += std::pow(static_cast<double>(got[i]) - want[i], 2);
        power += want[i] * want[i];
    }
    return error / power;
}
template <class Scheme> double error_of(const matrix& x) {
    matrix y(x.rows, x.cols);
    nb::dequantize(nb::quantize<Scheme>(static_cast<const_view>(x)), static_cast<view>(y));
    return relative_squares(y.at, {x.at.begin(), x.at.end()});
}
// Each query sees the tokens up to its own, the last of which are theirs.
std::vector<double> attention_in_double(const matrix& k, const matrix& v, const matrix& q) {
    std::vector<double> out(q.rows * v.cols);
    for (std::size_t i = 0; i < q.rows; ++i) {
        std::vector<double> scores(k.rows - q.rows + i + 1);
        double sum = 0.0;
        for (std::size_t t = 0; t < scores.size(); ++t) {
            double dot = 0.0;
            for (std::size_t c = 0; c < k.cols; ++c)
                dot += static_cast<double>(q.row(i)[c]) * static_cast<double>(k.row(t)[c]);
            scores[t] = std::exp(dot / std::sqrt(static_cast<double>(k.cols)));
            sum += scores[t];
        }
        for (std::size_t t = 0; t < scores.size(); ++t)
            for (std::size_t c = 0; c < v.cols; ++c)
                out[i * v.cols + c] += scores[t] / sum * static_cast<double>(v.row(t)[c]);
    }
    return out;
}

} // namespace

TEST_CASE("attention errs by less than twice the sum of what queries, keys and values err by") {
    const matrix k = matrix::normal(tokens_stored, channels, 51);
    const matrix v = matrix::normal(tokens_stored, channels, 52);
    const matrix q = matrix::normal(queries, channels, 53);
    const std::vector<double> exact = attention_in_double(k, v, q);
    nibble_test::for_each_type(kinds{}, [&]<class Keys>() {
        nibble_test::for_each_type(kinds{}, [&]<class Values>() {
            // Narrowed builds keep one kind beside itself and beside fp32.
            if constexpr (!nibble_test::kinds_only || std::is_same_v<Keys, Values> ||
                          std::is_same_v<Keys, nb::f32_plain>) {
                nb::kv_cache_options o;
                o.head_size = channels;
                o.value_size = channels;
                o.capacity = tokens_stored;
                nb::kv_cache<Keys, Values> cache(o);
                cache.append(static_cast<const_view>(k), static_cast<const_view>(v));
                // Queries in fp32, and in 8 bits where keys are integers.
                for (const auto precision : {nb::attention_precision::fp32, nb::attention_precision::integer_scores}) {
                    const double of_queries =
                        precision == nb::attention_precision::fp32 ? 0.0 : error_of<nb::int8_channel>(q);
                    const double parts = of_queries + error_of<Keys>(k) + error_of<Values>(v);
                    const double error = relative_squares(attended(cache, q, {.precision = precision}).out.at, exact);
                    INFO("keys " << nb::name_of<Keys>() << ", values " << nb::name_of<Values>() << ", precision "
                                 << static_cast<int>(precision) << ": " << error << " of " << parts);
                    CHECK(error <= 2.0 * parts + 1e-12);
                    // Nor is it free: values in fewer bits are seen.
                    CHECK(error >= 0.3 * error_of<Values>(v));
                }
            }
        });
    });
}
