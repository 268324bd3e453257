// epilogue.hpp: what happens to results before they are stored; steps chained with |.
#pragma once

#include <nibble/core/config.hpp>
#include <nibble/core/view.hpp>
#include <nibble/isa/generic.hpp>
#include <nibble/isa/lanes.hpp>

#include <concepts>
#include <cstddef>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// Where a vector of results stands: row `token` of y, columns output ... output + count - 1 (count is at most the
// lanes' width, and less at the end of a row).
struct position {
    std::size_t token = 0;
    std::size_t output = 0;
    std::size_t count = 0;
};

// A step is a function object on lanes: (x, where) -> x. It sees each result once, after all sums, and may read its own
// memory at `where` through Lanes::load(pointer, where.count). A step may also have  void check(tokens, outputs) const,
// which a verb calls before it writes anything.
template <class E>
concept epilogue = requires(const E& step, lanes<generic> x, position at) {
    { step(x, at) } -> std::convertible_to<lanes<generic>>;
};

// An empty base for steps of your own: with it, | between two of them is found without a using-declaration.
struct epilogue_step {};

// Leaves results as they are.
struct identity : epilogue_step {
    template <class Lanes>
    [[nodiscard]] NIBBLE_INLINE Lanes operator()(const Lanes& x, const position&) const noexcept {
        return x;
    }
};

// First, then Second.
template <epilogue First, epilogue Second> struct epilogue_chain {
    First first{};
    Second second{};
    template <class Lanes>
    [[nodiscard]] NIBBLE_INLINE Lanes operator()(const Lanes& x, const position& at) const noexcept {
        return second(Lanes(first(x, at)).kept(), at);
    }
    void check(std::size_t tokens, std::size_t outputs) const {
        check_epilogue(first, tokens, outputs);
        check_epilogue(second, tokens, outputs);
    }
    template <class E> static void check_epilogue(const E& step, std::size_t tokens, std::size_t outputs) {
        if constexpr (requires { step.check(tokens, outputs); }) step.check(tokens, outputs);
    }
};

template <epilogue First, epilogue Second>
[[nodiscard]] constexpr epilogue_chain<First, Second> operator|(const First& first, const Second& second) noexcept {
    return {first, second};
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
