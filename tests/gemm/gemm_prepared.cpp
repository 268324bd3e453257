// gemm_prepared.cpp: activations prepared once for several matrices, in every way they can become integers.
#include "support/catch.hpp"
#include "support/contracts.hpp"
#include "support/gemm_reference.hpp"
#include "support/guarded_memory.hpp"
#include "support/kinds.hpp"
#include "support/seams.hpp"

#include <nibble/any.hpp>
#include <nibble/core/workspace.hpp>
#include <nibble/element/float16.hpp>
#include <nibble/gemm.hpp>
#include <nibble/pack.hpp>
#include <nibble/prepare.hpp>
#include <nibble/quantize.hpp>
#include <nibble/scheme/formats.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

namespace nb = nibble;
using namespace gemm_test;

namespace {

// activation_quantization in plain words.
int8_row quantize_by(const nb::activation_quantization& grid, const float* x, std::size_t cols, std::size_t token) {
    int8_row row;
    row.values.assign(cols, 0);
    const float limit = static_cast<float>(grid.qmax);
    float low = 0.0f;
    float high = 0.0f;
    bool finite = true;
    for (std::size_t k = 0; k < cols; ++k) {
        finite = finite && std::isfinite(x[k]);
        low = x[k] < low ? x[k] : low;
        high = x[k] > high ? x[k] : high;
    }
    const float largest = high > -low ? high : -low;
    float scale = largest / limit;
    float inverse = limit / largest;
    if (!grid.scales.empty()) {
        scale = grid.scales.size() == 1 ? grid.scales[0] : grid.scales[token];
        inverse = 1.0f / scale;
        if (grid.asymmetric) row.offset = (grid.zeros.size() == 1 ? grid.zeros[0] : grid.zeros[token]) - 128;
    } else if (grid.asymmetric) {
        scale = high / (2.0f * limit) - low / (2.0f * limit);
        inverse = 1.0f / scale;
    }
    if (!finite || !std::isfinite(inverse)) {
        row.scales.push_back(finite ? 0.0f : std::numeric_limits<float>::quiet_NaN());
        row.offset = 0;
        return row;
    }
    row.scales.push_back(scale);
    if (grid.asymmetric && grid.scales.empty()) {
        row.offset = -grid.qmax - static_cast<std::int32_t>(std::nearbyint(low * inverse));
        if (row.offset > grid.qmax) row.offset = grid.qmax;
    }
    for (std::size_t k = 0; k < cols; ++k) {
        const double v = static_cast<double>(std::nearbyint(x[k] * inverse)) + row.offset;
        row.values[k] = static_cast<std::int32_t>(v > grid.qmax ? grid.qmax : v < -grid.qmax ? -grid.qmax : v);
    }
    return row;
}

// y(m, n) of each kind of preparation, and what gemm makes of it on every ISA.
template <class S> struct product {
    std::size_t n, k;
    nb::quantized<S> q;
    plain_weights plain;
    nb::packed<S> w;
    std::vector<std::int32_t> integers;
    std::vector<float> sums;
    product(std::size_t outputs, std::size_t cols)
        : n(outputs), k(cols), q(nb::quantize<S>(matrix(bell_values(outputs * cols, outputs + cols), outputs, cols))),
          plain(plain_of(q)), w(nb::pack(q)) {
        if (plain.integer) {
            integers = integers_of(plain);
            sums = reference_weight_sums(plain);
        }
    }
    static nb::matrix_view<const float> matrix(const std::vector<float>& values, std::size_t rows, std::size_t cols) {
        static std::vector<float> kept;
        kept = values;
        return {kept.data(), rows, cols};
    }

    void check(const nb::prepared_activations& x, const std::vector<float>& want, std::size_t m,
               const char* what) const {
        nibble_test::for_each_tested_isa([&]<class I>() {
            nb::gemm_options options;
            std::vector<float> own_sums(n, -1.0f);
            if (x.asymmetric()) {
                nb::weight_sums<I>(w, own_sums);
                CHECK(first_difference({own_sums.data(), 1, n}, {sums.data(), 1, n}).empty());
                options.weight_sums = own_sums;
            }
            fenced_matrix y(m, n, 3);
            nb::gemm<I>(x, w, y.view(), options);
            CHECK(y.intact());
            const std::string found = first_difference(y.view(), {want.data(), m, n});
            if (!found.empty())
                FAIL_CHECK(what << " on " << I::name << ", M N K = " << m << " " << n << " " << k << ": " << found);
        });
    }
    // Integers given by rows, of the integer family.
    [[nodiscard]] std::vector<float> by_rows(const std::vector<int8_row>& rows, bool per_group, bool asymmetric) const {
        std::vector<float> y(rows.size() * n);
        for (std::size_t m = 0; m < rows.size(); ++m)
            reference_row(rows[m], per_group, asymmetric, plain, integers, sums, y.data() + m * n);
        return y;
    }

    void check_grid(const std::vector<float>& x, std::size_t m, const nb::activation_quantization& grid,
                    const char* what) const {
        const nb::matrix_view<const float> from(x.data(), m, k);
        nb::activation_options options;
        options.quantization = grid;
        std::vector<float> want = reference_gemm(from, plain, false);
        if (plain.integer) {
            std::vector<int8_row> rows;
            for (std::size_t t = 0; t < m; ++t) rows.push_back(quantize_by(grid, from.row(t), k, t));
            want = by_rows(rows, false, grid.asymmetric);
        }
        // What a grid holds for a token alone decides; without that per token must be said.
        const bool decides = grid.asymmetric || !grid.scales.empty();
        if (decides) check(nb::prepare<S>(from, options), want, m, what);
        options.scale = nb::activation_scale::per_token;
        check(nb::prepare<S>(from, options), want, m, what);
        if (decides || !plain.integer) return;
        std::vector<int8_row> rows;
        for (std::size_t t = 0; t < m; ++t) rows.push_back(quantize_groups(from.row(t), grid.qmax));
        options.scale = nb::activation_scale::automatic;
        check(nb::prepare<S>(from, options), plain.has_groups ? by_rows(rows, true, false) : want, m, what);
    }

    // A token with a scale for each part.
    [[nodiscard]] int8_row quantize_groups(const float* x, int limit) const {
        int8_row row;
        for (const column_part& part : parts_of(plain)) {
            const int8_row one = quantize_by({.qmax = limit}, x + part.begin, part.end - part.begin, 0);
            row.values.insert(row.values.end(), one.values.begin(), one.values.end());
            row.scales.push_back(one.scales[0]);
        }
        return row;
    }

    template <class A> void check_coded(const std::vector<float>& x, std::size_t m, const char* what) const {
        using traits = nb::detail::scheme_traits<A>;
        const nb::quantized<A> coded = nb::quantize<A>(nb::matrix_view<const float>(x.data(), m, k));
        if (!plain.integer) {
            std::vector<float> values(m * k);
            nb::dequantize(coded, nb::matrix_view<float>(values.data(), m, k));
            check(nb::prepare<S>(coded), reference_gemm({values.data(), m, k}, plain, false), m, what);
            return;
        }
        const std::size_t run = traits::group_size(k);
        const std::vector<column_part> parts = parts_of(plain);
        const bool per_group = run < k;
        if (per_group && run % plain.run != 0) {
            CHECK(broken_by([&] { (void)nb::prepare<S>(coded); }).find("groups of the size") != std::string::npos);
            return;
        }
        const std::int32_t middle = nb::detail::lane_offset<typename A::element_type>;
        std::vector<int8_row> rows(m);
        for (std::size_t t = 0; t < m; ++t) {
            for (std::size_t c = 0; c < k; ++c)
                rows[t].values.push_back(static_cast<std::int32_t>(traits::element::decode(coded.code_at(t, c))) -
                                         middle);
            rows[t].offset = static_cast<std::int32_t>(coded.zero_at(t, 0)) - middle;
            if (per_group)
                for (const column_part& part : parts) rows[t].scales.push_back(coded.scale_at(t, part.begin));
            else
                rows[t].scales.push_back(coded.scale_at(t, 0));
        }
        check(nb::prepare<S>(coded), by_rows(rows, per_group, A::has_integer_zero), m, what);
    }
};

template <class S> void check_scheme() {
    for (const std::size_t n : sizes{1, 21})
        for (const std::size_t k : sizes{7, 64, 1100}) {
            const product<S> p(n, k);
            for (const std::size_t m : sizes{1, 3, 5, 33}) {
                std::vector<float> x = bell_values(m * k, m + k);
                const nb::matrix_view<const float> from(x.data(), m, k);
                p.check(nb::prepare<S>(from), reference_gemm(from, p.plain, p.plain.has_groups), m, "automatic");
                for (const bool per_group : scalings_of(p.plain))
                    p.check(nb::prepare<S>(from, scaled_by(per_group)), reference_gemm(from, p.plain, per_group), m,
                            per_group ? "per group" : "per token");
                p.check_grid(x, m, {.qmax = 64}, "seven bits");
                p.check_grid(x, m, {.qmax = 7}, "four bits");
                p.check_grid(x, m, {.asymmetric = true}, "offset");
                p.check_grid(x, m, {.qmax = 7, .asymmetric = true}, "four bits with an offset");
                const float scale = 0.03f; // values beyond 3.81 saturate
                const std::uint8_t zero = 71;
                p.check_grid(x, m, {.scales = {&scale, 1}}, "static");
                p.check_grid(x, m, {.asymmetric = true, .scales = {&scale, 1}, .zeros = {&zero, 1}},
                             "static with a zero");
                std::vector<float> scales;
                std::vector<std::uint8_t> zeros;
                for (std::size_t t = 0; t < m; ++t) {
                    scales.push_back(0.01f + 0.002f * static_cast<float>(t));
                    zeros.push_back(static_cast<std::uint8_t>(t * 8));
                }
                p.check_grid(x, m, {.scales = scales}, "static per token");
                p.check_grid(x, m, {.asymmetric = true, .scales = scales, .zeros = zeros},
                             "static per token with zeros");
                p.template check_coded<nb::int8_channel>(x, m, "int8 codes");
                p.template check_coded<nb::int4_channel>(x, m, "int4 codes");
                p.template check_coded<nb::int8_g32>(x, m, "int8 codes in groups");
                p.template check_coded<nb::int8_g128>(x, m, "int8 codes in larger groups");
                x[0] = std::numeric_limits<float>::quiet_NaN();
                if (m > 1) x[k] = -std::numeric_limits<float>::infinity();
                if (m > 2)
                    for (std::size_t c = 0; c < k; ++c) x[2 * k + c] = 0.0f;
                p.check_grid(x, m, {}, "not finite");
                p.check_grid(x, m, {.asymmetric = true}, "not finite, offset");
                p.check_grid(x, m, {.scales = {&scale, 1}}, "not finite, static");
            }
        }
}

} // namespace

