// work_region.hpp: consecutive items for each worker, and how workers that have run out take from the others.
#pragma once

#include <nibble/core/atomic.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/executor.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::detail {

// What is left of a worker's items, [front, end), both below 2^32. Its owner takes them in order; another who has run
// out takes the back half, for a region of its own. No lock, and a cache line each. Relaxed, as workers agree on the
// items and nothing else: what the items refer to was there before any worker began.
class alignas(64) work_region {
public:
    work_region(std::size_t front, std::size_t end) noexcept : rest_(word(front, end)) {}

    // Into memory that is there.
    [[nodiscard]] static void* operator new(std::size_t, std::byte* at) noexcept { return at; }
    static void operator delete(void*, std::byte*) noexcept {}

    // Is there one? The next, then.
    [[nodiscard]] bool take(std::size_t& item) noexcept {
        std::uint64_t seen = rest_.load_relaxed();
        while (front(seen) != end(seen))
            if (rest_.compare_exchange_relaxed(seen, seen + 1)) {
                item = front(seen);
                return true;
            }
        return false;
    }
    // The back half of another's, if it has any; called by the owner, who has run out. The first of it is the next
    // item, for good: every success is work done, however many look for some.
    [[nodiscard]] bool take_half_of(work_region& other, std::size_t& item) noexcept {
        std::uint64_t seen = other.rest_.load_relaxed();
        while (front(seen) != end(seen)) {
            const std::size_t middle = front(seen) + (end(seen) - front(seen)) / 2;
            if (other.rest_.compare_exchange_relaxed(seen, word(front(seen), middle))) {
                rest_.store_relaxed(word(middle + 1, end(seen))); // nobody else writes to an empty one
                item = middle;
                return true;
            }
        }
        return false;
    }

private:
    [[nodiscard]] static std::uint64_t word(std::size_t front, std::size_t end) noexcept {
        return static_cast<std::uint64_t>(end) << 32 | front;
    }
    [[nodiscard]] static std::size_t front(std::uint64_t of) noexcept { return of & 0xffffffffu; }
    [[nodiscard]] static std::size_t end(std::uint64_t of) noexcept { return of >> 32; }

    atomic<std::uint64_t> rest_;
};

// run(item, follows, worker) once for every item in [0, count), neighbours one after the other by the same worker
// wherever that keeps all busy: `follows` says that this worker's last item was item - 1, and then it may have asked
// for this one's memory in time. Each region is in the first 64 bytes, which must be so aligned, of its worker's
// memory, `stride` apart; min(count, concurrency) of them are written. Region i of n begins with item
// begin_of(i, n), which ascends and is at most `count`: the first with 0.
template <executor Executor, class Begin, class Run>
void for_each_in_regions(std::size_t count, const Begin& begin_of, std::byte* memory, std::size_t stride,
                         const Executor& threads, const Run& run) {
    NIBBLE_CHECK(count < std::size_t{1} << 32, "more than 2^32 items of work: cut the call up");
    const std::size_t most = concurrency_of(threads);
    const std::size_t regions = count < most ? count : most;
    const auto region = [&](std::size_t i) -> work_region& {
        return *__builtin_launder(reinterpret_cast<work_region*>(memory + i * stride));
    };
    for (std::size_t i = 0; i < regions; ++i)
        new (memory + i * stride)
            work_region(begin_of(i, regions), i + 1 == regions ? count : begin_of(i + 1, regions));
    for_each_task(regions, threads, [&](std::size_t index, std::size_t worker) {
        work_region& own = region(index);
        std::size_t item = 0;
        const auto take = [&] {
            if (own.take(item)) return true;
            for (std::size_t other = 1; other < regions; ++other)
                if (own.take_half_of(region((index + other) % regions), item)) return true;
            return false;
        };
        for (std::size_t next = count; take(); next = item + 1) run(item, item == next, worker);
    });
}
// Regions of as many items each.
template <executor Executor, class Run>
void for_each_in_regions(std::size_t count, std::byte* memory, std::size_t stride, const Executor& threads,
                         const Run& run) {
    for_each_in_regions(
        count, [count](std::size_t i, std::size_t regions) { return count * i / regions; }, memory, stride, threads,
        run);
}

} // namespace nibble::inline NIBBLE_ABI::detail
NIBBLE_HEADER_END;
