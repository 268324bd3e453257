// gemm_format.hpp: every format of the list with gemm on every ISA, behind one run-time interface: the verbs are
// compiled once, in gemm/slices/ and for the best ISA in bench/verbs/, and all tests of gemm share them.
#pragma once

#include "gemm_reference.hpp"

#include <nibble/core/buffer.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/view.hpp>
#include <nibble/gemm.hpp>
#include <nibble/prepare.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace gemm_test {

// Any executor behind one type.
class any_executor {
public:
    using task_function = std::function<void(std::size_t, std::size_t)>;
    any_executor() = default; // serial
    any_executor(std::size_t workers, std::function<void(std::size_t, const task_function&)> run)
        : workers_(workers), run_(std::move(run)) {}
    [[nodiscard]] std::size_t concurrency() const { return workers_; }
    template <class Task> void parallel_for(std::size_t count, Task&& task) const {
        if (run_ == nullptr)
            for (std::size_t i = 0; i < count; ++i) task(i, std::size_t{0});
        else
            run_(count, [&](std::size_t i, std::size_t worker) { task(i, worker); });
    }

private:
    std::size_t workers_ = 1;
    std::function<void(std::size_t, const task_function&)> run_;
};

// What the codes of a weight matrix are to be; null for scale 1 (or the nearest), outer 1, zero 0.
struct code_pattern {
    using function = std::function<std::uint32_t(std::size_t row, std::size_t at)>;
    function code;  // (row, column)
    function scale; // (row, group)
    function outer; // (row, group)
    function zero;  // (row, group)
};

// A weight matrix in some format, packed.
class gemm_weights {
public:
    gemm_weights() = default;
    gemm_weights(const gemm_weights&) = delete;
    gemm_weights& operator=(const gemm_weights&) = delete;
    virtual ~gemm_weights() = default;
    [[nodiscard]] virtual const plain_weights& plain() const = 0;
    // On the ISA of that place in available_isas, one of the first isas(): the best, and all for one format of each
    // kind, or of each family in builds that have one of each kind alone.
    [[nodiscard]] virtual std::size_t isas() const = 0;
    virtual void gemm(std::size_t isa, nibble::matrix_view<const float> x, nibble::matrix_view<float> y,
                      const nibble::gemm_options& options, const any_executor& threads) const = 0;
    // Whether the next two are there: for one format of each family, which share them, or for every one with
    // NIBBLE_TEST_EVERY_DIGEST.
    [[nodiscard]] virtual bool surrounded() const = 0;
    // With a chain of epilogues: x 0.125, bias added, gelu, residual added.
    virtual void gemm_finished(std::size_t isa, nibble::matrix_view<const float> x, nibble::matrix_view<float> y,
                               std::span<const float> bias, nibble::matrix_view<const float> residual,
                               const nibble::gemm_options& options, const any_executor& threads) const = 0;
    // Of activations prepared beforehand.
    virtual void gemm_prepared(std::size_t isa, nibble::matrix_view<const float> x, nibble::matrix_view<float> y,
                               const nibble::activation_options& prepared, const any_executor& threads) const = 0;
    [[nodiscard]] virtual std::size_t workspace_bytes(std::size_t tokens, std::size_t concurrency,
                                                      const nibble::gemm_options& options) const = 0;
    [[nodiscard]] virtual std::span<const std::byte> packed_bytes() const = 0;
    // The packed weights in memory from another allocator.
    [[nodiscard]] virtual std::unique_ptr<gemm_weights> copy_to(nibble::allocator from) const = 0;
};

class gemm_format {
public:
    gemm_format() = default;
    gemm_format(const gemm_format&) = delete;
    gemm_format& operator=(const gemm_format&) = delete;
    virtual ~gemm_format() = default;
    [[nodiscard]] virtual std::string_view name() const = 0;
    [[nodiscard]] virtual int bits() const = 0;
    [[nodiscard]] virtual float decode(std::uint32_t code) const = 0;
    [[nodiscard]] virtual bool scaled() const = 0;
    [[nodiscard]] virtual bool two_level() const = 0;
    [[nodiscard]] virtual bool has_integer_zero() const = 0;
    [[nodiscard]] virtual bool has_minimum() const = 0;
    [[nodiscard]] virtual int scale_bits() const = 0;
    [[nodiscard]] virtual int outer_bits() const = 0;
    [[nodiscard]] virtual std::unique_ptr<gemm_weights> quantize(nibble::matrix_view<const float> w) const = 0;
    // Codes an encoder need not be able to make.
    [[nodiscard]] virtual std::unique_ptr<gemm_weights> fill(std::size_t rows, std::size_t cols,
                                                             const code_pattern& pattern) const = 0;

    // The codes of the lowest and the highest finite value.
    [[nodiscard]] std::pair<std::uint32_t, std::uint32_t> extremes() const {
        if (bits() == 32) return {0xff7fffffu, 0x7f7fffffu};
        std::uint32_t low = 0;
        std::uint32_t high = 0;
        for (std::uint32_t c = 0; c < (1u << bits()); ++c) {
            if (!std::isfinite(decode(c))) continue;
            if (decode(c) < decode(low)) low = c;
            if (decode(c) > decode(high)) high = c;
        }
        return {low, high};
    }
};

// All formats, in the order of the list.
[[nodiscard]] const std::vector<std::unique_ptr<gemm_format>>& gemm_formats();

// The names of available_isas.
[[nodiscard]] inline std::vector<std::string_view> isa_names() {
    std::vector<std::string_view> names;
    nibble::for_each_isa([&]<class I>() { names.push_back(I::name); });
    return names;
}

// One share of the formats, of NIBBLE_TEST_GEMM_SLICES: CMake writes a source for each (gemm/slices/).
template <std::size_t Slice> [[nodiscard]] std::vector<std::unique_ptr<gemm_format>> make_gemm_slice();

} // namespace gemm_test
