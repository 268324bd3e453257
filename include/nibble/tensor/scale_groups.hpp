// scale_groups.hpp: what the scale groups of a matrix store, without its codes: made by choose_scales, read by encode.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/buffer.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/reset_on_move.hpp>
#include <nibble/scheme/scheme.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

namespace detail {

// The numbers of all scale groups of a matrix behind plain pointers, for loops over many of them.
template <any_scheme Scheme> struct scale_reader {
    using traits = scheme_traits<Scheme>;
    const typename traits::scale_code* scales;
    const typename traits::outer_code* outer;
    const typename traits::zero_code* zeros;
    const typename traits::outer_zero_code* outer_zeros;
    float offset;
    std::size_t cols;

    [[nodiscard]] NIBBLE_INLINE float scale(std::size_t row, std::size_t col) const noexcept {
        if constexpr (!Scheme::scaled) {
            return 1.0f;
        } else {
            const float inner =
                decoded<typename traits::scale_element>(scales[traits::granularity::index(row, col, cols)]);
            if constexpr (Scheme::two_level)
                return two_level_product<Scheme>(
                    inner,
                    decoded<typename traits::outer_element>(outer[traits::outer_granularity::index(row, col, cols)]),
                    offset);
            else
                return inner;
        }
    }
    [[nodiscard]] NIBBLE_INLINE float zero(std::size_t row, std::size_t col) const noexcept {
        if constexpr (Scheme::has_integer_zero)
            return static_cast<float>(zeros[traits::granularity::index(row, col, cols)]);
        else if constexpr (Scheme::has_two_level_minimum)
            return -(decoded<typename traits::zero_element>(zeros[traits::granularity::index(row, col, cols)]) *
                     decoded<typename traits::outer_zero_element>(
                         outer_zeros[traits::outer_granularity::index(row, col, cols)]));
        else if constexpr (Scheme::has_minimum)
            return decoded<typename traits::zero_element>(zeros[traits::granularity::index(row, col, cols)]);
        else
            return 0.0f;
    }
};

// Where a matrix stores the numbers of its scale groups, for whoever writes them.
template <any_scheme Scheme> struct scale_storage {
    using traits = scheme_traits<Scheme>;
    typename traits::scale_code* scales;
    typename traits::outer_code* outer;
    typename traits::zero_code* zeros;
    typename traits::outer_zero_code* outer_zeros;
    float* offset; // null without a mean_offset
    std::size_t rows, cols;

    [[nodiscard]] scale_reader<Scheme> reader() const noexcept {
        return {scales, outer, zeros, outer_zeros, offset == nullptr ? 0.0f : *offset, cols};
    }
};

// The sections of scales, as quantized.hpp lists them, and all that is read of them. Matrix is the class that derives
// from this and owns them: it has rows(), cols() and scale_memory(), where they begin; null for a matrix without
// memory.
template <class Matrix, any_scheme Scheme> class scale_sections {
public:
    using scheme_type = Scheme;
    using traits = scheme_traits<Scheme>;
    using scale_code = typename traits::scale_code;
    using outer_code = typename traits::outer_code;
    using zero_code = typename traits::zero_code;
    using outer_zero_code = typename traits::outer_zero_code;
    using scale_reader = nibble::detail::scale_reader<Scheme>;

    [[nodiscard]] scale_code* scales() noexcept { return section<scale_code>(0); }
    [[nodiscard]] const scale_code* scales() const noexcept { return section<scale_code>(0); }
    [[nodiscard]] outer_code* outer_scales() noexcept { return section<outer_code>(outer_begin(rows(), cols())); }
    [[nodiscard]] const outer_code* outer_scales() const noexcept {
        return section<outer_code>(outer_begin(rows(), cols()));
    }
    [[nodiscard]] zero_code* zeros() noexcept { return section<zero_code>(zeros_begin(rows(), cols())); }
    [[nodiscard]] const zero_code* zeros() const noexcept { return section<zero_code>(zeros_begin(rows(), cols())); }
    [[nodiscard]] outer_zero_code* outer_zeros() noexcept {
        return section<outer_zero_code>(outer_zeros_begin(rows(), cols()));
    }
    [[nodiscard]] const outer_zero_code* outer_zeros() const noexcept {
        return section<outer_zero_code>(outer_zeros_begin(rows(), cols()));
    }
    // What a mean_offset adds to every scale; 0 for schemes without one and for an empty matrix.
    [[nodiscard]] float offset() const noexcept {
        if constexpr (Scheme::has_offset) {
            if (matrix().scale_memory() != nullptr) return *section<float>(offset_begin(rows(), cols()));
        }
        return 0.0f;
    }
    void set_offset(float value) noexcept
        requires(Scheme::has_offset)
    {
        if (matrix().scale_memory() != nullptr) *section<float>(offset_begin(rows(), cols())) = value;
    }
    [[nodiscard]] std::size_t scale_count() const noexcept { return traits::scale_count(rows(), cols()); }
    [[nodiscard]] std::size_t outer_count() const noexcept { return traits::outer_count(rows(), cols()); }
    [[nodiscard]] std::size_t zero_count() const noexcept { return traits::zero_count(rows(), cols()); }
    [[nodiscard]] std::size_t outer_zero_count() const noexcept { return traits::outer_zero_count(rows(), cols()); }

    [[nodiscard]] scale_reader read_scales() const noexcept {
        return {scales(), outer_scales(), zeros(), outer_zeros(), offset(), cols()};
    }
    [[nodiscard]] scale_storage<Scheme> write_scales() noexcept {
        float* offset = nullptr;
        if constexpr (Scheme::has_offset)
            if (matrix().scale_memory() != nullptr) offset = section<float>(offset_begin(rows(), cols()));
        return {scales(), outer_scales(), zeros(), outer_zeros(), offset, rows(), cols()};
    }
    // The fp32 scale of a weight: for two_level the rounded product, 1 for no_scale.
    [[nodiscard]] float scale_at(std::size_t row, std::size_t col) const noexcept {
        return read_scales().scale(row, col);
    }
    // The zero point or minimum of a weight; 0 for no_zero.
    [[nodiscard]] float zero_at(std::size_t row, std::size_t col) const noexcept {
        return read_scales().zero(row, col);
    }

protected:
    [[nodiscard]] static constexpr std::size_t section_bytes(std::size_t rows, std::size_t cols) noexcept {
        return offset_begin(rows, cols) + (Scheme::has_offset ? 64 : 0);
    }

private:
    [[nodiscard]] Matrix& matrix() noexcept { return static_cast<Matrix&>(*this); }
    [[nodiscard]] const Matrix& matrix() const noexcept { return static_cast<const Matrix&>(*this); }
    [[nodiscard]] std::size_t rows() const noexcept { return matrix().rows(); }
    [[nodiscard]] std::size_t cols() const noexcept { return matrix().cols(); }
    template <class T> [[nodiscard]] T* section(std::size_t begin) noexcept {
        return reinterpret_cast<T*>(matrix().scale_memory() + begin);
    }
    template <class T> [[nodiscard]] const T* section(std::size_t begin) const noexcept {
        return reinterpret_cast<const T*>(matrix().scale_memory() + begin);
    }
    [[nodiscard]] static constexpr std::size_t outer_begin(std::size_t rows, std::size_t cols) noexcept {
        return round_up(traits::scale_count(rows, cols) * sizeof(scale_code), 64);
    }
    [[nodiscard]] static constexpr std::size_t zeros_begin(std::size_t rows, std::size_t cols) noexcept {
        return outer_begin(rows, cols) + round_up(traits::outer_count(rows, cols) * sizeof(outer_code), 64);
    }
    [[nodiscard]] static constexpr std::size_t outer_zeros_begin(std::size_t rows, std::size_t cols) noexcept {
        return zeros_begin(rows, cols) + round_up(traits::zero_count(rows, cols) * sizeof(zero_code), 64);
    }
    [[nodiscard]] static constexpr std::size_t offset_begin(std::size_t rows, std::size_t cols) noexcept {
        return outer_zeros_begin(rows, cols) +
               round_up(traits::outer_zero_count(rows, cols) * sizeof(outer_zero_code), 64);
    }
};

} // namespace detail

