// hadamard.cpp: the fast transform against the matrix it stands for, its own inverse, the same bits on every ISA.
#include "support/catch.hpp"
#include "support/contracts.hpp"
#include "support/random.hpp"

#include <nibble/dispatch/fixed.hpp>
#include <nibble/transform/hadamard.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <string>
#include <vector>

namespace nb = nibble;
using gemm_test::broken_by;

namespace {

// Every block that a length has.
template <class Visit> void for_each_block(std::size_t size, const Visit& visit) {
    for (std::size_t block = 1; block <= size && size % block == 0; block *= 2) visit(block);
}

// The product with the matrix in double.
std::vector<double> by_matrix(const std::vector<float>& x, std::size_t block) {
    std::vector<double> y(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
        const std::size_t first = i / block * block;
        for (std::size_t j = 0; j < block; ++j) {
            const double v = static_cast<double>(x[first + j]);
            y[i] += std::popcount((i - first) & j) % 2 == 0 ? v : -v;
        }
        y[i] /= std::sqrt(static_cast<double>(block));
    }
    return y;
}

} // namespace

TEST_CASE(
    "the fast transform is the product with the Walsh-Hadamard matrix, for every size of a head and every block") {
    for (std::size_t size = 1; size <= 1024; ++size)
        for_each_block(size, [&](std::size_t block) {
            const std::vector<float> x = nibble_test::normal_values(size, size);
            const std::vector<double> want = by_matrix(x, block);
            std::vector<float> got = x;
            nb::hadamard(got, block);
            const double rounds = std::log2(static_cast<double>(block)) + 1.0;
            bool right = true;
            for (std::size_t first = 0; first < size; first += block) {
                double norm = 0.0;
                for (std::size_t i = first; i < first + block; ++i)
                    norm += static_cast<double>(x[i]) * static_cast<double>(x[i]);
                for (std::size_t i = first; i < first + block; ++i)
                    right =
                        right && std::abs(static_cast<double>(got[i]) - want[i]) <= rounds * 0x1p-24 * std::sqrt(norm);
            }
            if (!right) FAIL_CHECK(size << " numbers in blocks of " << block);
        });
    SUCCEED();
}

TEST_CASE("twice the transform is nothing") {
    for (std::size_t size = 1; size <= 1024; ++size)
        for_each_block(size, [&](std::size_t block) {
            const std::vector<float> x = nibble_test::normal_values(size, 5000 + size);
            std::vector<float> got = x;
            nb::hadamard(got, block);
            nb::hadamard(got, block);
            double norm = 0.0, off = 0.0;
            for (std::size_t i = 0; i < size; ++i) {
                norm = std::max(norm, std::abs(static_cast<double>(x[i])));
                off = std::max(off, std::abs(static_cast<double>(got[i]) - static_cast<double>(x[i])));
            }
            if (!(off <= 1e-6 * norm)) FAIL_CHECK(size << " numbers in blocks of " << block << ": " << off / norm);
        });
    SUCCEED();
}

TEST_CASE("the transform has the same bits on every ISA, and those of its rounds one by one") {
    for (std::size_t size = 1; size <= 1024; ++size)
        for_each_block(size, [&](std::size_t block) {
            std::vector<float> x = nibble_test::normal_values(size, 9000 + size);
            if (size > 3) x[size / 3] *= 1e6f;
            std::vector<float> want = x;
            for (std::size_t stride = 1; stride < block; stride *= 2)
                for (std::size_t i = 0; i < size; ++i) {
                    if ((i & stride) != 0) continue;
                    const float a = want[i], b = want[i + stride];
                    want[i] = a + b;
                    want[i + stride] = a - b;
                }
            const float norm = static_cast<float>(1.0 / std::sqrt(static_cast<double>(block)));
            for (float& v : want) v *= norm;
            nb::for_each_isa([&]<class Isa>() {
                std::vector<float> got = x;
                nb::hadamard<Isa>(got, block);
                for (std::size_t i = 0; i < size; ++i)
                    if (std::bit_cast<std::uint32_t>(got[i]) != std::bit_cast<std::uint32_t>(want[i])) {
                        FAIL_CHECK(Isa::name << ": number " << i << " of " << size << " in blocks of " << block);
                        return;
                    }
            });
        });
    SUCCEED();
}

TEST_CASE("blocks: the longest that a length has, and no others than powers of two") {
    CHECK(nb::hadamard_block(128) == 128);
    CHECK(nb::hadamard_block(80) == 16);
    CHECK(nb::hadamard_block(96) == 32);
    CHECK(nb::hadamard_block(7) == 1);
    std::vector<float> x(80, 1.0f);
    CHECK(broken_by([&] { nb::hadamard(x, 16); }).empty());
    for (const std::size_t block : {0u, 3u, 5u, 32u, 160u})
        CHECK(broken_by([&] { nb::hadamard(x, block); }).find("power of two") != std::string::npos);
    nb::hadamard({x.data(), 0}, 8);
}

TEST_CASE("a number that is not finite spoils its own block") {
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
        for (const std::size_t block : {2u, 8u, 32u}) {
            std::vector<float> x(64, 1.0f);
            x[40] = bad;
            nb::hadamard(x, block);
            for (std::size_t i = 0; i < 64; ++i) CHECK(std::isfinite(x[i]) == (i / block != 40 / block));
        }
}
