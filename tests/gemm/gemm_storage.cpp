// gemm_storage.cpp: fp16 and bf16 in and out of gemm: the fp32 product of the same numbers, rounded once.
#include "support/catch.hpp"
#include "support/gemm_reference.hpp"
#include "support/guarded_memory.hpp"
#include "support/kinds.hpp"
#include "support/seams.hpp"

#include <nibble/core/workspace.hpp>
#include <nibble/element/float16.hpp>
#include <nibble/epilogue/activation.hpp>
#include <nibble/gemm.hpp>
#include <nibble/isa/stored_lanes.hpp>
#include <nibble/pack.hpp>
#include <nibble/quantize.hpp>
#include <nibble/scheme/formats.hpp>

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace nb = nibble;
using namespace gemm_test;

namespace {

template <class T> std::vector<T> stored(const std::vector<float>& values) {
    std::vector<T> out;
    for (const float v : values) out.push_back(T(v));
    return out;
}

// A matrix of T between two forbidden pages, `gap` numbers between rows.
template <class T> struct guarded_matrix {
    std::size_t rows, cols, stride;
    guarded_memory memory;
    guarded_matrix(std::size_t m, std::size_t n, std::size_t gap)
        : rows(m), cols(n), stride(n + gap), memory((m == 0 ? 0 : (m - 1) * stride + n) * sizeof(T)) {
        if (m != 0) std::memset(memory.data(), 0xff, ((m - 1) * stride + n) * sizeof(T));
    }
    [[nodiscard]] nb::matrix_view<T> view() const { return {memory.as<T>(), rows, cols, stride}; }
    void fill(const std::vector<T>& from) const {
        for (std::size_t i = 0; i < rows; ++i)
            for (std::size_t j = 0; j < cols; ++j) view()(i, j) = from[i * cols + j];
    }
    [[nodiscard]] bool gaps_intact() const {
        for (std::size_t i = 0; i + 1 < rows; ++i)
            for (std::size_t j = cols; j < stride; ++j) {
                const auto* bytes = reinterpret_cast<const unsigned char*>(memory.as<T>() + i * stride + j);
                for (std::size_t b = 0; b < sizeof(T); ++b)
                    if (bytes[b] != 0xff) return false;
            }
        return true;
    }
};

// NaN of fp32 is any NaN, of 16 bits the one that float16.hpp documents.
template <class U> bool as_stored(U got, float want) {
    if constexpr (sizeof(U) == 2)
        return got.bits == U(want).bits;
    else
        return same_bits(got, want);
}

template <class I, class T, class U, class S>
void check_product(const nb::packed<S>& w, const plain_weights& plain, const std::vector<T>& x, std::size_t m,
                   bool per_group, std::size_t gap) {
    const std::size_t k = w.cols();
    const std::size_t n = w.rows();
    std::vector<float> wide;
    for (const T v : x) wide.push_back(static_cast<float>(v));
    const std::vector<float> want = reference_gemm({wide.data(), m, k}, plain, per_group);
    guarded_matrix<T> from(m, k, gap);
    from.fill(x);
    guarded_matrix<U> y(m, n, gap);
    nb::gemm_options options;
    options.activations = scaled_by(per_group);
    nb::workspace scratch(nb::gemm_workspace_bytes<I>(w, m, 1, options), guarded_allocator());
    const std::size_t held = scratch.size();
    options.workspace = &scratch;
    nb::gemm<I>(from.view(), w, y.view(), options);
    INFO(I::name << ", M N K = " << m << " " << n << " " << k << ", bytes " << sizeof(T) << " to " << sizeof(U));
    std::size_t different = 0;
    for (std::size_t i = 0; i < m * n; ++i) different += as_stored(y.view()(i / n, i % n), want[i]) ? 0u : 1u;
    CHECK(different == 0);
    CHECK(y.gaps_intact());
    CHECK(scratch.size() == held);
}

template <class S, class T, class U> void check_scheme() {
    for (const std::size_t n : sizes{1, 21})
        for (const std::size_t k : sizes{7, 64, 1100}) {
            const std::vector<float> values = bell_values(n * k, n + k);
            const auto q = nb::quantize<S>(nb::matrix_view<const float>(values.data(), n, k));
            const plain_weights plain = plain_of(q);
            const auto w = nb::pack(q);
            for (const std::size_t m : sizes{1, 3, 5, 33}) {
                const std::vector<T> x = stored<T>(bell_values(m * k, m + k));
                nibble_test::for_each_tested_isa([&]<class I>() {
                    check_product<I, T, U>(w, plain, x, m, false, m % 4);
                    check_product<I, T, U>(w, plain, x, m, scalings_of(plain).back(), 0);
                });
            }
        }
}

} // namespace