// What the scale groups of a rows x cols matrix store in a scheme: the sections of quantized.hpp behind its codes, in
// the same order and numbers (none at all for no_scale), with the same accessors. It owns its memory; copies are deep;
// moved from, it is 0 x 0. Whoever has scales of his own writes their codes:
//     groups.scales()[G::index(row, col, cols)] = nibble::encode<f16>(scale)     of scheme<E, G, scale<f16>>
template <any_scheme Scheme> class scale_groups : public detail::scale_sections<scale_groups<Scheme>, Scheme> {
    using base = detail::scale_sections<scale_groups<Scheme>, Scheme>;

public:
    scale_groups() noexcept = default;
    // All codes 0: every scale 0, or what its format's code 0 means.
    scale_groups(std::size_t rows, std::size_t cols, allocator from = {})
        : rows_(rows), cols_(cols), memory_(bytes_for(rows, cols), from) {}

    // Total size in bytes; fails the contract if it does not fit in size_t.
    [[nodiscard]] static std::size_t bytes_for(std::size_t rows, std::size_t cols) {
        NIBBLE_CHECK(cols == 0 || rows <= (SIZE_MAX / 64) / cols,
                     "scale_groups: rows x cols does not fit in the address space");
        return base::section_bytes(rows, cols);
    }

    [[nodiscard]] std::size_t rows() const noexcept { return rows_; }
    [[nodiscard]] std::size_t cols() const noexcept { return cols_; }
    [[nodiscard]] std::size_t bytes() const noexcept { return memory_.size(); }
    // The sections, bytes() of them.
    [[nodiscard]] const std::byte* data() const noexcept { return memory_.data(); }
    // True if the matrix that they were chosen for held a NaN or an infinity (see quantize).
    [[nodiscard]] bool nonfinite() const noexcept { return nonfinite_; }
    void set_nonfinite(bool value) noexcept { nonfinite_ = value; }

private:
    friend base;
    [[nodiscard]] std::byte* scale_memory() noexcept { return memory_.data(); }
    [[nodiscard]] const std::byte* scale_memory() const noexcept { return memory_.data(); }

    detail::reset_on_move<std::size_t> rows_;
    detail::reset_on_move<std::size_t> cols_;
    detail::reset_on_move<bool> nonfinite_;
    buffer memory_{};
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
