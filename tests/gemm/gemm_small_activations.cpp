// gemm_small_activations.cpp: weights of 8 bits and activations of 7: byte products where int16 has just room for two
// of them (activation_quantization::qmax), against the scalar formula and against the same integers met as int16.
#include "support/catch.hpp"
#include "support/gemm_format.hpp"
#include "support/guarded_memory.hpp"

#include "support/kinds.hpp"

#include <nibble/core/workspace.hpp>
#include <nibble/element/lanes.hpp>
#include <nibble/scheme/formats.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace nb = nibble;
using namespace gemm_test;

namespace {

// Formats whose products do not fit in int16 sums, and the largest activations that they meet as bytes without VNNI.
struct wide_format {
    const gemm_format* format;
    int byte_limit;
};
std::vector<wide_format> wide_formats() {
    std::vector<wide_format> found;
    const auto look = [&]<class Format>() {
        using element = typename Format::scheme::element_type;
        if constexpr (nb::detail::integer_mapping_of<element>.exists) {
            if (nb::detail::fits_int16_sums<element>) return;
            for (const auto& format : gemm_formats())
                if (format->name() == std::string_view(Format::name))
                    found.push_back({format.get(), nb::detail::byte_limit<element>});
        }
    };
    [&]<class... Formats>(nb::format_list<Formats...>) {
        (look.template operator()<Formats>(), ...);
    }(nb::all_formats{});
    return found;
}

// Tokens of integers of at most `limit`, the first few the worst there are; each has one of that magnitude.
std::vector<std::int32_t> integers_up_to(int limit, std::size_t tokens, std::size_t cols, std::uint64_t seed) {
    number_source from(seed);
    std::vector<std::int32_t> x(tokens * cols);
    for (std::size_t t = 0; t < tokens; ++t)
        for (std::size_t k = 0; k < cols; ++k) {
            std::int32_t& to = x[t * cols + k];
            switch (t % 6) {
            case 0:
                to = limit;
                break;
            case 1:
                to = -limit;
                break;
            case 2:
                to = k % 2 == 0 ? limit : -limit;
                break;
            case 3:
                to = k / 2 % 2 == 0 ? limit : -limit;
                break;
            default:
                to = k == 0 ? limit
                            : static_cast<std::int32_t>(from.below(2 * static_cast<std::size_t>(limit) + 1)) - limit;
            }
        }
    return x;
}

// All ISAs, with the limit as given and with 127, under a static scale of 1: the integers are those of x either way.
void compare(const gemm_format& format, const gemm_weights& weights, int limit, std::size_t m, const char* what) {
    const plain_weights& plain = weights.plain();
    const std::size_t n = plain.rows;
    const std::size_t k = plain.cols;
    const std::vector<std::int32_t> integers = integers_of(plain);
    const std::vector<std::int32_t> x = integers_up_to(limit, m, k, m + 100 * k);
    fenced_matrix from(m, k, 3);
    std::vector<float> values;
    for (const std::int32_t i : x) values.push_back(static_cast<float>(i));
    from.fill(values.data());
    std::vector<float> want(m * n);
    for (std::size_t t = 0; t < m; ++t) {
        int8_row row;
        row.values.assign(x.begin() + static_cast<std::ptrdiff_t>(t * k),
                          x.begin() + static_cast<std::ptrdiff_t>((t + 1) * k));
        row.scales.assign(1, 1.0f);
        reference_row(row, false, false, plain, integers, {}, want.data() + t * n);
    }
    const float one = 1.0f;
    for (const int given : {limit, 127})
        for (std::size_t isa = 0; isa < weights.isas(); ++isa) {
            nb::gemm_options options;
            options.activations.quantization = {.qmax = given, .scales = {&one, 1}};
            // Exactly as many bytes as announced, at the end of a page.
            const std::size_t bytes = weights.workspace_bytes(m, 1, options);
            nb::workspace scratch(bytes, guarded_allocator());
            options.workspace = &scratch;
            fenced_matrix to(m, n, 5);
            weights.gemm(isa, from.view(), to.view(), options, any_executor{});
            const std::string found = first_difference(to.view(), {want.data(), m, n});
            INFO(format.name() << " on " << isa_names()[isa] << ", " << what << ", limit " << given << " for " << limit
                               << ", M N K = " << m << " " << n << " " << k << ": " << found);
            if (!found.empty()) FAIL_CHECK("another result");
            if (!to.intact()) FAIL_CHECK("wrote outside of y");
            if (scratch.size() != bytes) FAIL_CHECK("took " << scratch.size() << " bytes, announced " << bytes);
        }
}

} // namespace