TEST_CASE("storing and loading lanes is the scalar codec, bit for bit, on every ISA") {
    const auto check = []<class I, class T>(std::uint32_t first, std::uint32_t step, std::uint64_t count) {
        std::size_t different = 0;
        for (std::uint64_t at = 0; at < count; at += 8) {
            float x[8];
            for (std::uint32_t i = 0; i < 8; ++i)
                x[i] = std::bit_cast<float>(first + static_cast<std::uint32_t>(at + i) * step);
            T y[8];
            nb::store_lanes<I>(y, nb::lanes<I>::load(x, 8), 8);
            for (int i = 0; i < 8; ++i) different += y[i].bits == T(x[i]).bits ? 0u : 1u;
        }
        return different;
    };
    nibble_test::for_each_tested_isa([&]<class I>() {
        INFO(I::name);
        const auto all_of = [&]<class T>() {
            CHECK((check.template operator()<I, T>(0, 4099, (std::uint64_t{1} << 32) / 4099)) == 0);
            // Around every value and every middle between two: ties and their neighbours, infinities and NaN.
            for (int shift : {12, 13, 15, 16}) {
                const std::uint32_t step = 1u << shift;
                for (const std::uint32_t off : {0xffffffffu, 0u, 1u})
                    CHECK((check.template operator()<I, T>(off, step, std::uint64_t{1} << (32 - shift))) == 0);
            }
            std::size_t different = 0;
            for (std::uint32_t code = 0; code < 65536; code += 8) {
                T from[8];
                for (std::uint32_t i = 0; i < 8; ++i) from[i] = T::from_bits(static_cast<std::uint16_t>(code + i));
                for (std::size_t count = 1; count <= 8; ++count) {
                    float got[8];
                    nb::load_lanes<I>(from, count).store(got, 8);
                    for (std::size_t i = 0; i < 8; ++i)
                        different += same_bits(got[i], i < count ? static_cast<float>(from[i]) : 0.0f) ? 0u : 1u;
                }
            }
            CHECK(different == 0);
        };
        all_of.template operator()<nb::float16_t>();
        all_of.template operator()<nb::bfloat16_t>();
    });
}

TEST_CASE("a part of a vector is stored without a byte more") {
    nibble_test::for_each_tested_isa([]<class I>() {
        for (std::size_t count = 0; count <= 8; ++count) {
            nb::float16_t y[10];
            for (nb::float16_t& v : y) v = nb::float16_t::from_bits(0xabcd);
            nb::store_lanes<I>(y + 1, nb::lanes<I>(2.0f), count);
            for (std::size_t i = 0; i < 10; ++i) CHECK(y[i].bits == (i >= 1 && i <= count ? 0x4000 : 0xabcd));
        }
    });
}

TEST_CASE("gemm in fp16, out in bf16, with a format of each family") {
    nibble_test::for_each_family([]<class Format>() {
        INFO(Format::name);
        check_scheme<typename Format::scheme, nb::float16_t, nb::bfloat16_t>();
    });
}

