// activation_range.hpp: ranges of activations from a calibration, and the static scales that follow from them.
#pragma once

#include <nibble/core/array_view.hpp>
#include <nibble/core/bits.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/dynamic_array.hpp>
#include <nibble/core/view.hpp>
#include <nibble/kernel/activations.hpp>
#include <nibble/kernel/statistics.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// What activations lie in; 0 is always inside.
struct activation_range {
    float low = 0.0f;
    float high = 0.0f;
};

// A scale, and a zero point, for activation_quantization: {.scales = {&s.scale, 1}}, or with .asymmetric = true and
// .zeros = {&s.zero, 1} too.
struct static_scale {
    float scale = 1.0f;
    std::uint8_t zero = 128;
};

// scale = max(high, -low) / qmax; asymmetric: high / (2 qmax) - low / (2 qmax) and
// zero = 128 - qmax - round(low / scale), as activation_quantization has them for a token whose numbers lie in that
// range. A range too small for a finite reciprocal (below 3.8e-37 with a qmax of 127) gives 1 and 128: all numbers
// become 0.
[[nodiscard]] inline static_scale static_scale_of(const activation_range& range, int qmax = 127,
                                                  bool asymmetric = false) {
    NIBBLE_CHECK(qmax >= 1 && qmax <= 127, "static_scale_of: qmax must lie between 1 and 127");
    NIBBLE_CHECK(range.low <= 0.0f && range.high >= 0.0f && detail::is_finite(range.low) &&
                     detail::is_finite(range.high),
                 "static_scale_of: a range has finite ends, and 0 between them");
    group_statistics g{};
    g.low = range.low;
    g.high = range.high;
    g.largest = detail::max_of(-range.low, range.high);
    const kernel::row_scale r = kernel::row_scale_of({.qmax = qmax, .asymmetric = asymmetric}, g, 0);
    if (r.inverse == 0.0f || !detail::is_finite(1.0f / r.scale)) return {};
    return {r.scale, static_cast<std::uint8_t>(static_cast<int>(r.offset) + 128)};
}

namespace detail {

// The smallest and the largest of the finite numbers, and 0. Numbers that are not finite take no part.
[[nodiscard]] inline activation_range range_of(matrix_view<const float> x) noexcept {
    activation_range all{};
    for (std::size_t m = 0; m < x.rows(); ++m) {
        const group_statistics g = kernel::measure<true>(x.row(m), x.cols(), false);
        all.low = min_of(all.low, g.low);
        all.high = max_of(all.high, g.high);
    }
    return all;
}

} // namespace detail

// The smallest and the largest finite number of all that was observed.
class min_max_range {
public:
    void observe(matrix_view<const float> x) noexcept {
        const activation_range seen = detail::range_of(x);
        range_.low = detail::min_of(range_.low, seen.low);
        range_.high = detail::max_of(range_.high, seen.high);
    }
    [[nodiscard]] activation_range range() const noexcept { return range_; }

private:
    activation_range range_{};
};

// The exponential moving average of what single batches have (Krishnamoorthi, 2018): end += momentum x (the batch's end
// - end), in double, beginning with the first batch's; a rare large number counts with one batch's share.
class moving_average_range {
public:
    explicit moving_average_range(double momentum = 0.01) : momentum_(momentum) {
        NIBBLE_CHECK(momentum > 0.0 && momentum <= 1.0, "moving_average_range: momentum lies above 0, up to 1");
    }
    void observe(matrix_view<const float> x) noexcept {
        const activation_range seen = detail::range_of(x);
        const double share = begun_ ? momentum_ : 1.0;
        low_ += share * (static_cast<double>(seen.low) - low_);
        high_ += share * (static_cast<double>(seen.high) - high_);
        begun_ = true;
    }
    [[nodiscard]] activation_range range() const noexcept {
        return {static_cast<float>(low_), static_cast<float>(high_)};
    }

private:
    double momentum_;
    double low_ = 0.0;
    double high_ = 0.0;
    bool begun_ = false;
};

// How often numbers of each size came: 65536 counts of numbers that agree in sign, exponent and the first 7 bits behind
// it, so that any range can be asked for afterwards. 512 KiB.
class activation_histogram {
public:
    activation_histogram() : counts_(buckets) {}

