// layout.cpp: the comment of layout.hpp as an index computation, and how rows of any length are cut into parts.
#include "pack/every_format.hpp"
#include "support/catch.hpp"

#include <nibble/granularity/per_channel.hpp>
#include <nibble/tensor/layout.hpp>

#include <algorithm>
#include <cstddef>
#include <vector>

namespace nibble_test {

// Planes of 4, 2 and 1 bits, lowest first, step by step. Vector v of a step: A of quad 0, B of quad 0, A of quad 1 ...
code_number code_in_panel(const unsigned char* codes, int bits, std::size_t row, std::size_t padded_col) {
    if (bits > 8) {
        code_number code = 0;
        const std::size_t bytes = static_cast<std::size_t>(bits) / 8;
        for (std::size_t b = 0; b < bytes; ++b)
            code |= code_number{codes[(16 * padded_col + row) * bytes + b]} << (8 * b);
        return code;
    }
    const bool by_ones = bits != 8 && bits % 2 == 1;
    const bool by_twos = bits == 2 || bits == 6;
    const std::size_t quads = by_ones ? 4 : by_twos ? 2 : 1;
    const std::size_t quad = padded_col / 4;
    const unsigned char* step = codes + quad / quads * (quads * 8 * static_cast<std::size_t>(bits));
    const std::size_t in_step = quad % quads;
    const std::size_t half = row / 8; // 0: A, 1: B
    const std::size_t byte = 4 * (row % 8) + padded_col % 4;
    if (bits == 8) return step[32 * half + byte];
    code_number code = 0;
    unsigned placed = 0;
    if ((bits & 4) != 0) {
        code |= step[32 * in_step + byte] >> (4 * half) & 15u;
        step += 32 * quads;
        placed += 4;
    }
    if ((bits & 2) != 0) {
        code |= (step[32 * (in_step / 2) + byte] >> (2 * (2 * (in_step % 2) + half)) & 3u) << placed;
        step += 16 * quads;
        placed += 2;
    }
    if ((bits & 1) != 0) code |= (step[byte] >> (2 * in_step + half) & 1u) << placed;
    return code;
}

bool same_panels(const nibble::untyped_packed& a, const nibble::untyped_packed& b) {
    const nibble::packed_layout& x = a.layout;
    const nibble::packed_layout& y = b.layout;
    return x.scheme == y.scheme && x.version == y.version && x.panel_rows == y.panel_rows && x.rows == y.rows &&
           x.cols == y.cols && x.bytes == y.bytes && x.offset == y.offset &&
           (x.bytes == 0 || std::memcmp(a.panels, b.panels, x.bytes) == 0);
}

aligned_file opened(const nibble::packed_file_writer& writer) {
    const std::vector<std::byte> bytes = writer.bytes();
    aligned_file made{nibble::buffer(bytes.size()), {}};
    std::memcpy(made.memory.data(), bytes.data(), bytes.size());
    REQUIRE(nibble::packed_file::parse({made.memory.data(), bytes.size()}, made.file).ok());
    return made;
}

} // namespace nibble_test

namespace {

using nibble::detail::depth_plan;

// Parts cover every column once and in order, none crosses a scale or exceeds 65536, each starts on a step.
void check_plan(std::size_t cols, std::size_t run, std::size_t step) {
    CAPTURE(cols, run, step);
    const depth_plan d = depth_plan::make(cols, run, step);
    const std::size_t real_run = std::min(run, cols == 0 ? 1 : cols);
    std::size_t column = 0;
    std::size_t padded = 0;
    bool in_order = true;
    bool short_enough = true;
    bool one_scale = true;
    bool on_steps = true;
    for (std::size_t p = 0; p < d.count; ++p) {
        in_order = in_order && d.column(p) == column;
        short_enough = short_enough && d.columns(p) >= 1 && d.columns(p) <= 65536;
        one_scale = one_scale && d.column(p) / real_run == (d.column(p) + d.columns(p) - 1) / real_run &&
                    d.scale_of(p) == d.column(p) / real_run;
        on_steps = on_steps && d.begin(p) % step == 0 && d.begin(p) == padded;
        column += d.columns(p);
        padded += (d.columns(p) + step - 1) / step * step;
    }
    CHECK(in_order);
    CHECK(short_enough);
    CHECK(one_scale);
    CHECK(on_steps);
    CHECK(column == cols);
    CHECK(d.padded == padded);
    CHECK(d.scales == (cols + real_run - 1) / real_run);
}

} // namespace