TEST_CASE("weights at their extremes meet activations of 7 bits in every wide format") {
    const std::vector<wide_format> formats = wide_formats();
    CHECK(formats.size() >= (nibble_test::families_only ? 3u : nibble_test::kinds_only ? 4u : 8u));
    CHECK(std::any_of(formats.begin(), formats.end(), [](const wide_format& f) { return f.byte_limit == 64; }));
    // A family has formats of both limits; what is compiled of it may be of the other.
    CHECK((nibble_test::families_only ||
           std::any_of(formats.begin(), formats.end(), [](const wide_format& f) { return f.byte_limit == 128; })));
    for (const wide_format& f : formats) {
        const auto [low, high] = f.format->extremes();
        const int limit = std::min(f.byte_limit, 127);
        for (const std::size_t k : sizes{1, 2, 3, 5, 31, 33, 129, 513, 1100}) {
            code_pattern pattern;
            // All lowest, all highest, both in turn, in pairs, then anything.
            number_source random(k);
            pattern.code = [&, low = low, high = high](std::size_t row, std::size_t col) {
                switch (row % 5) {
                case 0:
                    return low;
                case 1:
                    return high;
                case 2:
                    return col % 2 == 0 ? low : high;
                case 3:
                    return col / 2 % 2 == 0 ? high : low;
                default:
                    return static_cast<std::uint32_t>(random.bits()) & ((1u << f.format->bits()) - 1u);
                }
            };
            const auto weights = f.format->fill(k == 129 ? 33 : 17, k, pattern);
            for (const std::size_t m : sizes{1, 2, 5, 21}) compare(*f.format, *weights, limit, m, "extremes");
            compare(*f.format, *weights, limit, 7, "extremes");
            // One more than bytes take, and 4 bits.
            if (limit < 127) compare(*f.format, *weights, limit + 1, 6, "a limit too many");
            compare(*f.format, *weights, 7, 6, "four bits");
        }
    }
}

TEST_CASE("activations of 7 bits: every number of tokens, rows and columns that fill no tile") {
    for (const wide_format& f : wide_formats()) {
        const int limit = std::min(f.byte_limit, 127);
        for (std::size_t m = 1; m <= 33; ++m) {
            const std::size_t n = 1 + m * 7 % 37;
            const std::size_t k = 1 + m * 29 % 163;
            const std::vector<float> w = bell_values(n * k, m);
            compare(*f.format, *f.format->quantize({w.data(), n, k}), limit, m, "tails");
        }
        // More columns than a block has, and more tokens than a task.
        const std::vector<float> w = bell_values(17 * 4100, 5);
        const auto weights = f.format->quantize({w.data(), 17, 4100});
        for (const std::size_t m : sizes{1, 6, 140}) compare(*f.format, *weights, limit, m, "blocks");
    }
}

TEST_CASE("scales per group and activations of 7 bits") {
    std::size_t with_groups = 0;
    for (const wide_format& f : wide_formats()) {
        const std::size_t n = 19;
        const std::size_t k = 259;
        const std::vector<float> w = bell_values(n * k, 77);
        const auto weights = f.format->quantize({w.data(), n, k});
        const plain_weights& plain = weights->plain();
        if (!plain.has_groups) continue;
        ++with_groups;
        const std::vector<std::int32_t> integers = integers_of(plain);
        for (const std::size_t m : sizes{1, 3, 9}) {
            // Every group has its largest value at 64: its scale is 1.
            std::vector<float> x(m * k);
            std::vector<float> want(m * n);
            number_source from(m);
            for (std::size_t t = 0; t < m; ++t) {
                int8_row row;
                for (std::size_t c = 0; c < k; ++c)
                    row.values.push_back(c % 8 == 0 || c + 1 == k ? (from.below(2) == 0 ? 64 : -64)
                                                                  : static_cast<std::int32_t>(from.below(129)) - 64);
                row.scales.assign(parts_of(plain).size(), 1.0f);
                for (std::size_t c = 0; c < k; ++c) x[t * k + c] = static_cast<float>(row.values[c]);
                reference_row(row, true, false, plain, integers, {}, want.data() + t * n);
            }
            for (std::size_t isa = 0; isa < weights->isas(); ++isa) {
                nb::gemm_options options;
                options.activations.scale = nb::activation_scale::per_group;
                options.activations.quantization.qmax = 64;
                fenced_matrix to(m, n, 2);
                weights->gemm(isa, {x.data(), m, k}, to.view(), options, any_executor{});
                const std::string found = first_difference(to.view(), {want.data(), m, n});
                INFO(f.format->name() << " on " << isa_names()[isa] << ", M = " << m << ": " << found);
                CHECK(found.empty());
            }
        }
    }
    CHECK(with_groups != 0);
}
