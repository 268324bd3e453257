// every_format.hpp: the verbs of a part of the named formats, instantiated once for all tests that call them by name.
#pragma once

#include "support/executors.hpp"
#include "support/quantize_reference.hpp"

#include <nibble/core/view.hpp>
#include <nibble/quantize.hpp>

#include <cstddef>
#include <string>
#include <vector>

namespace nibble_test {

template <class Scheme> [[nodiscard]] format_verbs verbs_of(std::string name) {
    format_verbs v;
    v.facts = facts_of_scheme<Scheme>(std::move(name));
    v.quantize = [](const float* x, std::size_t rows, std::size_t cols, std::size_t stride,
                    const nibble::quantize_options& options, std::size_t workers) {
        return plain(nibble::quantize<Scheme>(nibble::matrix_view<const float>(x, rows, cols, stride), options,
                                              test_executor{workers}));
    };
    v.quantize_by_halves = [](const float* x, std::size_t rows, std::size_t cols,
                              const nibble::quantize_options& options, bool by_blocks, std::size_t workers) {
        const nibble::matrix_view<const float> w(x, rows, cols);
        const test_executor threads{workers};
        const nibble::scale_groups<Scheme> scales = nibble::choose_scales<Scheme>(w, options, threads);
        if (!by_blocks) return plain(nibble::encode(w, scales, options, threads));
        nibble::quantized<Scheme> q(scales);
        for_each_block(rows, cols, [&](std::size_t row, std::size_t col, std::size_t height, std::size_t width) {
            const nibble::matrix_view<const float> block(x + row * cols + col, height, width, cols);
            nibble::encode_block(block, row, col, q, options, threads);
        });
        return plain(q);
    };
    v.round_trip = [](const float* x, std::size_t rows, std::size_t cols, std::size_t out_stride, std::size_t workers) {
        const auto q = nibble::quantize<Scheme>(nibble::matrix_view<const float>(x, rows, cols), {}, test_executor{1});
        std::vector<float> out(rows * out_stride, 123.0f);
        nibble::dequantize(q, nibble::matrix_view<float>(out.data(), rows, cols, out_stride), test_executor{workers});
        return out;
    };
    return v;
}

// Part of the formats into the list; used once per part, by every_format_<part + 1>.cpp.
template <std::size_t Part, std::size_t Parts> bool add_formats_of_part() {
    for_each_format_of_part<Part, Parts>([]<class Format>() {
        const std::string name(Format::name);
        format_of_name().emplace(name, [] { return verbs_of<typename Format::scheme>(std::string(Format::name)); });
    });
    return true;
}

template <std::size_t Part, std::size_t Parts> void check_formats_of_part() {
    for_each_format_of_part<Part, Parts>(
        []<class Format>() { check_format(format_of_name().at(std::string(Format::name))()); });
}

} // namespace nibble_test