    void observe(matrix_view<const float> x) noexcept {
        all_.observe(x);
        for (std::size_t m = 0; m < x.rows(); ++m)
            for (std::size_t k = 0; k < x.cols(); ++k) {
                if (!detail::is_finite(x(m, k))) continue;
                ++counts_[bucket_of(x(m, k))];
                ++count_;
            }
    }
    // Finite numbers observed.
    [[nodiscard]] std::uint64_t count() const noexcept { return count_; }

    // The narrowest range with ends of buckets beyond either of which at most (100 - percent) / 2 percent of the
    // numbers lie; no wider than min_max_range's, which is that of 100. Its ends are those of the exact one, or up to
    // 2^-7 of themselves further out.
    [[nodiscard]] activation_range percentile(double percent) const {
        NIBBLE_CHECK(percent > 0.0 && percent <= 100.0, "percentile: a percentage lies above 0, up to 100");
        const double beyond = static_cast<double>(count_) * (100.0 - percent) / 200.0;
        activation_range r{};
        std::uint64_t seen = 0;
        for (std::size_t b = buckets; b-- > first_positive;) {
            seen += counts_[b];
            if (static_cast<double>(seen) > beyond) {
                r.high = detail::min_of(all_.range().high, outer_end(b));
                break;
            }
        }
        seen = 0;
        for (std::size_t b = 0; b < first_positive; ++b) {
            seen += counts_[b];
            if (static_cast<double>(seen) > beyond) {
                r.low = detail::max_of(all_.range().low, outer_end(b));
                break;
            }
        }
        return r;
    }

    // Of min_max_range's range times 1/128, 2/128 ... 1, the one with the least squared error under static_scale_of
    // with this qmax, of numbers in the middle of their buckets. Takes as long as 128 times the buckets that are not
    // empty.
    [[nodiscard]] activation_range least_squares(int qmax = 127, bool asymmetric = false) const {
        activation_range best = all_.range();
        double least = squared_error(best, qmax, asymmetric);
        for (int step = 127; step > 0; --step) {
            const float share = static_cast<float>(step) / 128.0f;
            const activation_range r{all_.range().low * share, all_.range().high * share};
            const double error = squared_error(r, qmax, asymmetric);
            if (error < least) {
                least = error;
                best = r;
            }
        }
        return best;
    }

private:
    static constexpr std::size_t buckets = 65536;
    static constexpr std::size_t first_positive = 32768;

    // In the order of the numbers.
    [[nodiscard]] static std::size_t bucket_of(float x) noexcept {
        const std::uint32_t word = detail::bit_cast<std::uint32_t>(x);
        return ((word >> 31) != 0 ? ~word : word | 0x80000000u) >> 16;
    }
    // Bits of a bucket's number that is closest to 0, which the others' 16 low bits are added to.
    [[nodiscard]] static std::uint32_t word_of(std::size_t bucket) noexcept {
        const std::uint32_t word = static_cast<std::uint32_t>(bucket) << 16;
        return bucket >= first_positive ? word & 0x7fffffffu : ~word & 0xffff0000u;
    }
    [[nodiscard]] static float outer_end(std::size_t bucket) noexcept {
        return detail::bit_cast<float>(word_of(bucket) | 0xffffu);
    }
    [[nodiscard]] double squared_error(const activation_range& r, int qmax, bool asymmetric) const {
        const static_scale s = static_scale_of(r, qmax, asymmetric);
        const double scale = static_cast<double>(s.scale);
        const int offset = asymmetric ? static_cast<int>(s.zero) - 128 : 0;
        const double low = scale * (-qmax - offset), high = scale * (qmax - offset);
        double error = 0.0;
        for (std::size_t b = 0; b < buckets; ++b) {
            if (counts_[b] == 0) continue;
            const double x = static_cast<double>(detail::bit_cast<float>(word_of(b) | 0x8000u));
            double y = scale * __builtin_rint(x / scale);
            y = y < low ? low : y > high ? high : y;
            error += static_cast<double>(counts_[b]) * (x - y) * (x - y);
        }
        return error;
    }

    min_max_range all_{};
    dynamic_array<std::uint64_t> counts_;
    std::uint64_t count_ = 0;
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
