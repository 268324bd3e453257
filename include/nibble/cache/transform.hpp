// cache/transform.hpp: what becomes of keys, or of values, before a cache stores them, and is undone in attention.
#pragma once

#include <nibble/core/array_view.hpp>
#include <nibble/core/bits.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/dynamic_array.hpp>
#include <nibble/core/shared_ptr.hpp>
#include <nibble/core/view.hpp>
#include <nibble/isa/isa.hpp>
#include <nibble/kernel/kv_store.hpp>
#include <nibble/kernel/rotary.hpp>
#include <nibble/kernel/sort_by_key.hpp>
#include <nibble/transform/hadamard.hpp>
#include <nibble/transform/rotary.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// Of each head x, `size` channels: y = H P (x - mean) is stored; what has few large channels, or none, loses less in
// few bits. Each step may be left out. Attention gives what it would give for x: the same steps go to the queries,
// whose product with the mean is one number for all tokens, and are undone on sums of values. So no model has to be
// changed for it, and a cache answers in its caller's channels.
struct kv_transform {
    // heads x size, subtracted, or empty. Keys: SageAttention (Zhang et al., 2024), "smooth K"; here the mean is fixed
    // before the first token is appended, that of an earlier prompt or of a set of them (column_means).
    dynamic_array<float> mean{};
    // heads x size, or empty: stored channel c of a head is its channel order[c]. Block floating point with outliers
    // (Trukhanov and Soloveychik, 2024): channels in the order of their size, so that those of one group are alike
    // (order_by_norm).
    dynamic_array<std::uint32_t> order{};
    // The channels of each head, in blocks of hadamard_block(size), through the Hadamard transform: all become alike
    // (QuaRot, Ashkboos et al., 2024).
    bool hadamard = false;
    // Of keys, whose other steps may then be the mean alone. KVQuant (Hooper et al., 2024): keys keep their outliers in
    // few channels only before they are rotated, where a scale per channel (along_tokens) or the mean meets them.
    // Attention dequantizes keys and rotates them, cosines and sines within 2^-21; products with them are in fp32 in
    // every precision.
    rotary_embedding rotary{};
};

// The mean of every column of a matrix whose rows are tokens, summed in double; NaN or infinite where a number of it
// is.
[[nodiscard]] inline dynamic_array<float> column_means(matrix_view<const float> x) {
    NIBBLE_CHECK(x.rows() != 0, "column_means: of one row at least");
    dynamic_array<double> sums(x.cols());
    for (std::size_t t = 0; t < x.rows(); ++t)
        for (std::size_t c = 0; c < x.cols(); ++c) sums[c] += static_cast<double>(x(t, c));
    dynamic_array<float> means(x.cols());
    for (std::size_t c = 0; c < x.cols(); ++c) means[c] = static_cast<float>(sums[c] / static_cast<double>(x.rows()));
    return means;
}

// For the columns of each of `heads` heads, rows being tokens: their numbers from the largest norm to the smallest,
// equal ones in their old order, as kv_transform::order takes them. The norm is that of x - mean, where a mean is given
// (of every column).
[[nodiscard]] inline dynamic_array<std::uint32_t> order_by_norm(matrix_view<const float> x, std::size_t heads,
                                                                array_view<const float> mean = {}) {
    NIBBLE_CHECK(heads != 0 && x.cols() % heads == 0, "order_by_norm: as many columns for every head");
    NIBBLE_CHECK(mean.empty() || mean.size() == x.cols(), "order_by_norm: a mean for every column, or none");
    const std::size_t size = x.cols() / heads;
    dynamic_array<double> squares(x.cols());
    for (std::size_t t = 0; t < x.rows(); ++t)
        for (std::size_t c = 0; c < x.cols(); ++c) {
            const double d = static_cast<double>(x(t, c)) - (mean.empty() ? 0.0 : static_cast<double>(mean[c]));
            squares[c] = __builtin_fma(d, d, squares[c]);
        }
    for (double& s : squares) // what is not a number has to have a place too
        if (s != s) s = __builtin_inf();
    dynamic_array<std::uint32_t> order(x.cols());
    dynamic_array<kernel::keyed<std::uint64_t>> ranking(size), spare;
    for (std::size_t h = 0; h < heads; ++h) {
        for (std::size_t c = 0; c < size; ++c)
            ranking[c] = {kernel::ordered_key(-squares[h * size + c]), static_cast<std::uint32_t>(c)};
        kernel::sort_by_key(ranking, spare);
        for (std::size_t c = 0; c < size; ++c) order[h * size + c] = ranking[c].position;
    }
    return order;
}