TEST_CASE("prepared activations of every sort, with a format of each family") {
    nibble_test::for_each_family([]<class Format>() {
        INFO(Format::name);
        check_scheme<typename Format::scheme>();
    });
}

TEST_CASE("unsigned codes are activations with an offset") {
    const auto check = []<class S>() {
        const product<S> p(21, 160);
        std::vector<float> x = bell_values(5 * 160, 8);
        p.template check_coded<nb::int4_channel_asym>(x, 5, "uint4");
        // A code of 0 is -128 where int8 tiles stop at -127, unless the kernel sums in 32 bits.
        const auto coded = nb::quantize<nb::int8_channel_asym>(nb::matrix_view<const float>(x.data(), 5, 160));
        if (!nb::detail::fits_int16_sums<typename S::element_type>)
            p.template check_coded<nb::int8_channel_asym>(x, 5, "uint8");
        else
            CHECK(broken_by([&] { (void)nb::prepare<S>(coded); }).find("-128") != std::string::npos);
    };
    check.operator()<nb::int8_channel>();
    check.operator()<nb::int8_channel_asym>();
    check.operator()<nb::int4_channel>();
    check.operator()<nb::q4_k>();
    check.operator()<nb::fp8_e4m3_channel>();
}

TEST_CASE("16-bit activations are prepared as their values in fp32, and given rows in their order") {
    const product<nb::int4_g32> p(21, 1100);
    const std::vector<float> x = bell_values(9 * 1100, 9);
    std::vector<nb::float16_t> narrow;
    std::vector<float> wide;
    for (const float v : x) {
        narrow.push_back(nb::float16_t(v));
        wide.push_back(static_cast<float>(narrow.back()));
    }
    const std::vector<std::uint32_t> rows = {7, 2, 2, 0, 8};
    nb::activation_options options;
    options.rows = rows;
    std::vector<float> gathered;
    for (const std::uint32_t r : rows)
        gathered.insert(gathered.end(), wide.begin() + r * 1100, wide.begin() + (r + 1) * 1100);
    const std::vector<float> want = reference_gemm({gathered.data(), 5, 1100}, p.plain, true);
    const nb::matrix_view<const nb::float16_t> from(narrow.data(), 9, 1100);
    p.check(nb::prepare<nb::int4_g32>(from, options), want, 5, "rows of fp16");
    nb::gemm_options direct;
    direct.activations.rows = rows;
    fenced_matrix y(5, 21, 1);
    nb::gemm(from, p.w, y.view(), direct);
    CHECK(first_difference(y.view(), {want.data(), 5, 21}).empty());
    const std::vector<std::uint32_t> beyond = {7, 9};
    direct.activations.rows = beyond;
    fenced_matrix z(2, 21, 1);
    CHECK(broken_by([&] { nb::gemm(from, p.w, z.view(), direct); }).find("rows") != std::string::npos);
    CHECK(z.untouched());
}

