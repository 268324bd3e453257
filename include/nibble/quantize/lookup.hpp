// quantize/lookup.hpp: a float matrix into codes of run-time tables, by k-means, by binary planes or by given tables;
// and back.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/dynamic_array.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/view.hpp>
#include <nibble/element/element.hpp>
#include <nibble/element/minifloat.hpp>
#include <nibble/kernel/k_means.hpp>
#include <nibble/tensor/lookup_quantized.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

struct k_means_options {
    // How much the squared error of each weight counts (SqueezeLLM: the diagonal of the Fisher information). Empty, or
    // of the shape of the weights; values that are negative or not finite count as 0, and a group without any mass as
    // unweighted.
    matrix_view<const float> importance{};
    // Clusters start from the best choice of so many places, see kernel/k_means.hpp: groups of no more weights get the
    // table of least error there is, larger ones what Lloyd's iteration makes of that start.
    std::size_t places = 512;
};

struct plane_options {
    bool refine = true; // see quantize_planes
};

namespace detail {

// A table in ascending order with the thresholds between its values: halfway, rounded to fp32, where the lower one is
// taken.
template <int Bits> struct table_encoder {
    static constexpr std::size_t entries = std::size_t{1} << Bits;
    float values[entries] = {};
    float thresholds[entries] = {};
    std::uint8_t codes[entries] = {};

    void load(const float* table) noexcept {
        for (std::size_t c = 0; c < entries; ++c) {
            std::size_t at = c;
            for (; at > 0 && values[at - 1] > table[c]; --at) {
                values[at] = values[at - 1];
                codes[at] = codes[at - 1];
            }
            values[at] = table[c];
            codes[at] = static_cast<std::uint8_t>(c);
        }
        for (std::size_t i = 1; i < entries; ++i)
            if (values[i] == values[i - 1]) codes[i] = codes[i - 1];
        for (std::size_t i = 0; i + 1 < entries; ++i)
            thresholds[i] =
                static_cast<float>((static_cast<double>(values[i]) + static_cast<double>(values[i + 1])) * 0.5);
    }
    [[nodiscard]] NIBBLE_INLINE std::uint32_t rank(float x) const noexcept {
        x = x == x ? x : 0.0f;
        std::uint32_t r = 0;
        if constexpr (Bits <= 4) {
            for (std::size_t i = 0; i + 1 < entries; ++i) r += x > thresholds[i] ? 1u : 0u;
        } else {
            for (std::uint32_t step = entries / 2; step > 0; step /= 2) r += x > thresholds[r + step - 1] ? step : 0u;
        }
        return r;
    }
    // Squared error of finite numbers.
    [[nodiscard]] double error(const float* x, std::size_t count) const noexcept {
        double sum = 0.0;
        for (std::size_t i = 0; i < count; ++i) {
            const double d = static_cast<double>(x[i]) - static_cast<double>(values[rank(x[i])]);
            sum = __builtin_fma(d, d, sum);
        }
        return sum;
    }
};

// The weights of each group, one group after the other in the order of rows and columns. Weights that are not finite
// are 0 and have no mass.
struct group_values {
    dynamic_array<std::size_t> starts; // of each group, and the end
    dynamic_array<float> values;
    dynamic_array<float> masses; // empty: all equal
    bool nonfinite = false;
};

template <granularity Granularity>
[[nodiscard]] group_values gather_groups(matrix_view<const float> w, matrix_view<const float> importance) {
    group_values s;
    const std::size_t group_size = max_of<std::size_t>(1, Granularity::group_size(w.cols()));
    s.starts.assign(Granularity::count(w.rows(), w.cols()) + 1, 0);
    const auto each_segment = [&](auto&& visit) {
        for (std::size_t row = 0; row < w.rows(); ++row)
            for (std::size_t col = 0; col < w.cols(); col += group_size)
                visit(row, col, min_of(group_size, w.cols() - col), Granularity::index(row, col, w.cols()));
    };
    each_segment([&](std::size_t row, std::size_t col, std::size_t n, std::size_t group) {
        s.starts[group + 1] += n;
        for (std::size_t i = 0; i < n; ++i) s.nonfinite = s.nonfinite || !is_finite(w(row, col + i));
    });
    for (std::size_t group = 1; group < s.starts.size(); ++group) s.starts[group] += s.starts[group - 1];
    s.values.resize(w.rows() * w.cols());
    if (!importance.empty() || s.nonfinite) s.masses.resize(s.values.size());
    dynamic_array<std::size_t> at(s.starts);
    each_segment([&](std::size_t row, std::size_t col, std::size_t n, std::size_t group) {
        for (std::size_t i = 0; i < n; ++i, ++at[group]) {
            const float x = w(row, col + i);
            s.values[at[group]] = is_finite(x) ? x : 0.0f;
            if (s.masses.empty()) continue;
            const float mass = importance.empty() ? 1.0f : importance(row, col + i);
            s.masses[at[group]] = is_finite(x) && is_finite(mass) && mass > 0.0f ? mass : 0.0f;
        }
    });
    return s;
}

// Tasks of whole groups, or whole rows, with about 32768 weights each: body(first, end).
template <executor Executor, class Body>
void in_stretches(std::size_t count, std::size_t weights, const Executor& threads, Body&& body) {
    if (count == 0) return;
    const std::size_t per_task = max_of<std::size_t>(1, count / max_of<std::size_t>(1, weights / 32768));
    for_each_task(ceil_div(count, per_task), threads,
                  [&](std::size_t task, std::size_t) { body(task * per_task, min_of(count, (task + 1) * per_task)); });
}

} // namespace detail