TEST_CASE("depth_plan: parts cover the columns, scale by scale and step by step", "[pack][layout]") {
    const std::vector<std::size_t> steps{4, 8, 16};
    const std::vector<std::size_t> lengths{0,   1,    3,    4,     15,    16,    17,     127,    128,
                                           129, 4096, 4099, 65535, 65536, 65537, 131072, 131073, 300007};
    const std::vector<std::size_t> runs{4, 12, 16, 32, 36, 128, 65536, 65540, 131072, 131076, 200000, 1000000};
    for (const std::size_t step : steps)
        for (const std::size_t cols : lengths)
            for (const std::size_t run : runs) check_plan(cols, run, step);
}

TEST_CASE("depth_plan: a run of more than 65536 columns has several parts", "[pack][layout]") {
    const depth_plan d = depth_plan::make(300000, 300000, 16);
    CHECK(d.count == 5);
    CHECK(d.scales == 1);
    CHECK(d.columns(4) == 300000 - 4 * 65536);
    CHECK(d.scale_of(4) == 0);
    const depth_plan two = depth_plan::make(150000, 100000, 8);
    CHECK(two.count == 3);
    CHECK(two.columns(1) == 100000 - 65536);
    CHECK(two.column(2) == 100000);
    CHECK(two.scale_of(2) == 1);
}

TEST_CASE("pack: rows of more than 65536 columns come back", "[pack]") {
    using scheme = nibble::scheme<nibble::int3, nibble::per_channel, nibble::scale<nibble::f32>>;
    const auto q = nibble_test::random_quantized<scheme>(2, 70001, 4);
    const auto w = nibble::pack(q);
    CHECK(w.depth().count == 2);
    const auto back = nibble::unpack(w);
    CHECK(std::memcmp(back.row_codes(0), q.row_codes(0), q.bytes()) == 0);
    using groups = nibble::scheme<nibble::int5, nibble::per_group<36>, nibble::scale<nibble::f16>>;
    const auto q5 = nibble_test::random_quantized<groups>(5, 1033, 4);
    const auto back5 = nibble::unpack(nibble::pack(q5));
    CHECK(std::memcmp(back5.row_codes(0), q5.row_codes(0), q5.bytes()) == 0);
    using outer_groups = nibble::scheme<nibble::e2m1, nibble::two_level<nibble::per_group<16>, nibble::per_group<64>>,
                                        nibble::two_level_scale<nibble::e4m3>>;
    const auto q2 = nibble_test::random_quantized<outer_groups>(19, 131, 4);
    const auto back2 = nibble::unpack(nibble::pack(q2));
    CHECK(std::memcmp(back2.row_codes(0), q2.row_codes(0), q2.bytes()) == 0);
}

TEST_CASE("pack: padding is the code of zero, and rows beyond the matrix have scale 0", "[pack][layout]") {
    const auto q = nibble_test::random_quantized<nibble::int4_g32>(3, 33, 8);
    const auto w = nibble::pack(q);
    const auto* panel = reinterpret_cast<const unsigned char*>(w.panel(0));
    const unsigned zero = nibble::encode<nibble::int4>(0.0f) ^ nibble::kernel::panel_flip<nibble::int4>;
    bool padding = true;
    for (std::size_t row = 0; row < 16; ++row)
        for (std::size_t col = 0; col < w.depth().padded; ++col)
            if (row >= 3 || col >= 33)
                padding = padding && nibble_test::code_in_panel(panel + w.sections().codes, 4, row, col) == zero;
    CHECK(padding);
    bool none = true;
    for (std::size_t s = 0; s < 2; ++s)
        for (std::size_t row = 3; row < 16; ++row)
            for (std::size_t b = 0; b < 2; ++b) none = none && panel[w.sections().scales + (16 * s + row) * 2 + b] == 0;
    CHECK(none);
}