TEST_CASE("gemm quantizes by options.activations.quantization as prepare does, and announces the workspace it takes") {
    const product<nb::q4_k> p(21, 512);
    const std::vector<float> x = bell_values(5 * 512, 10);
    const nb::matrix_view<const float> from(x.data(), 5, 512);
    std::vector<float> sums(21);
    nb::weight_sums(p.w, sums);
    const float scale = 0.02f;
    const std::uint8_t zero = 100;
    for (const nb::activation_quantization& grid :
         {nb::activation_quantization{.qmax = 64}, nb::activation_quantization{.asymmetric = true},
          nb::activation_quantization{.asymmetric = true, .scales = {&scale, 1}, .zeros = {&zero, 1}}}) {
        nb::activation_options prepared;
        prepared.quantization = grid;
        nb::gemm_options options;
        options.activations.quantization = grid;
        options.weight_sums = sums;
        std::vector<float> direct(5 * 21);
        std::vector<float> later(5 * 21);
        const std::size_t bytes = nb::gemm_workspace_bytes(p.w, 5, 1, options);
        nb::workspace scratch(bytes, guarded_allocator());
        options.workspace = &scratch;
        nb::gemm(from, p.w, nb::matrix_view<float>(direct.data(), 5, 21), options);
        nb::gemm(nb::prepare<nb::q4_k>(from, prepared), p.w, nb::matrix_view<float>(later.data(), 5, 21), options);
        CHECK(scratch.size() == bytes);
        CHECK(std::memcmp(direct.data(), later.data(), direct.size() * sizeof(float)) == 0);
    }
}