// The codes of w under the tables that q holds: each weight takes the nearest value of its group, one halfway (in fp32)
// between two takes the lower one, of equal values the one with the lowest code. NaN is encoded as 0 would be, infinity
// takes the end of the table. Values of tables must be finite. Sets nonfinite() of q. One pass over the weights.
template <int Bits, granularity Granularity, element Format, class Table, executor Executor = serial>
void encode_with_tables(matrix_view<const float> w, lookup_quantized<Bits, Granularity, Format, Table>& q,
                        const Executor& threads = {}) {
    detail::check_executor(threads);
    NIBBLE_CHECK(w.rows() == q.rows() && w.cols() == q.cols(),
                 "encode_with_tables: q must have the shape of the weights");
    constexpr std::size_t entries = std::size_t{1} << Bits;
    float values[entries];
    for (std::size_t group = 0; group < q.group_count(); ++group) {
        q.load_table(group, values);
        bool finite = true;
        for (const float v : values) finite = finite && detail::is_finite(v);
        NIBBLE_CHECK(finite, "encode_with_tables: every value of a table must be finite");
    }
    if (w.empty()) return;
    const std::size_t group_size = detail::max_of<std::size_t>(1, Granularity::group_size(w.cols()));
    dynamic_array<unsigned char> nonfinite(w.rows(), 0);
    detail::in_stretches(w.rows(), w.rows() * w.cols(), threads, [&](std::size_t first, std::size_t end) {
        dynamic_array<std::uint8_t> codes(w.cols());
        detail::table_encoder<Bits> encoder;
        std::size_t loaded = SIZE_MAX;
        for (std::size_t row = first; row < end; ++row) {
            const float* x = w.row(row);
            bool special = false;
            for (std::size_t col = 0; col < w.cols(); ++col) special = special || !detail::is_finite(x[col]);
            nonfinite[row] = special ? 1 : 0;
            for (std::size_t col = 0; col < w.cols(); col += group_size) {
                const std::size_t group = Granularity::index(row, col, w.cols());
                if (group != loaded) {
                    float table[entries];
                    q.load_table(group, table);
                    encoder.load(table);
                    loaded = group;
                }
                const std::size_t n = detail::min_of(group_size, w.cols() - col);
                std::uint8_t* to = codes.data() + col;
                for (std::size_t i = 0; i < n; ++i) to[i] = encoder.codes[encoder.rank(x[col + i])];
            }
            detail::squeeze_codes<Bits>(codes.data(), w.cols(), q.row_codes(row));
        }
    });
    bool any = false;
    for (const unsigned char seen : nonfinite) any = any || seen != 0;
    q.set_nonfinite(any);
}

