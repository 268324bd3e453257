// gemm_guard_pages.cpp: every buffer of a gemm ends where the program may not read: x, y, the packed weights, the
// workspace, a bias and a residual.
#include "support/catch.hpp"
#include "support/gemm_executors.hpp"
#include "support/gemm_format.hpp"
#include "support/guarded_memory.hpp"

#include <nibble/core/workspace.hpp>
#include <nibble/epilogue/bias.hpp>
#include <nibble/epilogue/residual.hpp>
#include <nibble/gemm.hpp>
#include <nibble/pack.hpp>
#include <nibble/quantize.hpp>
#include <nibble/scheme/formats.hpp>

#include <cstddef>
#include <cstring>
#include <span>
#include <vector>

namespace nb = nibble;
using namespace gemm_test;

TEST_CASE("gemm reads and writes nothing beyond its buffers, and the announced workspace is enough") {
    for (const auto& format : gemm_formats())
        for (const std::size_t n : sizes{1, 17, 70})
            for (const std::size_t k : sizes{1, 5, 33, 130, 1100})
                for (const std::size_t m : sizes{1, 3, 7}) {
                    const std::vector<float> values = bell_values(n * k, n + k);
                    const auto plain = format->quantize({values.data(), n, k});
                    const auto weights = plain->copy_to(guarded_allocator());
                    const guarded_memory x(m * k * sizeof(float));
                    const std::vector<float> tokens = bell_values(m * k, k);
                    std::memcpy(x.data(), tokens.data(), tokens.size() * sizeof(float));
                    const guarded_memory y(m * n * sizeof(float));
                    for (const bool per_group : scalings_of(plain->plain())) {
                        nb::gemm_options options;
                        options.activations = scaled_by(per_group);
                        const nb::matrix_view<const float> from(x.as<float>(), m, k);
                        const std::vector<float> want = reference_gemm(from, plain->plain(), per_group);
                        const std::size_t workers = 1 + (m + k) % 3;
                        const std::size_t bytes = weights->workspace_bytes(m, workers, options);
                        nb::workspace scratch(bytes, guarded_allocator());
                        options.workspace = &scratch;
                        for (std::size_t isa = 0; isa < weights->isas(); ++isa) {
                            std::memset(y.data(), 0xff, m * n * sizeof(float));
                            weights->gemm(isa, from, {y.as<float>(), m, n}, options, scrambled(workers, k));
                            const std::string found = first_difference({y.as<float>(), m, n}, {want.data(), m, n});
                            if (!found.empty())
                                FAIL_CHECK(format->name() << " on " << isa_names()[isa] << " M N K = " << m << " " << n
                                                          << " " << k << ": " << found);
                        }
                        if (scratch.size() != bytes)
                            FAIL_CHECK(format->name()
                                       << ": gemm_workspace_bytes says " << bytes << ", gemm took " << scratch.size());
                    }
                }
    SUCCEED();
}

namespace {

template <class I> void check_epilogue_memory() {
    for (const std::size_t n : sizes{1, 7, 8, 9, 15, 17, 31}) {
        const std::size_t m = 3;
        const std::size_t k = 32;
        const std::vector<float> w = bell_values(n * k, 5);
        const auto weights = nb::pack(nb::quantize<nb::int4_g32>(nb::matrix_view<const float>(w.data(), n, k)));
        const std::vector<float> x = bell_values(m * k, 6);
        const guarded_memory bias(n * sizeof(float));
        const guarded_memory residual(m * n * sizeof(float));
        const guarded_memory y(m * n * sizeof(float));
        for (std::size_t i = 0; i < n; ++i) bias.as<float>()[i] = static_cast<float>(i);
        for (std::size_t i = 0; i < m * n; ++i) residual.as<float>()[i] = 100.0f * static_cast<float>(i);
        const nb::matrix_view<const float> from(x.data(), m, k);
        std::vector<float> plain(m * n);
        nb::gemm<I>(from, weights, nb::matrix_view<float>(plain.data(), m, n));
        nb::gemm<I>(from, weights, nb::matrix_view<float>(y.as<float>(), m, n),
                    nb::add_bias(std::span<const float>(bias.as<float>(), n)) |
                        nb::add_residual(nb::matrix_view<const float>(residual.as<float>(), m, n)));
        for (std::size_t i = 0; i < m * n; ++i)
            CHECK(y.as<float>()[i] == (plain[i] + bias.as<float>()[i % n]) + residual.as<float>()[i]);
    }
}

} // namespace

TEST_CASE("epilogues read nothing beyond their bias and residual") {
    nb::for_each_isa([]<class I>() { check_epilogue_memory<I>(); });
}