TEST_CASE("one preparation serves matrices whose kernels read activations alike, and no others") {
    const std::vector<float> x = bell_values(5 * 256, 11);
    const nb::matrix_view<const float> from(x.data(), 5, 256);
    nb::prepared_activations a(guarded_allocator());
    nb::prepare<nb::int4_g32>(from, a);
    const product<nb::int4_g32> one(21, 256);
    const product<nb::int4_g32_asym> two(40, 256);
    const product<nb::mxint8> wide(21, 256);
    const product<nb::fp8_e4m3_channel> real(21, 256);
    CHECK(nb::fits<nb::int4_g32>(a));
    CHECK(nb::fits(a, one.w));
    CHECK(nb::fits(a, two.w));
    CHECK(nb::fits(a, wide.w) == nb::best_isa::facts.dots_in_int32);
    CHECK(!nb::fits(a, real.w));
    CHECK(nb::fits<nb::fp8_e4m3_channel>(nb::prepare<nb::f16_plain>(from)));
    one.check(a, reference_gemm(from, one.plain, true), 5, "queries");
    two.check(a, reference_gemm(from, two.plain, true), 5, "keys");
    fenced_matrix y(5, 21, 1);
    if (nb::best_isa::facts.dots_in_int32)
        wide.check(a, reference_gemm(from, wide.plain, true), 5, "values");
    else
        CHECK(broken_by([&] { nb::gemm(a, wide.w, y.view()); }).find("another order") != std::string::npos);
    CHECK(broken_by([&] { nb::gemm(a, real.w, y.view()); }).find("another order") != std::string::npos);
    // Activations of 7 bits are bytes for weights of 8 bits too, on every machine.
    nb::activation_options small;
    small.scale = nb::activation_scale::per_token;
    small.quantization.qmax = 64;
    std::vector<int8_row> rows;
    for (std::size_t t = 0; t < 5; ++t) rows.push_back(quantize_by(small.quantization, from.row(t), 256, t));
    const nb::prepared_activations seven = nb::prepare<nb::int4_g32>(from, small);
    one.check(seven, one.by_rows(rows, false, false), 5, "queries in 7 bits");
    wide.check(seven, wide.by_rows(rows, false, false), 5, "values in 7 bits");
    wide.check(nb::prepare<nb::mxint8>(from, small), wide.by_rows(rows, false, false), 5, "values alone in 7 bits");
    const product<nb::int4_g64> other(21, 256);
    CHECK(broken_by([&] { nb::gemm(a, other.w, y.view()); }).find("another order") != std::string::npos);
    CHECK(!nb::fits(a, other.w));
    CHECK(nb::fits(seven, wide.w));
    const product<nb::int4_g32> narrow(21, 255);
    CHECK(broken_by([&] { nb::gemm(a, narrow.w, y.view()); }).find("as many columns") != std::string::npos);
    CHECK(nb::fits<nb::int4_g32>(a));
    CHECK(!nb::fits(a, narrow.w));
    const nb::prepared_activations none;
    CHECK(!nb::fits<nb::int4_g32>(none));
    CHECK(!nb::fits(none, nb::packed<nb::int4_g32>()));
    CHECK(broken_by([&] { nb::gemm(none, one.w, y.view()); }).find("as many columns") != std::string::npos);
    nb::activation_options asymmetric;
    asymmetric.quantization.asymmetric = true;
    nb::prepare<nb::int4_g32>(from, a, asymmetric);
    CHECK(broken_by([&] { nb::gemm(a, one.w, y.view()); }).find("weight_sums") != std::string::npos);
    CHECK(y.untouched());
    // Smaller and larger contents in turn.
    for (const std::size_t m : sizes{5, 1, 3, 5}) {
        const std::size_t held = a.bytes();
        nb::prepare<nb::int4_g32>(nb::matrix_view<const float>(x.data(), m, 256), a);
        CHECK(a.bytes() == held);
        one.check(a, reference_gemm({x.data(), m, 256}, one.plain, true), m, "again");
    }
    nb::prepare<nb::int4_g32>(nb::matrix_view<const float>(x.data(), 0, 256), a);
    nb::gemm(a, one.w, nb::matrix_view<float>(nullptr, 0, 21));
}

