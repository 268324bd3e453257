// mixed_rows.hpp: weights some of whose rows are in one scheme and the others in another; in plain order.
#pragma once

#include <nibble/core/check.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/dynamic_array.hpp>
#include <nibble/core/reset_on_move.hpp>
#include <nibble/scheme/scheme.hpp>
#include <nibble/tensor/quantized.hpp>

#include <cstddef>
#include <utility>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// Two matrices, and which row of the whole each of their rows is, ascending. A kernel runs on each of the two; its
// outputs belong to the features that the lists name (scatter_columns).
template <any_scheme High, any_scheme Low> class mixed_rows {
public:
    mixed_rows() noexcept = default;
    // `is_high`: one entry per row of the whole, in order.
    mixed_rows(quantized<High> high, quantized<Low> low, const dynamic_array<bool>& is_high)
        : high_(std::move(high)), low_(std::move(low)) {
        for (std::size_t i = 0; i < is_high.size(); ++i) (is_high[i] ? high_rows_ : low_rows_)->push_back(i);
        NIBBLE_CHECK(high_rows_->size() == high_.rows() && low_rows_->size() == low_.rows(),
                     "mixed_rows: each part needs as many rows as are marked as its own");
        NIBBLE_CHECK(high_.cols() == low_.cols(), "mixed_rows: both parts need the same number of columns");
    }

    [[nodiscard]] std::size_t rows() const noexcept { return high_rows_->size() + low_rows_->size(); }
    [[nodiscard]] std::size_t cols() const noexcept { return high_.cols(); }
    [[nodiscard]] std::size_t bytes() const noexcept { return high_.bytes() + low_.bytes(); }
    [[nodiscard]] const quantized<High>& high() const noexcept { return high_; }
    [[nodiscard]] const quantized<Low>& low() const noexcept { return low_; }
    [[nodiscard]] const dynamic_array<std::size_t>& high_rows() const noexcept { return high_rows_; }
    [[nodiscard]] const dynamic_array<std::size_t>& low_rows() const noexcept { return low_rows_; }

private:
    quantized<High> high_;
    quantized<Low> low_;
    detail::reset_on_move<dynamic_array<std::size_t>> high_rows_;
    detail::reset_on_move<dynamic_array<std::size_t>> low_rows_;
};

// With one bit per row for the choice.
template <any_scheme High, any_scheme Low>
[[nodiscard]] double bits_per_weight(const mixed_rows<High, Low>& q) noexcept {
    if (q.rows() == 0 || q.cols() == 0) return 0.0;
    const double share = static_cast<double>(q.high().rows()) / static_cast<double>(q.rows());
    return bits_per_weight(q.high()) * share + bits_per_weight(q.low()) * (1.0 - share) +
           1.0 / static_cast<double>(q.cols());
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
