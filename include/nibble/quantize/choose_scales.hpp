// quantize/choose_scales.hpp: the first half of quantize: what the scale groups of a matrix store. The second is
// encode.hpp.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/dynamic_array.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/view.hpp>
#include <nibble/dispatch/fixed.hpp>
#include <nibble/kernel/group_search.hpp>
#include <nibble/kernel/quantize.hpp>
#include <nibble/kernel/super_block_search.hpp>
#include <nibble/quantize/any_row.hpp>
#include <nibble/quantize/options.hpp>
#include <nibble/scheme/scheme.hpp>
#include <nibble/tensor/scale_groups.hpp>

#include <concepts>
#include <cstddef>
#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

namespace detail {

// One row's loop over its segments of `size` columns: visit(index, first column, columns).
template <class Visit> inline void for_each_segment(std::size_t cols, std::size_t size, Visit&& visit) {
    std::size_t index = 0;
    for (std::size_t col = 0; col < cols; col += size, ++index) visit(index, col, min_of(size, cols - col));
}

// Do the outer scales of a two_level scheme follow from the largest magnitude under each? Then max|x| / (448 x 6), in
// one rounding, as NVFP4 has it.
template <any_scheme S>
inline constexpr bool outer_by_largest = [] {
    if constexpr (S::two_level)
        return std::same_as<typename S::scale_type::rule, by_largest> && !S::has_offset && !S::has_minimum;
    else
        return false;
}();

// Columns under one outer scale, if that is a constant, no two rows share an outer scale and each lies inside of a
// block of quantize_block columns; else 0. Such outer scales are chosen block by block, in the one pass over the row.
template <any_scheme S>
inline constexpr std::size_t outer_columns_of_block = [] {
    using outer_granularity = typename scheme_traits<S>::outer_granularity;
    if constexpr (!S::two_level || S::has_offset || !scheme_traits<S>::granularity::row_local) {
        return std::size_t{0};
    } else if constexpr (requires { typename std::integral_constant<std::size_t, outer_granularity::group_size(1)>; }) {
        constexpr std::size_t size = outer_granularity::group_size(1);
        constexpr bool same = size == outer_granularity::group_size(kernel::quantize_block) &&
                              size == outer_granularity::group_size(100003);
        return same && outer_granularity::row_local && kernel::quantize_block % size == 0 ? size : std::size_t{0};
    } else {
        return std::size_t{0};
    }
}();

// Columns of the blocks whose inner and outer numbers a search finds together; else 0: integers under outer scales of
// their own.
template <any_scheme S>
inline constexpr std::size_t super_block_columns = [] {
    if constexpr (outer_columns_of_block<S> == 0) {
        return std::size_t{0};
    } else {
        constexpr integer_mapping inner = integer_mapping_of<typename scheme_traits<S>::scale_element>;
        constexpr bool integers = inner.linear && inner.exponent == 0;
        constexpr bool fits = !S::has_integer_zero && S::has_minimum == S::has_two_level_minimum;
        return integers && fits ? outer_columns_of_block<S> : std::size_t{0};
    }
}();

template <any_scheme S> struct scale_chooser {
    using traits = scheme_traits<S>;
    using granularity = typename traits::granularity;
    using outer_granularity = typename traits::outer_granularity;
    using element = typename traits::element;
    using parameters = kernel::group_parameters<S>;

    matrix_view<const float> w;
    quantize_options options;
    scale_storage<S> out;
    std::size_t group_size = traits::group_size(w.cols());
    scale_reader<S> stored = out.reader(); // anew after the offset is set
    static constexpr bool with_range = kernel::asks_range<S>;
    static constexpr bool with_sum = kernel::asks_sum<S>;
    [[nodiscard]] group_statistics measure(std::size_t row, std::size_t col, std::size_t n) const {
        group_statistics g = kernel::measure<with_range>(w.row(row) + col, n, with_sum);
        if (options.flush_subnormals) {
            g.largest = flush_subnormal_input(g.largest);
            g.low = flush_subnormal_input(g.low);
            g.high = flush_subnormal_input(g.high);
        }
        return g;
    }
    // What the parameters of a group follow from: under nonfinite_policy::zero no scale says NaN.
    [[nodiscard]] group_statistics known(group_statistics g) const {
        g.nonfinite = g.nonfinite && options.nonfinite != nonfinite_policy::zero;
        return g;
    }
    [[nodiscard]] std::size_t group_at(std::size_t row, std::size_t col) const {
        return granularity::index(row, col, w.cols());
    }
    [[nodiscard]] kernel::outer_parameters outer_of(std::size_t row, std::size_t col) const {
        kernel::outer_parameters outer{};
        if constexpr (S::two_level) {
            const std::size_t at = outer_granularity::index(row, col, w.cols());
            outer.scale = decoded<typename traits::outer_element>(stored.outer[at]);
            if constexpr (S::has_two_level_minimum)
                outer.minimum = decoded<typename traits::outer_zero_element>(stored.outer_zeros[at]);
            outer.offset = stored.offset;
        }
        return outer;
    }
    void store(std::size_t at, const parameters& p) const {
        if constexpr (S::scaled) out.scales[at] = p.scale_code;
        if constexpr (traits::has_zero) out.zeros[at] = p.zero_code;
    }

    // Statistics of the groups of columns [col, col + n) of a row, `col` the first of one, before subnormals are
    // flushed. True if a value is not finite.
    bool measure_whole_groups(std::size_t row, std::size_t col, std::size_t n,
                              const kernel::statistics_of_groups& to) const {
        return kernel::measure_groups<with_range, with_sum>(w.row(row) + col, ceil_div(n, group_size), group_size,
                                                            w.cols() - col, to);
    }
    void flush(const kernel::statistics_of_groups& s, std::size_t count) const {
        if (!options.flush_subnormals) return;
        for (std::size_t i = 0; i < count; ++i) {
            s.largest[i] = flush_subnormal_input(s.largest[i]);
            if constexpr (with_range) {
                s.low[i] = flush_subnormal_input(s.low[i]);
                s.high[i] = flush_subnormal_input(s.high[i]);
            }
        }
    }
    [[nodiscard]] group_statistics at(const kernel::statistics_of_groups& s, std::size_t i, std::size_t col) const {
        return kernel::statistics_at<with_range, with_sum>(s, i, min_of(group_size, w.cols() - col));
    }

    // Chooses and stores the parameters of the groups of columns [col, col + n) of a row, each in one row, from
    // their statistics; what their codes stand under to scale[] and zero[].
    void choose_in_row(std::size_t row, std::size_t col, std::size_t n, const kernel::statistics_of_groups& s,
                       float* scale, float* zero) const {
        typename traits::scale_code scale_codes[kernel::quantize_block];
        typename traits::zero_code zero_codes[kernel::quantize_block];
        const kernel::group_arrays<S> to{scale_codes, zero_codes, scale, zero};
        const std::size_t count = ceil_div(n, group_size);
        if (options.range == range::least_squares) {
            for (std::size_t i = 0; i < count;) {
                const std::size_t first = col + i * group_size;
                std::size_t together = search_super_block(row, first, n - i * group_size, s.from(i));
                if (together == 0) together = choose_many(row, first, n - i * group_size, s.from(i));
                if (together == 0) {
                    store(group_at(row, first), choose(at(s, i, first), outer_of(row, first), w.row(row) + first,
                                                       min_of(group_size, w.cols() - first)));
                    together = 1;
                }
                for (const std::size_t end = i + together; i < end; ++i) {
                    scale[i] = stored.scale(row, col + i * group_size);
                    zero[i] = stored.zero(row, col + i * group_size);
                }
            }
            return;
        }
        for (std::size_t i = 0; i < count;) {
            const std::size_t first = col + i * group_size;
            std::size_t together = count - i; // under the same outer group
            if constexpr (S::two_level) {
                const std::size_t outer_columns = outer_granularity::group_size(w.cols());
                together = min_of(together, ceil_div(outer_columns - first % outer_columns, group_size));
            }
            kernel::parameters_of_groups<S, with_range, with_sum>(
                s.from(i), together, group_size, w.cols() - first, outer_of(row, first),
                options.nonfinite == nonfinite_policy::zero, to.from(i));
            i += together;
        }
        // Copies: what is stored may be bytes, and those might lie anywhere, in *this too.
        const std::size_t cols = w.cols();
        const std::size_t step = group_size;
        typename traits::scale_code* const scales_to = out.scales;
        [[maybe_unused]] typename traits::zero_code* const zeros_to = out.zeros;
        for (std::size_t i = 0; i < count; ++i) {
            const std::size_t where = granularity::index(row, col + i * step, cols);
            scales_to[where] = scale_codes[i];
            if constexpr (traits::has_zero) zeros_to[where] = zero_codes[i];
        }
    }

    // What a search sees of x[0, n): values that are not finite are zeros, as they are to the range; a copy if there
    // are any.
    const float* searched(const float* x, std::size_t n, bool nonfinite, dynamic_array<float>& copy) const {
        if (!nonfinite && !options.flush_subnormals) return x;
        copy.assign(x, x + n);
        for (float& v : copy) v = !is_finite(v) ? 0.0f : options.flush_subnormals ? flush_subnormal_input(v) : v;
        return copy.data();
    }
    // The best parameters of a group with all of its values x[0, n).
    [[nodiscard]] parameters choose(const group_statistics& g, const kernel::outer_parameters& outer, const float* x,
                                    std::size_t n) const {
        const parameters plain = kernel::parameters_of<S>(known(g), outer);
        if (!(g.largest > 0.0f) || plain.scale_is_nan) return plain;
        dynamic_array<float> copy;
        return kernel::search_group<best_isa, S>(searched(x, n, g.nonfinite, copy), n, outer, plain);
    }
    // Searches and stores as many whole groups from column `col` on as a search takes at once, if the n columns hold
    // those and it sees them as they stand. Returns their number, or 0.
    std::size_t choose_many(std::size_t row, std::size_t col, std::size_t n,
                            const kernel::statistics_of_groups& s) const {
        if constexpr (kernel::searches_many<S>) {
            constexpr std::size_t count = kernel::many_groups;
            if (n < count * group_size || group_size > kernel::short_group || options.flush_subnormals) return 0;
            kernel::outer_parameters outer[count];
            parameters p[count];
            bool is_searched[count];
            for (std::size_t i = 0; i < count; ++i) {
                const std::size_t first = col + i * group_size;
                const group_statistics g = at(s, i, first);
                if (g.nonfinite) return 0;
                outer[i] = outer_of(row, first);
                p[i] = kernel::parameters_of<S>(known(g), outer[i]);
                is_searched[i] = g.largest > 0.0f && !p[i].scale_is_nan;
                if (!is_searched[i]) store(group_at(row, first), p[i]);
            }
            kernel::search_groups<best_isa, S>(w.row(row) + col, group_size, outer, p);
            for (std::size_t i = 0; i < count; ++i)
                if (is_searched[i]) store(group_at(row, col + i * group_size), p[i]);
            return count;
        } else {
            return 0;
        }
    }
    // Searches the groups from column `col` on and the outer group that they fill together, if the scheme has such and
    // `n` columns hold one. Returns the number of groups, or 0.
    std::size_t search_super_block(std::size_t row, std::size_t col, std::size_t n,
                                   const kernel::statistics_of_groups& s) const {
        constexpr std::size_t elements = super_block_columns<S>;
        if constexpr (elements != 0) {
            if (n < elements) return 0;
            using block = kernel::super_block_parameters<S, elements>;
            bool nonfinite = false;
            float largest_magnitude = 0.0f;
            for (std::size_t i = 0; i < block::groups; ++i) {
                nonfinite = nonfinite || s.nonfinite[i] != 0;
                largest_magnitude = max_of(largest_magnitude, s.largest[i]);
            }
            dynamic_array<float> copy;
            const float* x = searched(w.row(row) + col, elements, nonfinite, copy);
            const kernel::outer_parameters outer = outer_of(row, col);
            double plain_error = 0.0;
            for (std::size_t i = 0; i < block::groups; ++i) {
                const parameters plain = kernel::parameters_of<S>(known(at(s, i, col + i * group_size)), outer);
                store(group_at(row, col + i * group_size), plain);
                plain_error += kernel::squared_error<S>(x + i * group_size, group_size, plain);
            }
            if (!(largest_magnitude > 0.0f)) return block::groups;
            block found;
            kernel::super_block<best_isa, S, elements>::choose_best(x, found);
            kernel::outer_parameters under{};
            under.scale = decoded<typename traits::outer_element>(found.outer);
            if constexpr (S::has_two_level_minimum)
                under.minimum = decoded<typename traits::outer_zero_element>(found.outer_zero);
            double error = 0.0;
            parameters p[block::groups];
            for (std::size_t i = 0; i < block::groups; ++i) {
                p[i].scale_code = found.scales[i];
                p[i].zero_code = found.zeros[i];
                kernel::decode_scale<S>(p[i], under);
                if constexpr (S::has_two_level_minimum)
                    p[i].zero = -(decoded<typename traits::zero_element>(found.zeros[i]) * under.minimum);
                error += kernel::squared_error<S>(x + i * group_size, group_size, p[i]);
            }
            if (!(error < plain_error)) return block::groups;
            const std::size_t outer_at = outer_granularity::index(row, col, w.cols());
            out.outer[outer_at] = found.outer;
            if constexpr (S::has_two_level_minimum) out.outer_zeros[outer_at] = found.outer_zero;
            for (std::size_t i = 0; i < block::groups; ++i) store(group_at(row, col + i * group_size), p[i]);
            return block::groups;
        } else {
            return 0;
        }
    }
};

// An outer scale from what its groups ask of it: the largest magnitude, or the largest of their scales. Under it no
// value is beyond fp32.
template <any_scheme S> [[nodiscard]] auto outer_scale_of(float wanted) {
    using traits = scheme_traits<S>;
    using outer_element = typename traits::outer_element;
    constexpr float inner = largest<typename traits::scale_element>;
    constexpr float top = largest<typename traits::element>;
    typename traits::outer_code code = encode<outer_element>(wanted / (inner * (outer_by_largest<S> ? top : 1.0f)));
    if constexpr (kernel::values_may_overflow<S> && !S::has_offset && !S::has_minimum)
        while (NIBBLE_UNLIKELY(!is_finite(decoded<outer_element>(code) * inner * top)) &&
               decoded<outer_element>(code) > 0.0f)
            code = kernel::neighbour<outer_element>(code, false);
    return code;
}
template <any_scheme S> [[nodiscard]] auto outer_zero_of(float wanted) {
    using traits = scheme_traits<S>;
    return encode<typename traits::outer_zero_element>(wanted / largest<typename traits::zero_element>);
}
template <any_scheme S> void store_outer(const scale_storage<S>& out, const dynamic_array<float>& wanted) {
    for (std::size_t i = 0; i < wanted.size(); ++i) out.outer[i] = outer_scale_of<S>(wanted[i]);
}

// The outer numbers of the groups of columns [col, col + n) of a row, from their statistics.
template <any_scheme S>
void choose_outer_of_groups(const scale_chooser<S>& job, std::size_t row, std::size_t col, std::size_t n,
                            const kernel::statistics_of_groups& s) {
    constexpr std::size_t outer_columns = outer_columns_of_block<S>;
    for (std::size_t first = 0; first < n; first += outer_columns) {
        float scale = 0.0f;
        float minimum = 0.0f;
        const std::size_t end = min_of(n, first + outer_columns);
        for (std::size_t at = first; at < end; at += job.group_size) {
            const group_statistics g = job.at(s, at / job.group_size, col + at);
            scale = max_of(scale, outer_by_largest<S> ? g.largest : abs_of(kernel::wanted_scale<S>(g)));
            if constexpr (S::has_two_level_minimum) minimum = max_of(minimum, -kernel::offset_range<S>(g).low);
        }
        const std::size_t at = scheme_traits<S>::outer_granularity::index(row, col + first, job.w.cols());
        job.out.outer[at] = outer_scale_of<S>(scale);
        if constexpr (S::has_two_level_minimum) job.out.outer_zeros[at] = outer_zero_of<S>(minimum);
    }
}

// The outer numbers of any other two_level scheme from the statistics of each segment's group,
// statistics_of(row, segment).
template <any_scheme S, class Statistics> void choose_outer(scale_chooser<S>& job, const Statistics& statistics_of) {
    using traits = scheme_traits<S>;
    using outer_granularity = typename traits::outer_granularity;
    const std::size_t segments = ceil_div(job.w.cols(), job.group_size);
    if constexpr (S::has_offset) {
        // Each group once, however many segments it has.
        dynamic_array<float> wanted(scheme_traits<S>::scale_count(job.w.rows(), job.w.cols()));
        for (std::size_t row = 0; row < job.w.rows(); ++row)
            for (std::size_t index = 0; index < segments; ++index)
                wanted[job.group_at(row, index * job.group_size)] = kernel::wanted_scale<S>(statistics_of(row, index));
        double sum = 0.0;
        for (const float scale : wanted) sum += static_cast<double>(scale);
        *job.out.offset = static_cast<float>(sum / static_cast<double>(wanted.size()));
        job.stored = job.out.reader();
    }
    dynamic_array<float> scales(scheme_traits<S>::outer_count(job.w.rows(), job.w.cols()), 0.0f);
    dynamic_array<float> minimums(scheme_traits<S>::outer_zero_count(job.w.rows(), job.w.cols()), 0.0f);
    for (std::size_t row = 0; row < job.w.rows(); ++row)
        for (std::size_t index = 0; index < segments; ++index) {
            const group_statistics g = statistics_of(row, index);
            const std::size_t at = outer_granularity::index(row, index * job.group_size, job.w.cols());
            scales[at] = max_of(scales[at], abs_of(kernel::wanted_scale<S>(g) - job.stored.offset));
            if constexpr (S::has_two_level_minimum)
                minimums[at] = max_of(minimums[at], -kernel::offset_range<S>(g).low);
        }
    store_outer(job.out, scales);
    if constexpr (S::has_two_level_minimum)
        for (std::size_t i = 0; i < minimums.size(); ++i) job.out.outer_zeros[i] = outer_zero_of<S>(minimums[i]);
}

// Memory for the statistics of `count` groups.
template <any_scheme S> struct statistics_of_matrix {
    dynamic_array<float> numbers;
    dynamic_array<double> sums;
    dynamic_array<unsigned char> nonfinite;
    kernel::statistics_of_groups all;

    explicit statistics_of_matrix(std::size_t count)
        : numbers(count * (scale_chooser<S>::with_range ? 3 : 1)), sums(scale_chooser<S>::with_sum ? count : 0),
          nonfinite(count) {
        all.largest = numbers.data();
        if constexpr (scale_chooser<S>::with_range) {
            all.low = numbers.data() + count;
            all.high = numbers.data() + 2 * count;
        }
        if constexpr (scale_chooser<S>::with_sum) all.sum_magnitude = sums.data();
        all.nonfinite = nonfinite.data();
    }
};

// The outer scales of groups of rows, by the largest magnitude under each, which takes a pass of its own.
template <any_scheme S, class OverRows>
void choose_outer_by_largest(const scale_chooser<S>& job, const OverRows& over_rows) {
    using traits = scheme_traits<S>;
    using outer_granularity = typename traits::outer_granularity;
    const std::size_t cols = job.w.cols();
    const std::size_t outer_columns = outer_granularity::group_size(cols);
    const std::size_t segments = ceil_div(cols, outer_columns);
    dynamic_array<float> tops(job.w.rows() * segments);
    over_rows([&](std::size_t row) {
        for_each_segment(cols, outer_columns, [&](std::size_t index, std::size_t col, std::size_t n) {
            float top = kernel::measure<false>(job.w.row(row) + col, n, false).largest;
            if (!traits::granularity::row_local && job.options.flush_subnormals) top = flush_subnormal_input(top);
            tops[row * segments + index] = top;
        });
        return false;
    });
    dynamic_array<float> wanted(traits::outer_count(job.w.rows(), cols), 0.0f);
    for (std::size_t i = 0; i < tops.size(); ++i) {
        float& top = wanted[outer_granularity::index(i / segments, i % segments * outer_columns, cols)];
        top = max_of(top, tops[i]);
    }
    store_outer(job.out, wanted);
}

// choose_groups_of_rows where outer numbers follow from statistics of all of their groups: those of the matrix first.
template <any_scheme S, class OverRows, class UseRow>
bool choose_groups_after_outer(scale_chooser<S>& job, const OverRows& over_rows, const UseRow& use_row) {
    const std::size_t cols = job.w.cols();
    const std::size_t segments = ceil_div(cols, job.group_size);
    const statistics_of_matrix<S> memory(job.w.rows() * segments);
    const bool nonfinite_seen = over_rows([&](std::size_t row) {
        const kernel::statistics_of_groups s = memory.all.from(row * segments);
        const bool nonfinite = job.measure_whole_groups(row, 0, cols, s);
        job.flush(s, segments);
        return nonfinite;
    });
    choose_outer<S>(job, [&](std::size_t row, std::size_t index) {
        return job.at(memory.all, row * segments + index, index * job.group_size);
    });
    over_rows([&](std::size_t row) {
        use_row(row, [&](std::size_t col, std::size_t n, float* scale, float* zero) {
            job.choose_in_row(row, col, n, memory.all.from(row * segments + col / job.group_size), scale, zero);
        });
        return false;
    });
    return nonfinite_seen;
}

// Groups that lie in one row each. over_rows(body) calls body(row) for every row, in any order and on any
// thread; what it returns says whether the row holds a value that is not finite. use_row(row, choose) is called for
// each row; choose(first column, columns, scale[], zero[]) chooses and stores the numbers of the groups of these
// columns, all of which lie in one block of quantize_block columns or begin there, and tells them.
template <any_scheme S, class OverRows, class UseRow>
bool choose_groups_of_rows(scale_chooser<S>& job, const OverRows& over_rows, const UseRow& use_row) {
    constexpr std::size_t block = kernel::quantize_block;
    constexpr bool outer_in_block = outer_columns_of_block<S> != 0;
    if constexpr (S::two_level && !outer_in_block && !outer_by_largest<S>) {
        return choose_groups_after_outer<S>(job, over_rows, use_row);
    } else {
        if constexpr (S::two_level && !outer_in_block) choose_outer_by_largest<S>(job, over_rows);
        // Each row stands alone: range and codes while it is in cache.
        return over_rows([&](std::size_t row) {
            bool nonfinite = false;
            use_row(row, [&](std::size_t col, std::size_t n, float* scale, float* zero) {
                float numbers[scale_chooser<S>::with_range ? 3 : 1][block];
                double sums[scale_chooser<S>::with_sum ? block : 1];
                unsigned char flags[block];
                kernel::statistics_of_groups s{numbers[0], nullptr, nullptr, sums, flags};
                if constexpr (scale_chooser<S>::with_range) {
                    s.low = numbers[1];
                    s.high = numbers[2];
                }
                if (job.measure_whole_groups(row, col, n, s)) nonfinite = true;
                if constexpr (outer_in_block && outer_by_largest<S>) choose_outer_of_groups<S>(job, row, col, n, s);
                job.flush(s, ceil_div(n, job.group_size));
                if constexpr (outer_in_block && !outer_by_largest<S>) choose_outer_of_groups<S>(job, row, col, n, s);
                job.choose_in_row(row, col, n, s, scale, zero);
            });
            return nonfinite;
        });
    }
}

// Searches and stores the numbers of groups that are several segments, with the values of each side by side.
template <any_scheme S, class OverGroups>
void search_shared_groups(const scale_chooser<S>& job, const dynamic_array<group_statistics>& groups,
                          const dynamic_array<kernel::outer_parameters>& outer, const OverGroups& over_groups) {
    const matrix_view<const float> w = job.w;
    dynamic_array<std::size_t> starts(groups.size() + 1, 0);
    for (std::size_t at = 0; at < groups.size(); ++at) starts[at + 1] = starts[at] + groups[at].count;
    dynamic_array<float> values(w.rows() * w.cols());
    dynamic_array<std::size_t> next(starts);
    for (std::size_t row = 0; row < w.rows(); ++row)
        for_each_segment(w.cols(), job.group_size, [&](std::size_t, std::size_t col, std::size_t n) {
            std::size_t& to = next[job.group_at(row, col)];
            __builtin_memcpy(values.data() + to, w.row(row) + col, n * sizeof(float));
            to += n;
        });
    over_groups(groups.size(), [&](std::size_t at) {
        job.store(at, job.choose(groups[at], outer[at], values.data() + starts[at], groups[at].count));
    });
}

// Groups that are several segments, of one row or of many: chosen before the first row is used.
template <any_scheme S, class OverRows, class OverGroups, class UseRow>
bool choose_shared_groups(scale_chooser<S>& job, const OverRows& over_rows, const OverGroups& over_groups,
                          const UseRow& use_row) {
    using traits = scheme_traits<S>;
    using outer_granularity = typename traits::outer_granularity;
    const matrix_view<const float> w = job.w;
    const std::size_t group_size = job.group_size;
    const std::size_t segments = ceil_div(w.cols(), group_size);
    dynamic_array<group_statistics> parts(w.rows() * segments);
    const bool nonfinite_seen = over_rows([&](std::size_t row) {
        bool nonfinite = false;
        for_each_segment(w.cols(), group_size, [&](std::size_t index, std::size_t col, std::size_t n) {
            parts[row * segments + index] = job.measure(row, col, n);
            nonfinite = nonfinite || parts[row * segments + index].nonfinite;
        });
        return nonfinite;
    });
    // A group counts once, with the statistics of all of it.
    dynamic_array<group_statistics> groups(scheme_traits<S>::scale_count(job.w.rows(), job.w.cols()));
    for (std::size_t row = 0; row < w.rows(); ++row)
        for (std::size_t index = 0; index < segments; ++index)
            kernel::join(groups[job.group_at(row, index * group_size)], parts[row * segments + index]);
    if constexpr (S::two_level) {
        if constexpr (outer_by_largest<S>) {
            dynamic_array<float> wanted(scheme_traits<S>::outer_count(job.w.rows(), job.w.cols()), 0.0f);
            for (std::size_t i = 0; i < parts.size(); ++i) {
                float& top = wanted[outer_granularity::index(i / segments, i % segments * group_size, w.cols())];
                top = max_of(top, parts[i].largest);
            }
            store_outer(job.out, wanted);
        } else {
            choose_outer<S>(
                job, [&](std::size_t row, std::size_t index) { return groups[job.group_at(row, index * group_size)]; });
        }
    }
    dynamic_array<kernel::outer_parameters> outer(groups.size());
    for (std::size_t row = 0; row < w.rows(); ++row)
        for (std::size_t index = 0; index < segments; ++index)
            outer[job.group_at(row, index * group_size)] = job.outer_of(row, index * group_size);
    if (job.options.range == range::least_squares)
        search_shared_groups<S>(job, groups, outer, over_groups);
    else
        for (std::size_t at = 0; at < groups.size(); ++at)
            job.store(at, kernel::parameters_of<S>(job.known(groups[at]), outer[at]));
    over_rows([&](std::size_t row) {
        use_row(row, [&](std::size_t col, std::size_t n, float* scale, float* zero) {
            for (std::size_t i = 0; i * group_size < n; ++i) {
                scale[i] = job.stored.scale(row, col + i * group_size);
                zero[i] = job.stored.zero(row, col + i * group_size);
            }
        });
        return false;
    });
    return nonfinite_seen;
}

// Chooses the numbers of all groups of a matrix that is not empty, row by row where rows share none; use_row as above.
// True if a value is not finite.
template <any_scheme S, executor Executor, class UseRow>
bool choose_groups(scale_chooser<S>& job, const Executor& threads, const UseRow& use_row) {
    using granularity = typename scheme_traits<S>::granularity;
    const matrix_view<const float> w = job.w;
    const auto over_rows = [&](const auto& body) { return any_row(w.rows(), w.cols(), threads, body); };
    if constexpr (!S::scaled) {
        return over_rows([&](std::size_t row) {
            use_row(row, [](std::size_t, std::size_t, float*, float*) {});
            return job.measure(row, 0, w.cols()).nonfinite;
        });
    } else if constexpr (granularity::row_local) {
        return choose_groups_of_rows<S>(job, over_rows, use_row);
    } else {
        // Spans are groups of one row where they divide the rows.
        if (granularity::count(w.rows(), w.cols()) == w.rows() * ceil_div(w.cols(), job.group_size))
            return choose_groups_of_rows<S>(job, over_rows, use_row);
        return choose_shared_groups<S>(
            job, over_rows,
            [&](std::size_t groups, const auto& body) {
                for_each_task(groups, threads, [&](std::size_t at, std::size_t) { body(at); });
            },
            use_row);
    }
}

} // namespace detail