TEST_CASE(
    "scales per group fit no scheme without groups, and those per token fit both, even where a row is one group") {
    const std::vector<float> x = bell_values(3 * 32, 15);
    const nb::matrix_view<const float> from(x.data(), 3, 32);
    const product<nb::int4_g32> grouped(21, 32);
    const product<nb::int4_channel> plain(21, 32);
    const nb::prepared_activations groups = nb::prepare<nb::int4_g32>(from);
    const nb::prepared_activations tokens = nb::prepare<nb::int4_g32>(from, scaled_by(false));
    CHECK(nb::fits(groups, grouped.w));
    CHECK(!nb::fits(groups, plain.w));
    CHECK(nb::fits(tokens, grouped.w));
    CHECK(nb::fits(tokens, plain.w));
    CHECK(nb::fits(nb::prepare<nb::int4_channel>(from), grouped.w));
    fenced_matrix y(3, 21, 1);
    CHECK(broken_by([&] { nb::gemm(groups, plain.w, y.view()); }).find("other groups") != std::string::npos);
    CHECK(y.untouched());
    grouped.check(tokens, reference_gemm(from, grouped.plain, false), 3, "per token");
    plain.check(tokens, reference_gemm(from, plain.plain, false), 3, "of another scheme");
    CHECK(broken_by([&] { (void)nb::prepare<nb::int4_channel>(from, scaled_by(true)); }).find("no meaning") !=
          std::string::npos);
    CHECK(broken_by([&] {
              (void)nb::prepare<nb::fp8_e4m3_channel>(from, scaled_by(true));
          }).empty()); // nothing is rounded there
}

