// check.hpp: contracts on arguments; what happens when a caller breaks one is the program's choice.
#pragma once

#include <nibble/core/atomic.hpp>
#include <nibble/core/config.hpp>

#include <cstdio>
#include <cstdlib>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// What a broken contract calls: `message` says what was wrong and what to do. It may throw (every verb is
// exception-neutral and checks its arguments before it writes anything) or end the program; if it returns, the program
// is aborted.
using failure_handler = void (*)(const char* message, const char* file, int line);

namespace detail {

[[noreturn]] inline void print_and_abort(const char* message, const char* file, int line) {
    std::fprintf(stderr, "nibble: %s (%s:%d)\n", message, file, line);
    std::abort();
}

inline constinit atomic<failure_handler> current_failure_handler{&print_and_abort};

[[noreturn]] NIBBLE_NOINLINE inline void fail(const char* message, const char* file, int line) {
    current_failure_handler.load_acquire()(message, file, line);
    std::abort();
}

} // namespace detail

// Replaces the handler for all threads and returns the one before it; nullptr restores the default, which prints the
// message to stderr and aborts.
inline failure_handler set_failure_handler(failure_handler handler) noexcept {
    return detail::current_failure_handler.exchange(handler != nullptr ? handler : &detail::print_and_abort);
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;

// Always on: arguments are checked once per call, never in a loop.
#define NIBBLE_CHECK(condition, message)                                                                               \
    do {                                                                                                               \
        if (NIBBLE_UNLIKELY(!(condition))) ::nibble::detail::fail(message, __FILE__, __LINE__);                        \
    } while (false)
