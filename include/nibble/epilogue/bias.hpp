// epilogue/bias.hpp: adds one value per output.
#pragma once

#include <nibble/core/array_view.hpp>
#include <nibble/core/check.hpp>
#include <nibble/epilogue/epilogue.hpp>

#include <cstddef>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// y(m, n) += bias[n]; bias has one value per output and must outlive the call.
struct add_bias {
    array_view<const float> bias;
    explicit add_bias(array_view<const float> values) noexcept : bias(values) {}
    template <class Lanes>
    [[nodiscard]] NIBBLE_INLINE Lanes operator()(const Lanes& x, const position& at) const noexcept {
        return x + Lanes::load(bias.data() + at.output, at.count);
    }
    void check(std::size_t, std::size_t outputs) const {
        NIBBLE_CHECK(bias.size() == outputs, "add_bias: one value per output is needed");
    }
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
