// gemm_reproducible.cpp: the same bits for any executor and for any company a token has.
#include "support/catch.hpp"
#include "support/gemm_executors.hpp"
#include "support/gemm_format.hpp"
#include "support/kinds.hpp"

#include <nibble/adapt/thread_pool.hpp>
#include <nibble/core/workspace.hpp>

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace nb = nibble;
using namespace gemm_test;

namespace {

struct job {
    std::size_t tokens, outputs, cols;
    std::vector<float> x, w;
    std::unique_ptr<gemm_weights> weights;
    job(const gemm_format& format, std::size_t m, std::size_t n, std::size_t k)
        : tokens(m), outputs(n), cols(k), x(bell_values(m * k, 11)), w(bell_values(n * k, 12)),
          weights(format.quantize({w.data(), n, k})) {}
    [[nodiscard]] std::size_t isas() const { return weights->isas(); }
    // Rows [first, first + count) of x alone.
    [[nodiscard]] std::vector<float> run(std::size_t isa, std::size_t first, std::size_t count, bool per_group,
                                         const any_executor& threads, nb::workspace* scratch = nullptr) const {
        std::vector<float> y(count * outputs, -1.0f);
        nb::gemm_options options;
        options.workspace = scratch;
        options.activations = scaled_by(per_group);
        weights->gemm(isa, {x.data() + first * cols, count, cols}, {y.data(), count, outputs}, options, threads);
        return y;
    }
};

std::string difference(const std::vector<float>& got, const float* want, std::size_t outputs) {
    return first_difference({got.data(), got.size() / outputs, outputs}, {want, got.size() / outputs, outputs});
}

} // namespace

TEST_CASE("gemm gives the same bits for any number of workers and any order of tasks") {
    std::vector<any_executor> executors = {scrambled(1, 1), scrambled(2, 2), scrambled(3, 3), scrambled(7, 4)};
    for (const std::size_t threads : sizes{1, 2, 3, 7}) executors.push_back(pooled(nb::thread_pool(threads)));
    for (const auto& format : gemm_formats()) {
        // One task per four panels, one per panel, and several chunks of tokens.
        for (const std::size_t m : nibble_test::some_of<std::size_t>({1, 5, 200})) {
            const job work(*format, m, m == 200 ? 33 : 150, m == 200 ? 70 : 300);
            nb::workspace scratch;
            for (const bool per_group : scalings_of(work.weights->plain()))
                for (std::size_t isa = 0; isa < work.isas(); ++isa) {
                    const std::vector<float> serial = work.run(isa, 0, m, per_group, any_executor{});
                    for (std::size_t e = 0; e < executors.size(); ++e) {
                        const std::vector<float> other = work.run(isa, 0, m, per_group, executors[e], &scratch);
                        const std::string found = difference(other, serial.data(), work.outputs);
                        if (!found.empty())
                            FAIL_CHECK(format->name() << " on " << isa_names()[isa] << ", M = " << m << ", executor "
                                                      << e << ": " << found);
                    }
                }
        }
    }
    SUCCEED();
}

TEST_CASE("a token's results do not depend on the other tokens") {
    for (const auto& format : gemm_formats()) {
        const job work(*format, 64, 97, 520);
        for (const bool per_group : scalings_of(work.weights->plain()))
            for (std::size_t isa = 0; isa < work.isas(); ++isa) {
                const std::vector<float> all = work.run(isa, 0, 64, per_group, any_executor{});
                for (const std::size_t company : nibble_test::some_of<std::size_t>({1, 3, 7}))
                    for (std::size_t first = 0; first + company <= 64; first += company) {
                        if (company == 1 && first % 5 != 0) continue;
                        const std::vector<float> few = work.run(isa, first, company, per_group, any_executor{});
                        const std::string found = difference(few, all.data() + first * work.outputs, work.outputs);
                        if (!found.empty())
                            FAIL_CHECK(format->name() << " on " << isa_names()[isa] << ", " << company
                                                      << " tokens from " << first << " on: " << found);
                    }
            }
    }
    SUCCEED();
}

TEST_CASE("nor on the size of the chunks that many tokens and outputs are cut into") {
    for (const auto& format : gemm_formats()) {
        const job work(*format, 400, 4100, 40);
        const std::vector<float> all = work.run(0, 0, 400, false, scrambled(2, 5));
        for (const std::size_t first : nibble_test::some_of<std::size_t>({0, 95, 133, 191, 199, 383, 397})) {
            const std::vector<float> few = work.run(0, first, 3, false, any_executor{});
            const std::string found = difference(few, all.data() + first * work.outputs, work.outputs);
            if (!found.empty()) FAIL_CHECK(format->name() << ", tokens from " << first << " on: " << found);
        }
    }
    SUCCEED();
}