// w in tables of 2^Bits values per group that k-means chose: least (weighted) squared error, values rounded to Format
// and in ascending order; then encode_with_tables. If a group has fewer weights than values, the last value is
// repeated. The result depends on w, the importance and the options alone, not on the executor. Allocates the result
// and 8 to 12 bytes per weight.
template <int Bits, granularity Granularity, element Format = f32, executor Executor = serial>
[[nodiscard]] lookup_quantized<Bits, Granularity, Format>
quantize_k_means(matrix_view<const float> w, const k_means_options& options = {}, const Executor& threads = {}) {
    detail::check_executor(threads);
    NIBBLE_CHECK(options.importance.empty() ||
                     (options.importance.rows() == w.rows() && options.importance.cols() == w.cols()),
                 "quantize_k_means: the importance must have the shape of the weights");
    lookup_quantized<Bits, Granularity, Format> q(w.rows(), w.cols());
    if (w.empty()) return q;
    const detail::group_values groups = detail::gather_groups<Granularity>(w, options.importance);
    constexpr std::size_t entries = std::size_t{1} << Bits;
    for (std::size_t group = 0; group < q.group_count(); ++group)
        NIBBLE_CHECK(groups.starts[group + 1] - groups.starts[group] < 0xffffffffu,
                     "quantize_k_means: a group must have fewer than 2^32 - 1 weights");
    detail::in_stretches(q.group_count(), w.rows() * w.cols(), threads, [&](std::size_t first, std::size_t end) {
        kernel::line_clusters clusters;
        double centers[entries];
        for (std::size_t group = first; group < end; ++group) {
            const std::size_t begin = groups.starts[group];
            const std::size_t count = groups.starts[group + 1] - begin;
            if (count == 0) continue;
            clusters.load(groups.values.data() + begin, groups.masses.empty() ? nullptr : groups.masses.data() + begin,
                          count);
            clusters.solve(entries, options.places, centers);
            for (std::size_t c = 0; c < entries; ++c)
                q.numbers(group)[c] = encode<Format>(static_cast<float>(centers[c]));
        }
    });
    encode_with_tables(w, q, threads);
    return q;
}

namespace detail {

// The numbers of two binary planes for x[0, count): see quantize_planes.
template <element Format> struct plane_search {
    using code = typename Format::code;
    const float* x;
    std::size_t count;
    code best[2] = {};

    plane_search(const float* values, std::size_t n) noexcept : x(values), count(n) {}
    void try_scales() noexcept {
        float top = 0.0f;
        for (std::size_t i = 0; i < count; ++i) top = max_of(top, abs_of(x[i]));
        for (int t = 1; t <= 80; ++t)
            for (int negative = 0; negative < 2; ++negative) {
                const double size = static_cast<double>(top) * t / 80.0;
                const double s = negative != 0 ? -size : size;
                (void)attempt(2.0 * s, -s);
            }
    }
    void refine() noexcept {
        double a1 = 0.0, a2 = 0.0;
        for (int round = 0; round < 50; ++round)
            if (!fit(a1, a2) || !attempt(a1, a2)) break;
    }

private:
    // Takes a1 and a2, rounded, if they err less than the best so far.
    bool attempt(double a1, double a2) noexcept {
        const code codes[2] = {encode<Format>(static_cast<float>(a1)), encode<Format>(static_cast<float>(a2))};
        if (!load(codes)) return false;
        const double e = encoder_.error(x, count);
        if (least_ >= 0.0 && !(e < least_)) return false;
        least_ = e;
        best[0] = codes[0];
        best[1] = codes[1];
        return true;
    }
    // The least squares numbers for the codes under the best ones; false if the codes do not tell the planes apart.
    bool fit(double& a1, double& a2) noexcept {
        (void)load(best);
        double count1 = 0.0, count2 = 0.0, both = 0.0, sum1 = 0.0, sum2 = 0.0;
        for (std::size_t i = 0; i < count; ++i) {
            const unsigned c = encoder_.codes[encoder_.rank(x[i])];
            const double v = static_cast<double>(x[i]);
            count1 += (c & 1u) != 0 ? 1.0 : 0.0;
            count2 += (c & 2u) != 0 ? 1.0 : 0.0;
            both += c == 3 ? 1.0 : 0.0;
            sum1 += (c & 1u) != 0 ? v : 0.0;
            sum2 += (c & 2u) != 0 ? v : 0.0;
        }
        // count1 a1 + both a2 = sum1, both a1 + count2 a2 = sum2; counts are exact, products fuse on purpose.
        const double determinant = count1 * count2 - both * both;
        if (!(determinant > 0.0)) return false;
        a1 = __builtin_fma(sum1, count2, -(sum2 * both)) / determinant;
        a2 = __builtin_fma(sum2, count1, -(sum1 * both)) / determinant;
        return true;
    }
    // Their four sums into the encoder; false, and it stays as it was, if one is not finite.
    bool load(const code* numbers) noexcept {
        const float plain[2] = {Format::decode(numbers[0]), Format::decode(numbers[1])};
        float table[4];
        bool finite = true;
        for (std::size_t c = 0; c < 4; ++c) {
            table[c] = plane_sums::value<2>(plain, c);
            finite = finite && is_finite(table[c]);
        }
        if (finite) encoder_.load(table);
        return finite;
    }

    table_encoder<2> encoder_;
    double least_ = -1.0;
};

} // namespace detail