// What the scale groups of w (N x K) store in scheme S: scales, zero points or minimums, outer scales and minimums, and
// the offset, by the rules of quantize (which see) and in its options; of these range, nonfinite and flush_subnormals
// count. Empty, with the shape of w, for a scheme without scales. quantize(w, options) is encode of w under them, bit
// for bit. NaN and infinities count as zeros; nonfinite() of the result tells of them, and under
// nonfinite_policy::mark the E8M0 scale of their group is NaN. Results do not depend on the executor. It takes the
// first of the two passes of quantize, and allocates what quantize does, the codes excepted.
template <any_scheme S, executor Executor = serial>
[[nodiscard]] scale_groups<S> choose_scales(matrix_view<const float> w, const quantize_options& options = {},
                                            const Executor& threads = {}) {
    detail::check_executor(threads);
    scale_groups<S> out(w.rows(), w.cols());
    if (w.empty()) return out;
    detail::scale_chooser<S> job{w, options, out.write_scales()};
    out.set_nonfinite(detail::choose_groups<S>(job, threads, [&](std::size_t, const auto& choose) {
        constexpr std::size_t block = kernel::quantize_block;
        float scale[block];
        float zero[block];
        for (std::size_t start = 0; start < w.cols(); start += block) {
            const std::size_t first = detail::round_up(start, job.group_size);
            const std::size_t end = detail::min_of(w.cols(), start + block);
            if (first < end) choose(first, end - first, scale, zero);
        }
    }));
    NIBBLE_CHECK(!out.nonfinite() || options.nonfinite != nonfinite_policy::refuse,
                 "choose_scales: the weights hold a NaN or an infinity, and the options refuse them");
    return out;
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
