// every_format.hpp: pack and unpack of a part of the named formats: exact inverses, and codes where layout.hpp says;
// and through panels of other widths and files.
#pragma once

#include "support/catch.hpp"
#include "support/executors.hpp"
#include "support/lists.hpp"
#include "support/quantize_reference.hpp"
#include "support/random.hpp"

#include <nibble/dequantize_rows.hpp>
#include <nibble/element/element.hpp>
#include <nibble/io/packed_file.hpp>
#include <nibble/io/packed_file_writer.hpp>
#include <nibble/pack.hpp>
#include <nibble/scheme/formats.hpp>
#include <nibble/tensor/packed.hpp>
#include <nibble/tensor/quantized.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace nibble_test {

// Any codes, scales and zero points, whether an encoder would produce them or not.
template <class Scheme>
[[nodiscard]] nibble::quantized<Scheme> random_quantized(std::size_t rows, std::size_t cols, std::uint64_t seed) {
    using traits = nibble::detail::scheme_traits<Scheme>;
    constexpr std::size_t bits = static_cast<std::size_t>(traits::element::bits);
    nibble::quantized<Scheme> q(rows, cols);
    std::uint64_t n = 0;
    for (std::size_t i = 0; i < rows; ++i) {
        for (std::size_t b = 0; b < q.row_bytes(); ++b)
            q.row_codes(i)[b] = static_cast<std::uint8_t>(random64(seed, n++));
        // What fills the last byte is zero.
        if (cols * bits % 8 != 0) {
            std::uint8_t& last = q.row_codes(i)[q.row_bytes() - 1];
            last = static_cast<std::uint8_t>(last & ((1u << (cols * bits % 8)) - 1u));
        }
    }
    for (std::size_t s = 0; s < q.scale_count(); ++s)
        q.scales()[s] = static_cast<typename traits::scale_code>(random64(seed + 1, n++));
    for (std::size_t s = 0; s < q.outer_count(); ++s)
        q.outer_scales()[s] = static_cast<typename traits::outer_code>(random64(seed + 2, n++));
    for (std::size_t s = 0; s < q.zero_count(); ++s)
        q.zeros()[s] = static_cast<typename traits::zero_code>(random64(seed + 3, n++));
    for (std::size_t s = 0; s < q.outer_zero_count(); ++s)
        q.outer_zeros()[s] = static_cast<typename traits::outer_zero_code>(random64(seed + 4, n++));
    if constexpr (Scheme::has_offset) q.set_offset(0.375f);
    return q;
}

// The code of (row, col) from the bytes of the panels, by the comment of layout.hpp.
[[nodiscard]] code_number code_in_panel(const unsigned char* codes, int bits, std::size_t row, std::size_t padded_col);

inline constexpr std::size_t pack_shapes[][2] = {{0, 0},   {0, 5},   {5, 0},    {1, 1},    {1, 3},
                                                 {2, 17},  {15, 31}, {16, 32},  {17, 33},  {16, 64},
                                                 {33, 67}, {7, 128}, {31, 129}, {19, 251}, {3, 1037}};

// What of packed weights has no type.
[[nodiscard]] bool same_panels(const nibble::untyped_packed& a, const nibble::untyped_packed& b);

// A file in memory as a mapping has it, on a 64-byte boundary.
struct aligned_file {
    nibble::buffer memory;
    nibble::packed_file file;
};
[[nodiscard]] aligned_file opened(const nibble::packed_file_writer& writer);

// Panels of 8 and 32 rows and back, and a file of all three, mapped and copied. One answer for all: assertions in a
// template of every format take compilers long. 0, or the number of what went wrong.
template <class Scheme>
[[nodiscard]] int fault_of_widths_and_files(const nibble::packed<Scheme>& w, const nibble::quantized<Scheme>& q) {
    const test_executor threads{2};
    const nibble::packed<Scheme> all[] = {w, nibble::repack(w, 8, threads), nibble::repack(w, 32, threads)};
    const char* const names[] = {"16", "8", "32"};
    nibble::packed_file_writer writer;
    for (std::size_t i = 0; i < 3; ++i) {
        const std::size_t width = i == 0 ? 16 : i == 1 ? 8 : 32;
        if (all[i].panel_rows() != width || all[i].panels() != (w.rows() + width - 1) / width) return 1;
        if (w.rows() * w.cols() != 0 &&
            std::memcmp(nibble::unpack(all[i], threads).row_codes(0), q.row_codes(0), q.bytes()) != 0)
            return 2;
        if (!same_panels(nibble::repack(all[i], 16, threads).untyped(), w.untyped())) return 3;
        if (!same_panels(nibble::repack(all[i], 32, threads).untyped(), all[2].untyped())) return 4;
        if (!writer.add(names[i], all[i]).ok()) return 5;
    }
    const aligned_file file = opened(writer);
    for (std::size_t i = 0; i < 3; ++i) {
        const nibble::packed_entry& entry = *file.file.find(names[i]);
        nibble::packed_view<Scheme> view;
        nibble::packed<Scheme> copy;
        if (!nibble::view_packed(entry, view).ok() || !same_panels(view.untyped(), all[i].untyped())) return 6;
        if (view.bytes() != 0 && view.data() != entry.panels) return 7; // not copied
        if (!nibble::read_packed(entry, copy).ok() || !same_panels(copy.untyped(), all[i].untyped())) return 8;
    }
    return 0;
}