// w in two binary planes per weight with a number each, value = a1 b1 + a2 b2 with b in {0, 1} and b1 in bit 0 of the
// code (FDB, "flexible dual binarization" of DB-LLM, Chen et al., 2024). a1 = 2 s and a2 = -s start as the best of 160
// candidates s = +-max|w| t / 80, t = 1 ... 80, by squared error of the group; with `refine` both numbers then
// alternate between their least squares solution and the nearest codes for as long as the error falls, 50 times at
// most. Numbers are rounded to Format before every comparison.
template <granularity Granularity, element Format = f16, executor Executor = serial>
[[nodiscard]] lookup_quantized<2, Granularity, Format, plane_sums>
quantize_planes(matrix_view<const float> w, const plane_options& options = {}, const Executor& threads = {}) {
    detail::check_executor(threads);
    lookup_quantized<2, Granularity, Format, plane_sums> q(w.rows(), w.cols());
    if (w.empty()) return q;
    const detail::group_values groups = detail::gather_groups<Granularity>(w, {});
    detail::in_stretches(q.group_count(), w.rows() * w.cols(), threads, [&](std::size_t first, std::size_t end) {
        for (std::size_t group = first; group < end; ++group) {
            const std::size_t count = groups.starts[group + 1] - groups.starts[group];
            detail::plane_search<Format> search(groups.values.data() + groups.starts[group], count);
            search.try_scales();
            if (options.refine) search.refine();
            for (std::size_t plane = 0; plane < 2; ++plane) q.numbers(group)[plane] = search.best[plane];
        }
    });
    encode_with_tables(w, q, threads);
    return q;
}

// The values of q into out (rows x cols of q): exact, one look-up per weight.
template <int Bits, granularity Granularity, element Format, class Table, executor Executor = serial>
void dequantize(const lookup_quantized<Bits, Granularity, Format, Table>& q, matrix_view<float> out,
                const Executor& threads = {}) {
    detail::check_executor(threads);
    NIBBLE_CHECK(out.rows() == q.rows() && out.cols() == q.cols(),
                 "dequantize: out must have the shape of the weights");
    if (out.empty()) return;
    const std::size_t group_size = detail::max_of<std::size_t>(1, Granularity::group_size(q.cols()));
    detail::in_stretches(q.rows(), q.rows() * q.cols(), threads, [&](std::size_t first, std::size_t end) {
        dynamic_array<std::uint8_t> codes(q.cols());
        float table[std::size_t{1} << Bits];
        std::size_t loaded = SIZE_MAX;
        for (std::size_t row = first; row < end; ++row) {
            detail::spread_codes<Bits>(q.row_codes(row), q.cols(), codes.data());
            for (std::size_t col = 0; col < q.cols(); col += group_size) {
                const std::size_t group = Granularity::index(row, col, q.cols());
                if (group != loaded) {
                    q.load_table(group, table);
                    loaded = group;
                }
                const std::size_t n = detail::min_of(group_size, q.cols() - col);
                const std::uint8_t* from = codes.data() + col;
                float* to = out.row(row) + col;
                for (std::size_t i = 0; i < n; ++i) to[i] = table[from[i]];
            }
        }
    });
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
