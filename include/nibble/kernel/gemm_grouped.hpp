// kernel/gemm_grouped.hpp: the loops of several products at once: activations of all, then items of all, shared out by
// what they cost.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/work_region.hpp>
#include <nibble/epilogue/epilogue.hpp>
#include <nibble/kernel/activations.hpp>
#include <nibble/kernel/arena.hpp>
#include <nibble/kernel/gemm.hpp>
#include <nibble/kernel/gemm_plan.hpp>

#include <cstddef>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// One product among several, and where it stands among them.
template <any_scheme S, isa Isa> struct grouped_part {
    gemm_plan<S, Isa> plan;
    std::size_t group = 0;       // its number in the caller's list
    std::size_t first_row = 0;   // of x and y
    activation_memory x{};       // of its tokens
    std::size_t first_block = 0; // of tokens, among those of all parts
    std::size_t first_item = 0;  // of work, among those of all parts
    double first_cost = 0.0;     // of those before

    // Into memory that is there.
    [[nodiscard]] static void* operator new(std::size_t, std::byte* at) noexcept { return at; }
    static void operator delete(void*, std::byte*) noexcept {}

    [[nodiscard]] std::size_t items() const noexcept { return plan.panel_groups * plan.token_chunks; }
    // To read and unpack a panel takes about as long as to multiply it by three tokens.
    [[nodiscard]] double cost() const noexcept {
        return static_cast<double>(plan.panels) * static_cast<double>(plan.depth.padded + 1) *
               static_cast<double>(plan.tokens + 3 * plan.token_chunks);
    }
};

// All parts, none of which is empty.
template <any_scheme S, isa Isa> struct grouped_parts {
    using part = grouped_part<S, Isa>;
    part* data = nullptr;
    std::size_t count = 0;
    std::size_t blocks = 0;
    std::size_t items = 0;
    double cost = 0.0;

    void add(std::byte* at, const gemm_plan<S, Isa>& plan, std::size_t group, std::size_t first_row,
             const activation_memory& x) noexcept {
        part* const made = new (at) part{plan, group, first_row, x, blocks, items, cost};
        if (count++ == 0) data = made;
        blocks += made->plan.blocks.count;
        items += made->items();
        cost += made->cost();
    }
    // The last part whose `member` is at most `at`.
    template <class Number> [[nodiscard]] const part& of(Number part::*member, Number at) const noexcept {
        std::size_t first = 0;
        for (std::size_t n = count; n > 1;) {
            const std::size_t half = n / 2;
            if (data[first + half].*member <= at) first += half;
            n -= half;
        }
        return data[first];
    }
    // Where the items of worker i of n begin, so that all have as much to do.
    [[nodiscard]] std::size_t begin_of(std::size_t i, std::size_t n) const noexcept {
        const double before = cost * static_cast<double>(i) / static_cast<double>(n);
        const part& p = of(&part::first_cost, before);
        const double share = (before - p.first_cost) / p.cost() * static_cast<double>(p.items());
        return p.first_item + detail::min_of(p.items(), static_cast<std::size_t>(share));
    }
};

// run(part, panel_work, worker) for all panels and tokens of all parts.
template <any_scheme S, isa Isa, executor Executor, class Run>
inline void for_each_item(const grouped_parts<S, Isa>& parts, std::byte* workers, std::size_t stride,
                          const Executor& threads, const Run& run) {
    detail::for_each_in_regions(
        parts.items, [&](std::size_t i, std::size_t n) { return parts.begin_of(i, n); }, workers, stride, threads,
        [&](std::size_t item, bool follows, std::size_t worker) {
            const grouped_part<S, Isa>& part = parts.of(&grouped_part<S, Isa>::first_item, item);
            const std::size_t own = item - part.first_item;
            run(part, work_of(part.plan, own, follows && own != 0), worker);
        });
}

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