TEST_CASE("a workspace left dirty by another shape and format changes nothing") {
    nb::workspace scratch;
    const auto& formats = gemm_formats();
    for (std::size_t round = 0; round < 2; ++round)
        for (std::size_t f = 0; f < formats.size(); ++f) {
            const job work(*formats[f], 1 + (f * 7 + round) % 9, 20 + f, 16 + 13 * f);
            const bool per_group = round == 1 && scalings_of(work.weights->plain()).back();
            const std::vector<float> fresh = work.run(0, 0, work.tokens, per_group, any_executor{});
            std::byte* dirt = scratch.reserve(std::size_t{1} << 18);
            for (std::size_t i = 0; i < scratch.size(); ++i) dirt[i] = static_cast<std::byte>(0xff);
            const std::vector<float> reused = work.run(0, 0, work.tokens, per_group, scrambled(3, f), &scratch);
            const std::string found = difference(reused, fresh.data(), work.outputs);
            if (!found.empty()) FAIL_CHECK(formats[f]->name() << ": " << found);
        }
    SUCCEED();
}

namespace {

// Rounded to bfloat16, ties to even.
float as_bfloat16(float x) {
    const std::uint32_t word = std::bit_cast<std::uint32_t>(x);
    return std::bit_cast<float>((word + 0x7fffu + ((word >> 16) & 1u)) & 0xffff0000u);
}
// Products of a token and a row summed in bfloat16, the columns cut into `pieces` whose sums are added: what kernels do
// that share out columns, as few tokens leave cores idle.
float summed_in_bfloat16(const float* x, const float* w, std::size_t cols, std::size_t pieces) {
    float all = 0.0f;
    for (std::size_t p = 0; p < pieces; ++p) {
        float sum = 0.0f;
        for (std::size_t k = cols * p / pieces; k < cols * (p + 1) / pieces; ++k) sum = as_bfloat16(sum + x[k] * w[k]);
        all = as_bfloat16(all + sum);
    }
    return all;
}

} // namespace

// LayerCast (Yuan et al., 2025): weights in bfloat16 and arithmetic in fp32 give the same tokens whatever the batch;
// sums in bfloat16 do not.
TEST_CASE("weights in bfloat16 give the same bits in any batch, and sums in bfloat16 would not") {
    const gemm_format* format = nullptr;
    for (const auto& f : gemm_formats())
        if (f->name() == "bf16") format = f.get();
    if (nibble_test::families_only) NIBBLE_SKIP("this build has one format of each family");
    REQUIRE(format != nullptr);
    const job work(*format, 32, 61, 1031);
    const plain_weights& w = work.weights->plain();
    for (std::size_t isa = 0; isa < work.isas(); ++isa) {
        const std::vector<float> all = work.run(isa, 0, 32, false, any_executor{});
        for (const std::size_t company : {std::size_t{1}, std::size_t{2}, std::size_t{7}, std::size_t{32}})
            for (const std::size_t workers : {std::size_t{1}, std::size_t{2}})
                for (std::size_t first = 0; first + company <= 32; first += company) {
                    const std::vector<float> few = work.run(isa, first, company, false, scrambled(workers, company));
                    CHECK(difference(few, all.data() + first * work.outputs, work.outputs).empty());
                }
    }
    // The control: 4 pieces for one token, 2 for two, one for more.
    const std::vector<float> exact = work.run(0, 0, 32, false, any_executor{});
    std::size_t others = 0;
    double error = 0.0, error_in_fp32 = 0.0, power = 0.0;
    for (std::size_t t = 0; t < 32; ++t)
        for (std::size_t n = 0; n < work.outputs; ++n) {
            const float* x = work.x.data() + t * work.cols;
            const float* row = w.elements.data() + n * work.cols;
            const float alone = summed_in_bfloat16(x, row, work.cols, 4);
            const float together = summed_in_bfloat16(x, row, work.cols, 1);
            double sum = 0.0;
            for (std::size_t k = 0; k < work.cols; ++k) sum += static_cast<double>(x[k]) * static_cast<double>(row[k]);
            others += alone != together ? 1u : 0u;
            error += std::pow(static_cast<double>(together) - sum, 2);
            error_in_fp32 += std::pow(static_cast<double>(exact[t * work.outputs + n]) - sum, 2);
            power += sum * sum;
        }
    INFO(others << " of " << 32 * work.outputs << " differ; relative errors " << error / power << ", in fp32 "
                << error_in_fp32 / power);
    CHECK(2 * others > 32 * work.outputs);
    CHECK(error > 1e-6 * power);
    CHECK(error_in_fp32 < 1e-12 * power);
}
