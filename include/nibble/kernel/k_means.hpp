// k_means.hpp: the values that stand for a set of numbers with the least weighted squared error: k-means on a line.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/dynamic_array.hpp>
#include <nibble/kernel/sort_by_key.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::kernel {

// On a line clusters are intervals of the sorted numbers, so that sums over a cluster are differences of running sums,
// an iteration costs one search per boundary, and the optimum follows from dynamic programming. Sums are in double,
// taken in ascending order of the numbers (equal ones in the order given): results depend on the numbers alone.
class line_clusters {
public:
    // Finite numbers x[0, count) with weights >= 0, or without weights; none, or weights that are all 0, count as equal
    // weights, and beside others a number of weight 0 is left out. At least one number, fewer than 2^32.
    void load(const float* x, const float* weights, std::size_t count) {
        bool weighted = false;
        for (std::size_t i = 0; weights != nullptr && i < count; ++i) weighted = weighted || weights[i] > 0.0f;
        items_.clear();
        for (std::size_t i = 0; i < count; ++i)
            if (!weighted || weights[i] > 0.0f) items_.push_back({ordered_key(x[i]), static_cast<std::uint32_t>(i)});
        sort_by_key(items_, spare_);
        const std::size_t n = items_.size();
        // Relative to a number in the middle, so that an offset common to all does not drown their differences.
        center_ = static_cast<double>(x[items_[n / 2].position]);
        sorted_.resize(n);
        mass_.assign(n + 1, 0.0);
        first_.assign(n + 1, 0.0);
        second_.assign(n + 1, 0.0);
        for (std::size_t i = 0; i < n; ++i) {
            const std::size_t from = items_[i].position;
            const double value = static_cast<double>(x[from]) - center_;
            const double mass = weighted ? static_cast<double>(weights[from]) : 1.0;
            sorted_[i] = value;
            mass_[i + 1] = mass_[i] + mass;
            first_[i + 1] = __builtin_fma(mass, value, first_[i]);
            second_[i + 1] = __builtin_fma(mass * value, value, second_[i]);
        }
    }

    [[nodiscard]] std::size_t size() const noexcept { return sorted_.size(); }

    // Squared error of [begin, end) about its own mean.
    [[nodiscard]] double cost(std::size_t begin, std::size_t end) const noexcept {
        const double mass = mass_[end] - mass_[begin];
        if (!(mass > 0.0)) return 0.0;
        const double sum = first_[end] - first_[begin];
        const double c = __builtin_fma(-sum / mass, sum, second_[end] - second_[begin]);
        return c > 0.0 ? c : 0.0;
    }

    // k values, ascending. Clusters first begin at the best choice of `places` positions of the sorted numbers, equally
    // far apart, by dynamic programming: with a place for each number that is the least squared error there is.
    // Otherwise Lloyd's iteration goes on from there, until no number changes its cluster or 500 times: a local
    // optimum. O(k places log places) time, 4 k places bytes, and O(k log n) per iteration.
    void solve(std::size_t k, std::size_t places, double* centers) {
        const std::size_t n = size();
        clusters_ = detail::min_of(k, n);
        const std::size_t steps = detail::min_of(n, detail::max_of(places, clusters_));
        cuts_.resize(steps + 1);
        for (std::size_t i = 0; i <= steps; ++i) cuts_[i] = i * (n / steps) + i * (n % steps) / steps;
        choose_cuts();
        if (steps < n) iterate();
        write_centers(k, centers);
    }

private:
    // Of the places in cuts_, those where clusters begin in bounds_.
    void choose_cuts() {
        const std::size_t n = cuts_.size() - 1;
        // best[end]: least cost of what lies before cut `end` in one cluster more each round; where its last cluster
        // begins is kept.
        best_.resize(n + 1);
        next_.assign(n + 1, 0.0);
        begins_.assign(clusters_ * (n + 1), 0);
        for (std::size_t end = 0; end <= n; ++end) best_[end] = cost(0, cuts_[end]);
        for (std::size_t round = 1; round < clusters_; ++round) {
            divide(round, round + 1, n, round, n - 1);
            for (std::size_t end = round + 1; end <= n; ++end) best_[end] = next_[end];
        }
        bounds_.assign(clusters_ + 1, 0);
        bounds_[clusters_] = size();
        std::size_t end = n;
        for (std::size_t round = clusters_; round-- > 1;) {
            end = begins_[round * (n + 1) + end];
            bounds_[round] = cuts_[end];
        }
    }
    void iterate() {
        means_.resize(clusters_);
        for (int round = 0; round < 500; ++round) {
            for (std::size_t c = 0; c < clusters_; ++c) means_[c] = mean(c);
            bool moved = false;
            std::size_t begin = 0;
            for (std::size_t c = 1; c < clusters_; ++c) {
                // A number in the middle stays below, as encoding has it.
                begin = detail::max_of(begin, upper((means_[c - 1] + means_[c]) * 0.5));
                moved = moved || begin != bounds_[c];
                bounds_[c] = begin;
            }
            if (!moved) break;
        }
    }
    // The mean of a cluster; of one without mass the number (or the end) next to its place.
    [[nodiscard]] double mean(std::size_t c) const noexcept {
        const double mass = mass_[bounds_[c + 1]] - mass_[bounds_[c]];
        if (mass > 0.0) return (first_[bounds_[c + 1]] - first_[bounds_[c]]) / mass;
        return sorted_[detail::min_of(bounds_[c], size() - 1)];
    }
    void write_centers(std::size_t k, double* centers) const noexcept {
        for (std::size_t c = 0; c < k; ++c) {
            const double relative = mean(detail::min_of(c, clusters_ - 1));
            // A mean lies inside its cluster; what rounding adds must not carry it out of the data.
            const double low = sorted_[0];
            const double high = sorted_[size() - 1];
            centers[c] = center_ + (relative < low ? low : relative > high ? high : relative);
        }
    }
    // The first number above `middle`.
    [[nodiscard]] std::size_t upper(double middle) const noexcept {
        std::size_t low = 0;
        std::size_t high = size();
        while (low < high) {
            const std::size_t at = low + (high - low) / 2;
            if (sorted_[at] <= middle)
                low = at + 1;
            else
                high = at;
        }
        return low;
    }
    // next_[end] for end in [low, high], whose last cluster begins in [first, last]: where it begins rises with end.
    void divide(std::size_t round, std::size_t low, std::size_t high, std::size_t first, std::size_t last) {
        if (low > high) return;
        const std::size_t end = low + (high - low) / 2;
        const std::size_t stop = detail::min_of(last, end - 1);
        double least = -1.0;
        std::size_t where = first;
        for (std::size_t begin = first; begin <= stop; ++begin) {
            const double c = best_[begin] + cost(cuts_[begin], cuts_[end]);
            if (least < 0.0 || c < least) {
                least = c;
                where = begin;
            }
        }
        next_[end] = least;
        begins_[round * cuts_.size() + end] = static_cast<std::uint32_t>(where);
        divide(round, low, end - 1, first, where);
        divide(round, end + 1, high, where, last);
    }

    dynamic_array<keyed<std::uint32_t>> items_, spare_;
    dynamic_array<double> sorted_, mass_, first_, second_; // running sums of weight, weight x value, weight x value^2
    dynamic_array<double> best_, next_, means_;
    dynamic_array<std::uint32_t> begins_;
    dynamic_array<std::size_t> cuts_, bounds_;
    std::size_t clusters_ = 0;
    double center_ = 0.0;
};

} // namespace nibble::inline NIBBLE_ABI::kernel
NIBBLE_HEADER_END;
