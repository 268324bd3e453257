// group_size_formats.cpp: the ready schemes of groups of 16, 256 and 512 are what their names say, and one of each kind
// works.
#include <support/catch.hpp>
#include <support/random.hpp>

#include <nibble/gemm.hpp>
#include <nibble/pack.hpp>
#include <nibble/quantize.hpp>
#include <nibble/scheme/group_size_formats.hpp>

#include <cmath>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace nb = nibble;

namespace {

// Weights within half a step of what they were, two with a rounded zero point, and a product within the int8
// activations' half steps.
template <class Scheme> void check(std::size_t cols) {
    constexpr std::size_t rows = 5, tokens = 2;
    const std::vector<float> w = nibble_test::normal_values(rows * cols, 1),
                             x = nibble_test::normal_values(tokens * cols, 2);
    const auto q = nb::quantize<Scheme>({w.data(), rows, cols});
    CHECK(q.scale_count() == rows * ((cols + Scheme::granularity_type::size - 1) / Scheme::granularity_type::size));
    std::vector<float> back(rows * cols), y(tokens * rows);
    nb::dequantize(q, {back.data(), rows, cols});
    float largest = 0.0f; // of all steps
    for (std::size_t i = 0; i < q.scale_count(); ++i)
        largest = std::fmax(largest, std::fabs(nb::f16::decode(q.scales()[i])));
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < w.size(); ++i) wrong += !(std::fabs(back[i] - w[i]) <= 1.001f * largest);
    CHECK(wrong == 0);
    nb::gemm({x.data(), tokens, cols}, nb::pack(q), nb::matrix_view<float>{y.data(), tokens, rows});
    for (std::size_t m = 0; m < tokens; ++m)
        for (std::size_t n = 0; n < rows; ++n) {
            double sum = 0.0, sizes = 0.0, top = 0.0;
            for (std::size_t k = 0; k < cols; ++k) {
                const double a = static_cast<double>(x[m * cols + k]), b = static_cast<double>(back[n * cols + k]);
                sum += a * b;
                sizes += std::fabs(b);
                top = std::fmax(top, std::fabs(a));
            }
            CHECK(std::fabs(static_cast<double>(y[m * rows + n]) - sum) <= top / 254 * sizes * 1.001);
        }
}

} // namespace

TEST_CASE("schemes of groups of other sizes are what their names say", "[scheme]") {
    nb::for_each_format(nb::group_size_formats{}, []<class Format>() {
        using scheme = typename Format::scheme;
        const std::string bits = std::to_string(scheme::element_type::bits);
        const std::string size = std::to_string(scheme::granularity_type::size);
        INFO(Format::name);
        CHECK(Format::name == "int" + bits + "_g" + size + (scheme::has_integer_zero ? "_asym" : ""));
        CHECK(nb::name_of<scheme>() == ""); // not in the list of all
    });
    CHECK(nb::group_size_formats::size == 12);
}

TEST_CASE("groups of 16, 256 and 512 are quantized and multiplied, shorter last ones too", "[scheme]") {
    check<nb::int4_g16>(40);
    check<nb::int8_g512>(1100);
    check<nb::int4_g256_asym>(600);
}