// Rows by number, repeated ones too, have the values that the formula gives.
template <class Scheme> void check_rows(const nibble::quantized<Scheme>& q, const nibble::packed<Scheme>& w) {
    std::vector<std::uint32_t> rows{static_cast<std::uint32_t>(q.rows() - 1), 0,
                                    static_cast<std::uint32_t>(q.rows() / 2), 0};
    std::vector<float> values(rows.size() * q.cols());
    nibble::dequantize_rows(w, rows, {values.data(), rows.size(), q.cols()}, test_executor{2});
    bool same = true;
    for (std::size_t i = 0; i < rows.size(); ++i)
        for (std::size_t j = 0; j < q.cols(); ++j) {
            const float value = q.value_at(rows[i], j);
            const float got = values[i * q.cols() + j];
            same = same && (std::memcmp(&got, &value, sizeof got) == 0 || (std::isnan(got) && std::isnan(value)));
        }
    CHECK(same);
}

template <class Scheme> void check_pack(const std::string& name) {
    using traits = nibble::detail::scheme_traits<Scheme>;
    using element = typename traits::element;
    for (const auto& [rows, cols] : pack_shapes) {
        CAPTURE(name, rows, cols);
        const nibble::quantized<Scheme> q = random_quantized<Scheme>(rows, cols, 17 * cols + rows);
        const nibble::packed<Scheme> w = nibble::pack(q, test_executor{3});
        CHECK(w.rows() == rows);
        CHECK(w.cols() == cols);
        CHECK(w.panels() == (rows + 15) / 16);
        const nibble::packed<Scheme> serial = nibble::pack(q, test_executor{1});
        REQUIRE(w.bytes() == serial.bytes());
        if (w.bytes() != 0) CHECK(std::memcmp(w.panel(0), serial.panel(0), w.bytes()) == 0);

        const nibble::quantized<Scheme> back =
            nibble::unpack(w, test_executor{cols % 2 == 0 ? std::size_t{1} : std::size_t{3}});
        REQUIRE(back.rows() == rows);
        REQUIRE(back.cols() == cols);
        REQUIRE(back.bytes() == q.bytes());
        CHECK(fault_of_widths_and_files(w, q) == 0);
        if (rows * cols == 0) continue;
        CHECK(std::memcmp(back.row_codes(0), q.row_codes(0), q.bytes()) == 0); // all sections, and what lies between

        check_rows(q, w);

        // Every code, scale and zero point where the layout says.
        bool placed = true;
        bool scales = true;
        bool factors = true;
        const auto& depth = w.depth();
        const auto& at = w.sections();
        const std::size_t run = std::min(traits::group_size(cols), cols);
        const std::size_t step_columns = depth.step;
        const std::size_t padded_run = (run + step_columns - 1) / step_columns * step_columns;
        for (std::size_t i = 0; i < rows; ++i) {
            const auto* panel = reinterpret_cast<const unsigned char*>(w.panel(i / 16));
            bool has_nan = false;
            for (std::size_t j = 0; j < cols; ++j) {
                const std::size_t padded_col = j / run * padded_run + j % run;
                code_number code = code_in_panel(panel + at.codes, element::bits, i % 16, padded_col);
                // pack may store another code for the same value, by a flip known to kernels; undone here.
                if constexpr (element::bits <= 8) code ^= nibble::kernel::panel_flip<element>;
                placed = placed && code == q.code_at(i, j);
                has_nan = has_nan || std::isnan(element::decode(q.code_at(i, j)));
            }
            float factor = 0.0f;
            std::memcpy(&factor, panel + at.factors + 4 * (i % 16), 4);
            if (nibble::detail::marks_nan<element> && has_nan) factors = factors && std::isnan(factor);
            if (!Scheme::two_level && !has_nan) factors = factors && factor == 1.0f;
            for (std::size_t g = 0; g * run < cols; ++g) {
                const std::size_t slot = traits::granularity::index(i, g * run, cols);
                if constexpr (Scheme::scaled) {
                    typename traits::scale_code code{};
                    std::memcpy(&code, panel + at.scales + (16 * g + i % 16) * sizeof(code), sizeof(code));
                    scales = scales && code == q.scales()[slot];
                }
                if constexpr (traits::has_zero) {
                    typename traits::zero_code code{};
                    std::memcpy(&code, panel + at.zeros + (16 * g + i % 16) * sizeof(code), sizeof(code));
                    scales = scales && code == q.zeros()[slot];
                }
            }
        }
        CHECK(placed);
        CHECK(scales);
        CHECK(factors);
        CHECK(at.outer % 64 == 0);
        CHECK(at.scales % 64 == 0);
        CHECK(at.zeros % 64 == 0);
        CHECK(at.codes % 64 == 0);
        CHECK(w.panel_bytes() % 64 == 0);
    }
}

template <std::size_t Part, std::size_t Parts> void check_packs_of_part() {
    for_each_format_of_part<Part, Parts>(
        []<class Format>() { check_pack<typename Format::scheme>(std::string(Format::name)); });
}

} // namespace nibble_test