namespace detail {

inline void check_transform(const kv_transform& t, std::size_t heads, std::size_t size, bool keys) {
    NIBBLE_CHECK(t.mean.empty() || t.mean.size() == heads * size,
                 "kv_transform: the mean must have heads x size numbers, or none");
    NIBBLE_CHECK(t.order.empty() || t.order.size() == heads * size,
                 "kv_transform: the order must have heads x size numbers, or none");
    for (const float m : t.mean) NIBBLE_CHECK(is_finite(m), "kv_transform: the mean must be finite");
    for (std::size_t first = 0; first < t.order.size(); first += size) {
        bool met[kernel::longest_head] = {};
        for (std::size_t c = 0; c < size; ++c) {
            const std::size_t from = t.order[first + c];
            NIBBLE_CHECK(from < size && !met[from],
                         "kv_transform: the order of a head must name each of its channels once");
            met[from] = true;
        }
    }
    const rotary_embedding& r = t.rotary;
    if (r.dims == 0) return;
    NIBBLE_CHECK(keys, "kv_transform: a rotary embedding is for keys, not for values");
    NIBBLE_CHECK(
        t.order.empty() && !t.hadamard,
        "kv_transform: a rotary embedding does not go with an order or a Hadamard transform, which mix its pairs");
    check_rotary(r, size);
}

// What attention needs of a rotary embedding, nullptr if there is none.
[[nodiscard]] inline shared_ptr<const kernel::rotary_tables> tables_of(const rotary_embedding& r) {
    if (r.dims == 0) return nullptr;
    return make_shared<const kernel::rotary_tables>(r.dims, r.interleaved, frequencies_of(r));
}

// x = H P (x - mean) of one head, in place; queries are not centred.
template <isa Isa>
NIBBLE_NOINLINE void transform_channels(const kv_transform& t, std::size_t head, std::size_t size, bool centre,
                                        float* x) noexcept {
    if (centre && !t.mean.empty()) {
        const float* mean = t.mean.data() + head * size;
        for (std::size_t c = 0; c < size; ++c) x[c] -= mean[c];
    }
    if (!t.order.empty()) {
        const std::uint32_t* order = t.order.data() + head * size;
        float from[kernel::longest_head];
        __builtin_memcpy(from, x, size * sizeof *x);
        for (std::size_t c = 0; c < size; ++c) x[c] = from[order[c]];
    }
    if (t.hadamard) hadamard<Isa>({x, size}, hadamard_block(size));
}

// x = the inverse of P and H of x, + share x mean; of values that are the first `values` of `size` channels there is
// only a mean.
template <isa Isa>
NIBBLE_NOINLINE void restore_channels(const kv_transform& t, std::size_t head, std::size_t size, std::size_t values,
                                      float share, float* x) noexcept {
    if (t.hadamard) hadamard<Isa>({x, size}, hadamard_block(size));
    if (!t.order.empty()) {
        const std::uint32_t* order = t.order.data() + head * size;
        float from[kernel::longest_head];
        __builtin_memcpy(from, x, size * sizeof *x);
        for (std::size_t c = 0; c < size; ++c) x[order[c]] = from[c];
    }
    if (!t.mean.empty()) {
        const float* mean = t.mean.data() + head * size;
        for (std::size_t c = 0; c < values; ++c) x[c] = fused_multiply_add(mean[c], share, x[c]);
    }
}

} // namespace detail

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
