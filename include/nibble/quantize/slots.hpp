// quantize/slots.hpp: how quantize chooses what the slots of a matrix store, and its options.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/dynamic_array.hpp>
#include <nibble/core/view.hpp>
#include <nibble/dispatch/fixed.hpp>
#include <nibble/kernel/quantize.hpp>
#include <nibble/kernel/slot_search.hpp>
#include <nibble/kernel/super_block_search.hpp>
#include <nibble/scheme/scheme.hpp>
#include <nibble/tensor/code_stream.hpp>
#include <nibble/tensor/quantized.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// How the range of a slot is chosen.
enum class range {
    absmax, // the scheme's own rule, from the largest magnitude (or, if it says so, the mean): the default, and fast
    least_squares, // a search for the stored scale, and zero point or minimum, of least squared error of the slot: see
                   // quantize
};

// What becomes of NaN and infinities. Ranges never see them, and nonfinite() of the result tells of them.
enum class nonfinite_policy {
    mark,   // kept where the format can say it, see quantize: the default
    zero,   // NaN is quantized as 0, infinity as the largest value of its slot's codes; nothing stored is NaN
    refuse, // an error of the caller (NIBBLE_CHECK), before anything is returned
};

struct quantize_options {
    nibble::range range = nibble::range::absmax;
    nibble::rounding rounding = nibble::rounding::nearest_even;
    std::uint64_t seed = 0; // of stochastic rounding
    // Of learned rounding, and needed for it: rows x cols bytes, row after row without gaps; the lowest bit of each
    // says whether that weight goes to the code above (1) or below (0). A weight that a code holds exactly stays.
    const std::uint8_t* round_up = nullptr;
    nibble::nonfinite_policy nonfinite = nonfinite_policy::mark;
    bool flush_subnormals = false; // fp32 subnormals count as zeros, as on hardware that flushes its inputs
};