TEST_CASE("gemm in and out in every pair of storage types") {
    const auto pairs = []<class S>() {
        check_scheme<S, nb::float16_t, nb::float16_t>();
        check_scheme<S, nb::float16_t, float>();
        check_scheme<S, nb::bfloat16_t, nb::float16_t>();
        check_scheme<S, nb::bfloat16_t, nb::bfloat16_t>();
        check_scheme<S, nb::bfloat16_t, float>();
        check_scheme<S, float, nb::float16_t>();
        check_scheme<S, float, nb::bfloat16_t>();
    };
    pairs.operator()<nb::int4_g32>();
    pairs.operator()<nb::int8_channel>();
    pairs.operator()<nb::nf4_g64>();
}

TEST_CASE("NaN and infinities come in and go out in 16 bits as documented") {
    nibble_test::for_each_tested_isa([]<class I>() {
        INFO(I::name);
        const std::size_t k = 600;
        const std::size_t n = 19;
        const std::vector<float> values = bell_values(n * k, 3);
        const auto check = [&]<class S>(bool integer) {
            const auto q = nb::quantize<S>(nb::matrix_view<const float>(values.data(), n, k));
            const plain_weights plain = plain_of(q);
            const auto w = nb::pack(q);
            std::vector<float> x = bell_values(5 * k, 4);
            x[1 * k + 513] = std::numeric_limits<float>::infinity();
            x[2 * k + 7] = std::numeric_limits<float>::quiet_NaN();
            x[3 * k + k - 1] = -std::numeric_limits<float>::infinity();
            for (std::size_t i = 0; i < k; ++i) x[4 * k + i] *= 3000.0f; // results beyond fp16
            check_product<I, nb::float16_t, nb::float16_t>(w, plain, stored<nb::float16_t>(x), 5, false, 1);
            check_product<I, nb::bfloat16_t, nb::float16_t>(w, plain, stored<nb::bfloat16_t>(x), 5, true, 2);
            std::vector<nb::float16_t> y(5 * n);
            const std::vector<nb::float16_t> from = stored<nb::float16_t>(x);
            nb::gemm<I>(nb::matrix_view<const nb::float16_t>(from.data(), 5, k), w,
                        nb::matrix_view<nb::float16_t>(y.data(), 5, n));
            std::size_t infinite = 0;
            for (std::size_t j = 0; j < n; ++j) {
                if (integer) CHECK(y[1 * n + j].bits == 0x7e00);
                CHECK(y[2 * n + j].bits == 0x7e00);
                infinite += (y[4 * n + j].bits & 0x7fff) == 0x7c00 ? 1u : 0u;
            }
            CHECK(infinite > 0);
        };
        check.template operator()<nb::int4_g32>(true);
        check.template operator()<nb::bf16_plain>(false);
    });
}

TEST_CASE("an epilogue sees fp32, before the one rounding to 16 bits") {
    nibble_test::for_each_tested_isa([]<class I>() {
        const std::size_t k = 64;
        const std::size_t n = 33;
        const std::vector<float> values = bell_values(n * k, 5);
        const auto w = nb::pack(nb::quantize<nb::int4_g32>(nb::matrix_view<const float>(values.data(), n, k)));
        const std::vector<float> x = bell_values(3 * k, 6);
        const nb::matrix_view<const float> from(x.data(), 3, k);
        std::vector<float> wide(3 * n);
        std::vector<nb::bfloat16_t> narrow(3 * n);
        nb::gemm<I>(from, w, nb::matrix_view<float>(wide.data(), 3, n), nb::gelu);
        nb::gemm<I>(from, w, nb::matrix_view<nb::bfloat16_t>(narrow.data(), 3, n), nb::gelu);
        std::size_t different = 0;
        for (std::size_t i = 0; i < 3 * n; ++i) different += narrow[i].bits == nb::bfloat16_t(wide[i]).bits ? 0u : 1u;
        CHECK(different == 0);
    });
}