TEST_CASE("weights of a format known at run time take prepared activations too") {
    using formats =
        nb::format_list<nb::named_format<"int4_g32", nb::int4_g32>, nb::named_format<"int8_channel", nb::int8_channel>>;
    const std::vector<float> x = bell_values(3 * 96, 13);
    const nb::matrix_view<const float> from(x.data(), 3, 96);
    const auto check = [&]<class S>() {
        const product<S> p(21, 96);
        const nb::any_packed<formats> any = nb::pack(p.q);
        nb::prepared_activations a;
        nb::activation_options options;
        options.quantization.asymmetric = true;
        nb::prepare(from, any, a, options);
        nb::gemm_options sums;
        std::vector<float> own(21);
        nb::weight_sums(any, own);
        sums.weight_sums = own;
        fenced_matrix y(3, 21, 1);
        nb::gemm(a, any, y.view(), nb::identity{}, sums);
        fenced_matrix z(3, 21, 1);
        nb::gemm(nb::prepare<S>(from, options), p.w, z.view(), sums);
        CHECK(first_difference(y.view(), z.view()).empty());
    };
    check.operator()<nb::int4_g32>();
    check.operator()<nb::int8_channel>();
    nb::prepared_activations a;
    const nb::any_packed<formats> none;
    CHECK(broken_by([&] { nb::prepare(from, none, a); }).find("empty") != std::string::npos);
}

TEST_CASE("grids that cannot be are refused") {
    const std::vector<float> x = bell_values(5 * 64, 12);
    const nb::matrix_view<const float> from(x.data(), 5, 64);
    const auto refused = [&](const nb::activation_options& options, const char* part) {
        CHECK(broken_by([&] { (void)nb::prepare<nb::int4_g32>(from, options); }).find(part) != std::string::npos);
        // Real kernels take x as it is.
        CHECK(broken_by([&] { (void)nb::prepare<nb::nf4_g64>(from, options); }).empty());
    };
    const std::vector<float> scales(3, 1.0f);
    const float zero = 0.0f;
    const float tiny = 1e-40f;
    const float negative = -1.0f;
    const std::uint8_t one = 1;
    refused({.quantization = {.qmax = 0}}, "qmax");
    refused({.quantization = {.qmax = 128}}, "qmax");
    refused({.scale = nb::activation_scale::per_group, .quantization = {.asymmetric = true}}, "per token");
    refused({.scale = nb::activation_scale::per_group, .quantization = {.scales = {&scales[0], 1}}}, "per token");
    refused({.quantization = {.scales = scales}}, "one static scale");
    refused({.quantization = {.scales = {&zero, 1}}}, "positive");
    refused({.quantization = {.scales = {&tiny, 1}}}, "reciprocal");
    refused({.quantization = {.scales = {&negative, 1}}}, "positive");
    refused({.quantization = {.zeros = {&one, 1}}}, "zeros");
    refused({.quantization = {.asymmetric = true, .scales = {&scales[0], 1}}}, "zeros");
}
