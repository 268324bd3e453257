// gemm_reference.hpp: gemm's documented formula in plain loops over plain-order weights, written without any of the
// library's kernels; and the same sums in double with a bound on how far a gemm may be from them.
#pragma once

#include <nibble/core/view.hpp>
#include <nibble/prepare.hpp>
#include <nibble/scheme/scheme.hpp>
#include <nibble/tensor/quantized.hpp>

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

namespace gemm_test {

using sizes = std::initializer_list<std::size_t>; // for (std::size_t n : sizes{1, 2, 3})

// ---- numbers
// ---------------------------------------------------------------------------------------------------------

// splitmix64: small, seeded, the same everywhere.
class number_source {
public:
    explicit number_source(std::uint64_t seed) : state_(seed) {}
    std::uint64_t bits() {
        std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
    std::size_t below(std::size_t n) { return static_cast<std::size_t>(bits() % n); }
    float uniform(float low, float high) {
        return low + (high - low) * static_cast<float>(static_cast<double>(bits() >> 11) * 0x1p-53);
    }
    // Bell-shaped, with a value ten times larger now and then, as weights and activations have them.
    float bell() {
        float sum = 0.0f;
        for (int i = 0; i < 4; ++i) sum += uniform(-1.0f, 1.0f);
        return below(97) == 0 ? 10.0f * sum : sum;
    }

private:
    std::uint64_t state_;
};

inline std::vector<float> bell_values(std::size_t count, std::uint64_t seed) {
    number_source from(seed);
    std::vector<float> v(count);
    for (float& x : v) x = from.bell();
    return v;
}

// A NaN is a NaN: which of its bits survive arithmetic is not promised. Everything else has one pattern.
inline bool same_bits(float a, float b) {
    return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b) || (std::isnan(a) && std::isnan(b));
}

// Where two matrices differ first, or "".
inline std::string first_difference(nibble::matrix_view<const float> got, nibble::matrix_view<const float> want) {
    for (std::size_t i = 0; i < got.rows(); ++i)
        for (std::size_t j = 0; j < got.cols(); ++j)
            if (!same_bits(got(i, j), want(i, j))) {
                std::ostringstream out;
                out.precision(9);
                out << "y(" << i << ", " << j << ") is " << got(i, j) << ", expected " << want(i, j) << std::hexfloat
                    << " (" << got(i, j) << ", " << want(i, j) << ")";
                return out.str();
            }
    return {};
}

// rows x cols floats, `gap` more between rows and at either end, all of which hold the canary: a NaN, which spoils a
// result if it is read and is missed if it is overwritten.
class fenced_matrix {
public:
    static constexpr std::uint32_t canary = 0x7fc5a5a5u;
    fenced_matrix(std::size_t rows, std::size_t cols, std::size_t gap)
        : rows_(rows), cols_(cols), gap_(gap), words_(gap + rows * (cols + gap), std::bit_cast<float>(canary)) {}
    [[nodiscard]] nibble::matrix_view<float> view() { return {words_.data() + gap_, rows_, cols_, cols_ + gap_}; }
    [[nodiscard]] nibble::matrix_view<const float> view() const {
        return {words_.data() + gap_, rows_, cols_, cols_ + gap_};
    }
    void clear() {
        for (float& x : words_) x = std::bit_cast<float>(canary);
    }
    void fill(const float* from) {
        for (std::size_t i = 0; i < rows_; ++i)
            for (std::size_t j = 0; j < cols_; ++j) view()(i, j) = from[i * cols_ + j];
    }
    // True if nothing around and between the rows was written.
    [[nodiscard]] bool intact() const {
        for (std::size_t i = 0; i < words_.size(); ++i) {
            const bool inside = i >= gap_ && (i - gap_) % (cols_ + gap_) < cols_;
            if (!inside && std::bit_cast<std::uint32_t>(words_[i]) != canary) return false;
        }
        return true;
    }
    // True if nothing at all was written.
    [[nodiscard]] bool untouched() const {
        for (const float x : words_)
            if (std::bit_cast<std::uint32_t>(x) != canary) return false;
        return true;
    }

private:
    std::size_t rows_, cols_, gap_;
    std::vector<float> words_;
};

// ---- weights in plain order
// --------------------------------------------------------------------------------------------

// Every value is integer x 2^exponent with integers that fit in 8 bits: the integer family of gemm.hpp.
[[nodiscard]] std::optional<int> integer_exponent(const std::vector<float>& values);

struct plain_weights {
    std::size_t rows = 0;
    std::size_t cols = 0;
    std::size_t run = 1;     // columns per scale
    std::size_t groups = 0;  // scales per row
    bool has_groups = false; // longer rows have more scales
    bool integer = false;    // the family
    int exponent = 0;        // of the integer family
    bool has_minimum = false;
    std::vector<float> elements; // rows x cols: decode(code)
    std::vector<float> scales;   // rows x groups
    std::vector<float> zeros;    // rows x groups: integer zero points, or minimums
    std::vector<float> factors;  // rows: outer scales, where a row has one
};

template <nibble::any_scheme S> plain_weights plain_of(const nibble::quantized<S>& q) {
    using traits = nibble::detail::scheme_traits<S>;
    using element = typename traits::element;
    plain_weights p;
    p.rows = q.rows();
    p.cols = q.cols();
    p.run = p.cols == 0 ? 1 : p.cols;
    if constexpr (S::scaled) {
        const std::size_t run = traits::granularity::group_size(p.cols);
        if (run < p.run && run != 0) p.run = run;
    }
    p.groups = (p.cols + p.run - 1) / p.run;
    p.has_groups = S::scaled && traits::granularity::group_size(std::size_t{1} << 24) < std::size_t{1} << 24;
    p.has_minimum = S::has_minimum;
    if constexpr (element::bits <= 8) {
        std::vector<float> values;
        for (unsigned c = 0; c < (1u << element::bits); ++c)
            values.push_back(element::decode(static_cast<typename element::code>(c)));
        const std::optional<int> exponent = integer_exponent(values);
        p.integer = exponent.has_value();
        p.exponent = exponent.value_or(0);
    }
    std::size_t outer_slots = 0;
    if constexpr (S::two_level) {
        const std::size_t run = traits::outer_granularity::group_size(p.cols);
        outer_slots = run >= p.cols ? 1 : (p.cols + run - 1) / run;
        // Where something is added to the scaled codes, the outer scale is no factor of the row.
        if (S::has_minimum || S::has_offset) outer_slots = 0;
    }
    p.elements.reserve(p.rows * p.cols);
    for (std::size_t i = 0; i < p.rows; ++i) {
        for (std::size_t j = 0; j < p.cols; ++j) p.elements.push_back(element::decode(q.code_at(i, j)));
        float factor = 1.0f;
        for (std::size_t g = 0; g < p.groups; ++g) {
            const std::size_t col = g * p.run;
            float scale = 1.0f;
            if constexpr (S::two_level) {
                // scale_at is the product; the formula keeps the two apart where a row has one outer scale.
                if (outer_slots == 1) {
                    scale = traits::scale_element::decode(q.scales()[traits::granularity::index(i, col, p.cols)]);
                    factor = traits::outer_element::decode(
                        q.outer_scales()[traits::outer_granularity::index(i, col, p.cols)]);
                } else {
                    scale = q.scale_at(i, col);
                }
            } else {
                scale = q.scale_at(i, col);
            }
            p.scales.push_back(scale);
            p.zeros.push_back(q.zero_at(i, col));
        }
        p.factors.push_back(factor);
    }
    return p;
}

// Ways to scale x, per group or not, that these weights allow: per group means nothing to integers without groups, and
// any means the same to activations that stay fp32.
inline std::vector<bool> scalings_of(const plain_weights& w) {
    return w.has_groups || !w.integer ? std::vector<bool>{false, true} : std::vector<bool>{false};
}
inline nibble::activation_options scaled_by(bool per_group) {
    nibble::activation_options options;
    options.scale = per_group ? nibble::activation_scale::per_group : nibble::activation_scale::per_token;
    return options;
}

// ---- the formula
// ---------------------------------------------------------------------------------------------------------

// Columns summed at a time: groups, and the pieces of 65536 columns that longer groups are cut into.
struct column_part {
    std::size_t begin = 0;
    std::size_t end = 0;
    std::size_t group = 0;
};
inline std::vector<column_part> parts_of(const plain_weights& w) {
    std::vector<column_part> parts;
    for (std::size_t g = 0; g < w.groups; ++g) {
        const std::size_t last = (g + 1) * w.run < w.cols ? (g + 1) * w.run : w.cols;
        for (std::size_t k = g * w.run; k < last; k += 65536)
            parts.push_back({k, k + 65536 < last ? k + 65536 : last, g});
    }
    return parts;
}

// One row of activations in int8.
struct int8_row {
    std::vector<std::int32_t> values;
    std::vector<float> scales; // one per part, or one in all
    std::int32_t offset = 0;   // value = scale x (integer - offset)
};

// value = round(x (127 / max|x|)), scale = max|x| / 127; NaN or infinity anywhere makes the scale NaN; magnitudes so
// small that 127 / max|x| is no number make zeros.
[[nodiscard]] int8_row quantize_activations(const float* x, std::size_t cols, const std::vector<column_part>& parts,
                                            bool per_group);

// The integers of weights of the integer family, zero points taken off.
[[nodiscard]] std::vector<std::int32_t> integers_of(const plain_weights& w);

// sums(n) as weight_sums documents them, integer family.
[[nodiscard]] std::vector<float> reference_weight_sums(const plain_weights& w);

// One row of y from integer activations, which have one scale per part if per_group is set.
void reference_row(const int8_row& a, bool per_group, bool asymmetric, const plain_weights& w,
                   const std::vector<std::int32_t>& integers, const std::vector<float>& sums, float* y);

// y = x wT, M x N in row-major order, bit for bit what gemm promises.
[[nodiscard]] std::vector<float> reference_gemm(nibble::matrix_view<const float> x, const plain_weights& w,
                                                bool per_group);

// ---- double precision
// ------------------------------------------------------------------------------------------------------

struct fp64_result {
    std::vector<double> y;
    std::vector<double> bound; // |gemm - y| is at most this
};

// The sums in double, of x as it is with the weights as they are stored, and how far gemm may be from them. u = 2^-24.
//
// Integer family. With largest magnitude A of the scale's columns, scale s = fl(A / 127), inverse i = fl(127 / A) and
// q = round(fl(x i)) clamped: x i is x / s times at most (1 + u)^3, and |x i| <= 127 (1 + u)^2, so that q differs from
// x / s by at most 1/2 + 127 x 4u, and x - q s is at most e = s (1/2 + 508 u). Hence the quantization of x costs at
// most
//     sum_k e_k |w_k|                                                                                               (1)
// (if A is so small that all q are zero, e = A). What remains are roundings of a sum of G parts whose exact dot
// products of integers are rounded to fp32 once; each term passes that rounding, that of s x 2^exponent, of s x sx, the
// final two products, and at most 2G fma (a minimum has its own): with S = sum_k |q_k| s (|scale element_k| +
// |minimum|)
//     |error| <= gamma(2 G + 6) S, gamma(n) = n u / (1 - n u) (2)
// since (1 + u)^n - 1 <= gamma(n). An element with an integer zero point counts as |element - zero|, which is exact.
//
// Real family. No (1); a part of K_p columns is a chain of K_p fma (its sum of x, K_p additions), so each term passes
// at most K_p + 2 G + 4 roundings: (2) with n = max K_p + 2 G + 4 and S = sum_k |x_k| (|scale element_k| + |minimum|).
//
// Double's own rounding is 2^-29 of that and goes under in one unit added to n. Underflow is not part of it: the data
// of these tests stay away from it.
[[nodiscard]] fp64_result reference_fp64(nibble::matrix_view<const float> x, const plain_weights& w, bool per_group);

} // namespace gemm_test
