// parking.hpp: clocks, cores, and how a thread sleeps until another wakes it (a futex): what thread_pool stands on.
#pragma once

#include <nibble/core/config.hpp>

#include <atomic>
#include <cstdint>

#if !defined(__linux__)
#error "nibble/adapt/parking.hpp needs Linux: elsewhere bring an executor of your own, see nibble/core/executor.hpp"
#endif
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::detail {

// The kernel reads the word itself.
static_assert(sizeof(std::atomic<std::uint32_t>) == 4 && std::atomic<std::uint32_t>::is_always_lock_free);

// Sleeps as long as the word has this value; may return early.
inline void sleep_while(const std::atomic<std::uint32_t>& word, std::uint32_t value) noexcept {
    constexpr int wait_private = 0 | 128; // FUTEX_WAIT | FUTEX_PRIVATE_FLAG
    (void)::syscall(SYS_futex, &word, wait_private, value, nullptr, nullptr, 0);
}
// Wakes one thread that sleeps on the word.
inline void wake_one(const std::atomic<std::uint32_t>& word) noexcept {
    constexpr int wake_private = 1 | 128; // FUTEX_WAKE | FUTEX_PRIVATE_FLAG
    (void)::syscall(SYS_futex, &word, wake_private, 1, nullptr, nullptr, 0);
}

// In nanoseconds.
[[nodiscard]] inline std::uint64_t time_of(clockid_t clock) noexcept {
    timespec t{};
    (void)::clock_gettime(clock, &t);
    return static_cast<std::uint64_t>(t.tv_sec) * 1000000000u + static_cast<std::uint64_t>(t.tv_nsec);
}
[[nodiscard]] inline std::uint64_t wall_time() noexcept {
    return time_of(CLOCK_MONOTONIC);
}
[[nodiscard]] inline std::uint64_t thread_time() noexcept {
    return time_of(CLOCK_THREAD_CPUTIME_ID);
}

// To another core than `core`, if this thread is there and may run elsewhere; afterwards it may run where it might
// before.
inline void leave_core(int core) noexcept {
    cpu_set_t before;
    if (core < 0 || core >= CPU_SETSIZE || ::sched_getcpu() != core ||
        ::sched_getaffinity(0, sizeof before, &before) != 0)
        return;
    cpu_set_t others = before;
    CPU_CLR(static_cast<unsigned>(core), &others);
    if (CPU_COUNT(&others) == 0 || ::sched_setaffinity(0, sizeof others, &others) != 0) return;
    (void)::sched_setaffinity(0, sizeof before, &before);
}

} // namespace nibble::inline NIBBLE_ABI::detail
NIBBLE_HEADER_END;