namespace detail {

// One row's loop over its runs: visit(run index, first column, columns).
template <class Visit> inline void for_each_run(std::size_t cols, std::size_t run, Visit&& visit) {
    std::size_t index = 0;
    for (std::size_t col = 0; col < cols; col += run, ++index) visit(index, col, min_of(run, cols - col));
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
inline constexpr std::size_t outer_run_of_block = [] {
    using outer_granularity = typename scheme_traits<S>::outer_granularity;
    if constexpr (!S::two_level || S::has_offset || !scheme_traits<S>::granularity::row_local) {
        return std::size_t{0};
    } else if constexpr (requires { typename std::integral_constant<std::size_t, outer_granularity::run(1)>; }) {
        constexpr std::size_t run = outer_granularity::run(1);
        constexpr bool same =
            run == outer_granularity::run(kernel::quantize_block) && run == outer_granularity::run(100003);
        return same && outer_granularity::row_local && kernel::quantize_block % run == 0 ? run : std::size_t{0};
    } else {
        return std::size_t{0};
    }
}();

// Columns of the blocks whose inner and outer numbers a search finds together; else 0: integers under outer scales of
// their own.
template <any_scheme S>
inline constexpr std::size_t super_block_columns = [] {
    if constexpr (outer_run_of_block<S> == 0) {
        return std::size_t{0};
    } else {
        constexpr integer_grid inner = integer_grid_of<typename scheme_traits<S>::scale_element>;
        constexpr bool integers = inner.linear && inner.exponent == 0;
        constexpr bool fits = !S::has_integer_zero && S::has_minimum == S::has_two_level_minimum;
        return integers && fits ? outer_run_of_block<S> : std::size_t{0};
    }
}();

template <any_scheme S> struct quantizer {
    using traits = scheme_traits<S>;
    using granularity = typename traits::granularity;
    using outer_granularity = typename traits::outer_granularity;
    using element = typename traits::element;
    using parameters = kernel::slot_parameters<S>;

    matrix_view<const float> w;
    quantize_options options;
    quantized<S>& out;
    std::size_t run = traits::run(w.cols());
    // Where the numbers of slots lie, worked out once: short runs ask for them often.
    typename quantized<S>::slot_reader slots = out.slots(); // anew after set_offset
    typename traits::scale_code* scales = out.scales();
    typename traits::zero_code* zeros = out.zeros();
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
    // What the parameters of a slot follow from: under nonfinite_policy::zero no scale says NaN.
    [[nodiscard]] group_statistics known(group_statistics g) const {
        g.nonfinite = g.nonfinite && options.nonfinite != nonfinite_policy::zero;
        return g;
    }
    // A row as the options have it, where that is not as it stands.
    [[nodiscard]] dynamic_array<float> cleaned(std::size_t row) const {
        dynamic_array<float> x(w.row(row), w.row(row) + w.cols());
        constexpr float top = S::scaled ? 3.4028234e38f : largest<element>;
        for (float& v : x) {
            if (options.flush_subnormals) v = flush_subnormal_input(v);
            if (options.nonfinite == nonfinite_policy::zero && !is_finite(v))
                v = is_nan(v) ? 0.0f : v < 0.0f ? -top : top;
        }
        return x;
    }

    [[nodiscard]] std::size_t slot(std::size_t row, std::size_t col) const {
        return granularity::index(row, col, w.cols());
    }
    [[nodiscard]] kernel::outer_parameters outer_of(std::size_t row, std::size_t col) const {
        kernel::outer_parameters outer{};
        if constexpr (S::two_level) {
            const std::size_t at = outer_granularity::index(row, col, w.cols());
            outer.scale = decoded<typename traits::outer_element>(slots.outer[at]);
            if constexpr (S::has_two_level_minimum)
                outer.minimum = decoded<typename traits::outer_zero_element>(slots.outer_zeros[at]);
            outer.offset = slots.offset;
        }
        return outer;
    }
    void store(std::size_t at, const parameters& p) const {
        if constexpr (S::scaled) scales[at] = p.scale_code;
        if constexpr (traits::has_zero) zeros[at] = p.zero_code;
    }

    // Statistics of the runs of columns [col, col + n) of a row, `col` the first of one, before subnormals are flushed.
    // True if a value is not finite.
    bool measure_runs(std::size_t row, std::size_t col, std::size_t n, const kernel::run_statistics& to) const {
        std::size_t i = 0;
        if constexpr (!with_sum)
            if (kernel::measure_runs<with_range>(w.row(row) + col, run, n / run, to)) i = n / run;
        bool nonfinite = false;
        for (; i * run < n; ++i) {
            const group_statistics g = kernel::measure<with_range>(w.row(row) + col + i * run,
                                                                   min_of(run, w.cols() - col - i * run), with_sum);
            to.largest[i] = g.largest;
            if constexpr (with_range) {
                to.low[i] = g.low;
                to.high[i] = g.high;
            }
            if constexpr (with_sum) to.sum_magnitude[i] = g.sum_magnitude;
            to.nonfinite[i] = g.nonfinite ? 1 : 0;
            nonfinite = nonfinite || g.nonfinite;
        }
        return nonfinite;
    }
    void flush(const kernel::run_statistics& s, std::size_t count) const {
        if (!options.flush_subnormals) return;
        for (std::size_t i = 0; i < count; ++i) {
            s.largest[i] = flush_subnormal_input(s.largest[i]);
            if constexpr (with_range) {
                s.low[i] = flush_subnormal_input(s.low[i]);
                s.high[i] = flush_subnormal_input(s.high[i]);
            }
        }
    }
    [[nodiscard]] group_statistics at(const kernel::run_statistics& s, std::size_t i, std::size_t col) const {
        return kernel::statistics_at<with_range, with_sum>(s, i, min_of(run, w.cols() - col));
    }

    // Chooses and stores the parameters of the slots of columns [col, col + n) of a row, each a run of its own, from
    // their statistics; what their codes stand under to scale[] and zero[].
    void choose_runs(std::size_t row, std::size_t col, std::size_t n, const kernel::run_statistics& s, float* scale,
                     float* zero) const {
        typename traits::scale_code scale_codes[kernel::quantize_block];
        typename traits::zero_code zero_codes[kernel::quantize_block];
        const kernel::slot_arrays<S> to{scale_codes, zero_codes, scale, zero};
        const std::size_t count = ceil_div(n, run);
        if (options.range == range::least_squares) {
            for (std::size_t i = 0; i < count;) {
                const std::size_t first = col + i * run;
                std::size_t together = search_super_block(row, first, n - i * run, s.from(i));
                if (together == 0) together = choose_many(row, first, n - i * run, s.from(i));
                if (together == 0) {
                    store(slot(row, first), choose(at(s, i, first), outer_of(row, first), w.row(row) + first,
                                                   min_of(run, w.cols() - first)));
                    together = 1;
                }
                for (const std::size_t end = i + together; i < end; ++i) {
                    scale[i] = slots.scale(row, col + i * run);
                    zero[i] = slots.zero(row, col + i * run);
                }
            }
            return;
        }
        for (std::size_t i = 0; i < count;) {
            const std::size_t first = col + i * run;
            std::size_t together = count - i; // under the same outer slot
            if constexpr (S::two_level) {
                const std::size_t outer_run = outer_granularity::run(w.cols());
                together = min_of(together, ceil_div(outer_run - first % outer_run, run));
            }
            kernel::parameters_of_runs<S, with_range, with_sum>(
                s.from(i), together, run, w.cols() - first, outer_of(row, first),
                options.nonfinite == nonfinite_policy::zero, to.from(i));
            i += together;
        }
        // Copies: what is stored may be bytes, and those might lie anywhere, in *this too.
        const std::size_t cols = w.cols();
        const std::size_t step = run;
        typename traits::scale_code* const scales_to = scales;
        [[maybe_unused]] typename traits::zero_code* const zeros_to = zeros;
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
    // The best parameters of a slot with all of its values x[0, n).
    [[nodiscard]] parameters choose(const group_statistics& g, const kernel::outer_parameters& outer, const float* x,
                                    std::size_t n) const {
        const parameters plain = kernel::parameters_of<S>(known(g), outer);
        if (!(g.largest > 0.0f) || plain.poisoned) return plain;
        dynamic_array<float> copy;
        return kernel::search_slot<best_isa, S>(searched(x, n, g.nonfinite, copy), n, outer, plain);
    }
    // Searches and stores as many whole slots from column `col` on as a search takes at once, if the n columns hold
    // those and it sees them as they stand. Returns their number, or 0.
    std::size_t choose_many(std::size_t row, std::size_t col, std::size_t n, const kernel::run_statistics& s) const {
        if constexpr (kernel::searches_many<S>) {
            constexpr std::size_t count = kernel::many_groups;
            if (n < count * run || run > kernel::short_group || options.flush_subnormals) return 0;
            kernel::outer_parameters outer[count];
            parameters p[count];
            bool searched[count];
            for (std::size_t i = 0; i < count; ++i) {
                const group_statistics g = at(s, i, col + i * run);
                if (g.nonfinite) return 0;
                outer[i] = outer_of(row, col + i * run);
                p[i] = kernel::parameters_of<S>(known(g), outer[i]);
                searched[i] = g.largest > 0.0f && !p[i].poisoned;
                if (!searched[i]) store(slot(row, col + i * run), p[i]);
            }
            kernel::search_slots<best_isa, S>(w.row(row) + col, run, outer, p);
            for (std::size_t i = 0; i < count; ++i)
                if (searched[i]) store(slot(row, col + i * run), p[i]);
            return count;
        } else {
            return 0;
        }
    }
    // Searches the slots from column `col` on and the outer slot that they fill together, if the scheme has such and
    // `n` columns hold one. Returns the number of slots, or 0.
    std::size_t search_super_block(std::size_t row, std::size_t col, std::size_t n,
                                   const kernel::run_statistics& s) const {
        constexpr std::size_t elements = super_block_columns<S>;
        if constexpr (elements != 0) {
            if (n < elements) return 0;
            using block = kernel::super_block_parameters<S, elements>;
            bool nonfinite = false;
            float largest_magnitude = 0.0f;
            for (std::size_t i = 0; i < block::slots; ++i) {
                nonfinite = nonfinite || s.nonfinite[i] != 0;
                largest_magnitude = max_of(largest_magnitude, s.largest[i]);
            }
            dynamic_array<float> copy;
            const float* x = searched(w.row(row) + col, elements, nonfinite, copy);
            const kernel::outer_parameters outer = outer_of(row, col);
            double plain_error = 0.0;
            for (std::size_t i = 0; i < block::slots; ++i) {
                const parameters plain = kernel::parameters_of<S>(known(at(s, i, col + i * run)), outer);
                store(slot(row, col + i * run), plain);
                plain_error += kernel::squared_error<S>(x + i * run, run, plain);
            }
            if (!(largest_magnitude > 0.0f)) return block::slots;
            block found;
            kernel::super_block<best_isa, S, elements>::choose_best(x, found);
            kernel::outer_parameters under{};
            under.scale = decoded<typename traits::outer_element>(found.outer);
            if constexpr (S::has_two_level_minimum)
                under.minimum = decoded<typename traits::outer_zero_element>(found.outer_zero);
            double error = 0.0;
            parameters p[block::slots];
            for (std::size_t i = 0; i < block::slots; ++i) {
                p[i].scale_code = found.scales[i];
                p[i].zero_code = found.zeros[i];
                kernel::decode_scale<S>(p[i], under);
                if constexpr (S::has_two_level_minimum)
                    p[i].zero = -(decoded<typename traits::zero_element>(found.zeros[i]) * under.minimum);
                error += kernel::squared_error<S>(x + i * run, run, p[i]);
            }
            if (!(error < plain_error)) return block::slots;
            const std::size_t outer_at = outer_granularity::index(row, col, w.cols());
            out.outer_scales()[outer_at] = found.outer;
            if constexpr (S::has_two_level_minimum) out.outer_zeros()[outer_at] = found.outer_zero;
            for (std::size_t i = 0; i < block::slots; ++i) store(slot(row, col + i * run), p[i]);
            return block::slots;
        } else {
            return 0;
        }
    }

    using encoder = void (*)(const float*, std::size_t, std::uint64_t, std::uint64_t, const std::uint8_t*,
                             typename traits::code*) noexcept;
    template <rounding Rounding>
    static constexpr encoder encode_units = &kernel::encode_units<element, Rounding, kernel::overflow_of<S>>;
    [[nodiscard]] static encoder encoder_of(rounding mode) {
        switch (mode) {
        case rounding::nearest_even:
            return encode_units<rounding::nearest_even>;
        case rounding::toward_zero:
            return encode_units<rounding::toward_zero>;
        case rounding::half_away:
            return encode_units<rounding::half_away>;
        case rounding::stochastic:
            return encode_units<rounding::stochastic>;
        case rounding::half_up:
            return encode_units<rounding::half_up>;
        case rounding::half_toward_zero:
            return encode_units<rounding::half_toward_zero>;
        case rounding::floor:
            return encode_units<rounding::floor>;
        case rounding::ceiling:
            return encode_units<rounding::ceiling>;
        case rounding::learned:
            return encode_units<rounding::learned>;
        }
        NIBBLE_CHECK(false, "quantize: no rounding of that number");
        return nullptr;
    }
    encoder encode = encoder_of(options.rounding);

    // The codes of a row; parameters_of_runs(first column, columns, scale[], zero[]) is asked once for the runs that
    // begin in each block, in order: the parameters of many before the values of any.
    template <class ParametersOfRuns>
    void encode_row(std::size_t row, const ParametersOfRuns& parameters_of_runs) const {
        constexpr std::size_t block = kernel::quantize_block;
        dynamic_array<float> clean;
        if (options.flush_subnormals || options.nonfinite == nonfinite_policy::zero) clean = cleaned(row);
        const float* x = clean.empty() ? w.row(row) : clean.data();
        float scale[block + 1];
        float zero[block + 1];
        float units[block];
        typename traits::code codes[block];
        std::size_t open =
            0; // columns that are still to come of the last run, whose parameters are the first in scale[]
        for (std::size_t start = 0; start < w.cols(); start += block) {
            const std::size_t n = min_of(block, w.cols() - start);
            const float* from = x + start;
            if constexpr (S::scaled) {
                const std::size_t first = min_of(open, n);
                const std::size_t carried = open != 0 ? 1 : 0;
                if (first < n) parameters_of_runs(start + first, n - first, scale + carried, zero + carried);
                kernel::scale_runs<kernel::unit_rule_of<S>>(from, n, carried != 0 ? first : run, run, scale, zero,
                                                            units);
                if (first < n) {
                    const std::size_t last = carried + (n - first - 1) / run;
                    scale[0] = scale[last];
                    if constexpr (traits::has_zero) zero[0] = zero[last];
                    open = round_up(n - first, run) - (n - first);
                } else {
                    open -= n;
                }
                from = units;
            }
            encode(from, n, options.seed, std::uint64_t{row} * w.cols() + start, options.round_up, codes);
            detail::store_codes<element>(codes, n, out.row_codes(row), start);
        }
    }
    // With the parameters that are stored already.
    void encode_row(std::size_t row) const {
        encode_row(row, [&](std::size_t col, std::size_t n, float* scale, float* zero) {
            for (std::size_t i = 0; i * run < n; ++i) {
                scale[i] = slots.scale(row, col + i * run);
                zero[i] = slots.zero(row, col + i * run);
            }
        });
    }
};

// An outer scale from what its slots ask of it: the largest magnitude, or the largest of their scales. Under it no
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
template <any_scheme S> void store_outer(quantized<S>& out, const dynamic_array<float>& wanted) {
    for (std::size_t i = 0; i < wanted.size(); ++i) out.outer_scales()[i] = outer_scale_of<S>(wanted[i]);
}

// The outer numbers of the slots of columns [col, col + n) of a row, from their statistics.
template <any_scheme S>
void choose_outer_of_runs(const quantizer<S>& job, std::size_t row, std::size_t col, std::size_t n,
                          const kernel::run_statistics& s) {
    constexpr std::size_t outer_run = outer_run_of_block<S>;
    for (std::size_t first = 0; first < n; first += outer_run) {
        float scale = 0.0f;
        float minimum = 0.0f;
        const std::size_t end = min_of(n, first + outer_run);
        for (std::size_t at = first; at < end; at += job.run) {
            const group_statistics g = job.at(s, at / job.run, col + at);
            scale = max_of(scale, outer_by_largest<S> ? g.largest : abs_of(kernel::wanted_scale<S>(g)));
            if constexpr (S::has_two_level_minimum) minimum = max_of(minimum, -kernel::offset_range<S>(g).low);
        }
        const std::size_t at = scheme_traits<S>::outer_granularity::index(row, col + first, job.w.cols());
        job.out.outer_scales()[at] = outer_scale_of<S>(scale);
        if constexpr (S::has_two_level_minimum) job.out.outer_zeros()[at] = outer_zero_of<S>(minimum);
    }
}

// The outer numbers of any other two_level scheme from the statistics of each run's slot, slot_of(row, run).
template <any_scheme S, class Statistics> void choose_outer(quantizer<S>& job, const Statistics& slot_of) {
    using traits = scheme_traits<S>;
    using outer_granularity = typename traits::outer_granularity;
    const std::size_t runs = ceil_div(job.w.cols(), job.run);
    if constexpr (S::has_offset) {
        // Each slot once, however many runs it has.
        dynamic_array<float> wanted(job.out.scale_count());
        for (std::size_t row = 0; row < job.w.rows(); ++row)
            for (std::size_t index = 0; index < runs; ++index)
                wanted[job.slot(row, index * job.run)] = kernel::wanted_scale<S>(slot_of(row, index));
        double sum = 0.0;
        for (const float scale : wanted) sum += static_cast<double>(scale);
        job.out.set_offset(static_cast<float>(sum / static_cast<double>(wanted.size())));
        job.slots = job.out.slots();
    }
    dynamic_array<float> scales(job.out.outer_count(), 0.0f);
    dynamic_array<float> minimums(job.out.outer_zero_count(), 0.0f);
    for (std::size_t row = 0; row < job.w.rows(); ++row)
        for (std::size_t index = 0; index < runs; ++index) {
            const group_statistics g = slot_of(row, index);
            const std::size_t at = outer_granularity::index(row, index * job.run, job.w.cols());
            scales[at] = max_of(scales[at], abs_of(kernel::wanted_scale<S>(g) - job.out.offset()));
            if constexpr (S::has_two_level_minimum)
                minimums[at] = max_of(minimums[at], -kernel::offset_range<S>(g).low);
        }
    store_outer(job.out, scales);
    if constexpr (S::has_two_level_minimum)
        for (std::size_t i = 0; i < minimums.size(); ++i) job.out.outer_zeros()[i] = outer_zero_of<S>(minimums[i]);
}

// Memory for the statistics of `count` runs.
template <any_scheme S> struct run_statistics_of_matrix {
    dynamic_array<float> numbers;
    dynamic_array<double> sums;
    dynamic_array<unsigned char> nonfinite;
    kernel::run_statistics all;

    explicit run_statistics_of_matrix(std::size_t count)
        : numbers(count * (quantizer<S>::with_range ? 3 : 1)), sums(quantizer<S>::with_sum ? count : 0),
          nonfinite(count) {
        all.largest = numbers.data();
        if constexpr (quantizer<S>::with_range) {
            all.low = numbers.data() + count;
            all.high = numbers.data() + 2 * count;
        }
        if constexpr (quantizer<S>::with_sum) all.sum_magnitude = sums.data();
        all.nonfinite = nonfinite.data();
    }
};

// Slots that are one run of one row each. over_rows(body) calls body(row) for every row, in any order and on any
// thread; what it returns says whether the row holds a value that is not finite.
template <any_scheme S, class OverRows> void quantize_runs(quantizer<S>& job, const OverRows& over_rows) {
    using traits = scheme_traits<S>;
    using outer_granularity = typename traits::outer_granularity;
    constexpr std::size_t block = kernel::quantize_block;
    constexpr bool outer_in_block = outer_run_of_block<S> != 0;
    const std::size_t cols = job.w.cols();
    const std::size_t rows = job.w.rows();
    if constexpr (S::two_level && !outer_in_block && !outer_by_largest<S>) {
        const std::size_t runs = ceil_div(cols, job.run);
        const run_statistics_of_matrix<S> memory(rows * runs);
        over_rows([&](std::size_t row) {
            const kernel::run_statistics s = memory.all.from(row * runs);
            const bool nonfinite = job.measure_runs(row, 0, cols, s);
            job.flush(s, runs);
            return nonfinite;
        });
        choose_outer<S>(job, [&](std::size_t row, std::size_t index) {
            return job.at(memory.all, row * runs + index, index * job.run);
        });
        over_rows([&](std::size_t row) {
            job.encode_row(row, [&](std::size_t col, std::size_t n, float* scale, float* zero) {
                job.choose_runs(row, col, n, memory.all.from(row * runs + col / job.run), scale, zero);
            });
            return false;
        });
    } else {
        if constexpr (S::two_level && !outer_in_block) {
            const std::size_t outer_run = outer_granularity::run(cols);
            const std::size_t outer_runs = ceil_div(cols, outer_run);
            dynamic_array<float> tops(rows * outer_runs);
            over_rows([&](std::size_t row) {
                for_each_run(cols, outer_run, [&](std::size_t index, std::size_t col, std::size_t n) {
                    float top = kernel::measure<false>(job.w.row(row) + col, n, false).largest;
                    if (!traits::granularity::row_local && job.options.flush_subnormals)
                        top = flush_subnormal_input(top);
                    tops[row * outer_runs + index] = top;
                });
                return false;
            });
            dynamic_array<float> wanted(job.out.outer_count(), 0.0f);
            for (std::size_t i = 0; i < tops.size(); ++i) {
                float& top = wanted[outer_granularity::index(i / outer_runs, i % outer_runs * outer_run, cols)];
                top = max_of(top, tops[i]);
            }
            store_outer(job.out, wanted);
        }
        // Each row stands alone: range and codes while it is in cache.
        over_rows([&](std::size_t row) {
            bool nonfinite = false;
            job.encode_row(row, [&](std::size_t col, std::size_t n, float* scale, float* zero) {
                float numbers[quantizer<S>::with_range ? 3 : 1][block];
                double sums[quantizer<S>::with_sum ? block : 1];
                unsigned char flags[block];
                kernel::run_statistics s{numbers[0], nullptr, nullptr, sums, flags};
                if constexpr (quantizer<S>::with_range) {
                    s.low = numbers[1];
                    s.high = numbers[2];
                }
                if (job.measure_runs(row, col, n, s)) nonfinite = true;
                if constexpr (outer_in_block && outer_by_largest<S>) choose_outer_of_runs<S>(job, row, col, n, s);
                job.flush(s, ceil_div(n, job.run));
                if constexpr (outer_in_block && !outer_by_largest<S>) choose_outer_of_runs<S>(job, row, col, n, s);
                job.choose_runs(row, col, n, s, scale, zero);
            });
            return nonfinite;
        });
    }
}

// Slots that are several runs, of one row or of many.
template <any_scheme S, class OverRows, class OverSlots>
void quantize_shared_slots(quantizer<S>& job, const OverRows& over_rows, const OverSlots& over_slots) {
    using traits = scheme_traits<S>;
    using outer_granularity = typename traits::outer_granularity;
    const matrix_view<const float> w = job.w;
    const std::size_t run = job.run;
    const std::size_t runs = ceil_div(w.cols(), run);
    dynamic_array<group_statistics> parts(w.rows() * runs);
    over_rows([&](std::size_t row) {
        bool nonfinite = false;
        for_each_run(w.cols(), run, [&](std::size_t index, std::size_t col, std::size_t n) {
            parts[row * runs + index] = job.measure(row, col, n);
            nonfinite = nonfinite || parts[row * runs + index].nonfinite;
        });
        return nonfinite;
    });
    // A slot counts once, with the statistics of all of it.
    dynamic_array<group_statistics> slots(job.out.scale_count());
    for (std::size_t row = 0; row < w.rows(); ++row)
        for (std::size_t index = 0; index < runs; ++index)
            kernel::join(slots[job.slot(row, index * run)], parts[row * runs + index]);
    if constexpr (S::two_level) {
        if constexpr (outer_by_largest<S>) {
            dynamic_array<float> wanted(job.out.outer_count(), 0.0f);
            for (std::size_t i = 0; i < parts.size(); ++i) {
                float& top = wanted[outer_granularity::index(i / runs, i % runs * run, w.cols())];
                top = max_of(top, parts[i].largest);
            }
            store_outer(job.out, wanted);
        } else {
            choose_outer<S>(job, [&](std::size_t row, std::size_t index) { return slots[job.slot(row, index * run)]; });
        }
    }
    dynamic_array<kernel::outer_parameters> outer(slots.size());
    for (std::size_t row = 0; row < w.rows(); ++row)
        for (std::size_t index = 0; index < runs; ++index)
            outer[job.slot(row, index * run)] = job.outer_of(row, index * run);
    if (job.options.range == range::least_squares) {
        // The values of each slot side by side.
        dynamic_array<std::size_t> starts(slots.size() + 1, 0);
        for (std::size_t at = 0; at < slots.size(); ++at) starts[at + 1] = starts[at] + slots[at].count;
        dynamic_array<float> values(w.rows() * w.cols());
        dynamic_array<std::size_t> next(starts);
        for (std::size_t row = 0; row < w.rows(); ++row)
            for_each_run(w.cols(), run, [&](std::size_t, std::size_t col, std::size_t n) {
                std::size_t& to = next[job.slot(row, col)];
                __builtin_memcpy(values.data() + to, w.row(row) + col, n * sizeof(float));
                to += n;
            });
        over_slots(slots.size(), [&](std::size_t at) {
            job.store(at, job.choose(slots[at], outer[at], values.data() + starts[at], slots[at].count));
        });
    } else {
        for (std::size_t at = 0; at < slots.size(); ++at)
            job.store(at, kernel::parameters_of<S>(job.known(slots[at]), outer[at]));
    }
    over_rows([&](std::size_t row) {
        job.encode_row(row);
        return false;
    });
}

} // namespace detail

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
