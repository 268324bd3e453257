// moved_from.cpp: whatever owns memory is empty after it was moved from, 0 x 0 to every verb, and copies are not.
#include "support/catch.hpp"
#include "support/contracts.hpp"
#include "support/kinds.hpp"
#include "support/random.hpp"

#include <nibble/core/buffer.hpp>
#include <nibble/gemm.hpp>
#include <nibble/nibble.hpp>
#include <nibble/quantize/complex.hpp>
#include <nibble/quantize/cross.hpp>
#include <nibble/quantize/lookup.hpp>
#include <nibble/quantize/mixed.hpp>
#include <nibble/quantize/outlier_victim.hpp>
#include <nibble/quantize/rows.hpp>
#include <nibble/tensor/any_format.hpp>

#include <cstddef>
#include <cstring>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace nb = nibble;
using gemm_test::broken_by;

namespace {

template <class... Owners>
constexpr bool move_without_failure =
    ((std::is_nothrow_move_constructible_v<Owners> && std::is_nothrow_move_assignable_v<Owners> &&
      std::is_nothrow_default_constructible_v<Owners> && std::is_copy_constructible_v<Owners> &&
      std::is_copy_assignable_v<Owners>)&&...);
template <class... Formats> constexpr bool formats_move(nb::format_list<Formats...>) {
    return move_without_failure<nb::quantized<typename Formats::scheme>..., nb::packed<typename Formats::scheme>...>;
}
using two_formats =
    nb::format_list<nb::named_format<"int4_g32", nb::int4_g32>, nb::named_format<"int8_channel", nb::int8_channel>>;
using rows_of_two = nb::mixed_rows<nb::int8_channel, nb::int4_channel>;
using table = nb::lookup_quantized<3, nb::per_channel>;
using pairs = nb::outlier_victim_quantized<nb::per_group<32>>;
static_assert(formats_move(nb::all_formats{}));
static_assert(
    move_without_failure<nb::buffer, table, pairs, nb::mixed_quantized<nb::bitmod_fp4<>>, nb::complex_quantized,
                         nb::cross_quantized<nb::int8_channel>, rows_of_two, nb::any_quantized<two_formats>,
                         nb::any_packed<two_formats>, nb::prepared_activations>);

constexpr std::size_t rows = 20;
constexpr std::size_t cols = 136;

std::vector<float> numbers() {
    return nibble_test::normal_values(rows * cols, 411);
}

// Moves `object` in every way. `describe` gives all that can be seen of one; `emptied` has the checks of an empty one.
template <class Owner, class Describe, class Emptied>
void check_moves(Owner object, const Describe& describe, const Emptied& emptied) {
    const auto before = describe(object);
    CHECK(before != describe(Owner()));
    const auto is_empty = [&](Owner& left) {
        CHECK(describe(left) == describe(Owner()));
        emptied(left);
        const Owner copy = left;
        CHECK(describe(copy) == describe(Owner()));
    };
    const Owner copy = object;
    CHECK(describe(copy) == before);

    Owner made(std::move(object));
    CHECK(describe(made) == before);
    is_empty(object);

    Owner assigned = copy;
    assigned = std::move(made);
    CHECK(describe(assigned) == before);
    is_empty(made);

    Owner& itself = assigned;
    assigned = std::move(itself);
    CHECK(describe(assigned) == before);

    made = std::move(object); // nothing, from what is empty already
    is_empty(made);
    made = assigned; // what was moved from can be filled again
    CHECK(describe(made) == before);
    CHECK(describe(assigned) == before);
    CHECK(describe(copy) == before);
}

struct description {
    std::size_t rows = 0;
    std::size_t cols = 0;
    std::size_t bytes = 0;
    bool nonfinite = false;
    std::vector<float> values;
    [[nodiscard]] bool operator==(const description&) const = default;
};
const auto describe_values = [](const auto& q) {
    description d{q.rows(), q.cols(), 0, false, {}};
    if constexpr (requires { q.bytes(); }) d.bytes = q.bytes();
    if constexpr (requires { q.nonfinite(); }) d.nonfinite = q.nonfinite();
    for (std::size_t i = 0; i < q.rows(); ++i)
        for (std::size_t j = 0; j < q.cols(); ++j) d.values.push_back(q.value_at(i, j));
    return d;
};
const auto is_gone = [](const auto& q) {
    CHECK(q.rows() == 0);
    CHECK(q.cols() == 0);
    CHECK(nb::bits_per_weight(q) == 0.0);
    std::vector<float> out(rows * 2 * cols);
    nb::dequantize(q, nb::matrix_view<float>());
    CHECK(broken_by([&] { nb::dequantize(q, nb::matrix_view<float>(out.data(), rows, cols)); }).find("shape") !=
          std::string::npos);
};
const auto describe_shape = [](const auto& w) { return std::pair(w.rows(), w.cols()); };

nb::matrix_view<const float> view_of(const std::vector<float>& w) {
    return {w.data(), rows, cols};
}

} // namespace

TEST_CASE("weights of every kind of format that were moved from are 0 x 0") {
    nibble_test::for_each_kind([]<class Format>() {
        using S = typename Format::scheme;
        INFO(Format::name);
        nb::quantized<S> q(rows, cols);
        q.set_nonfinite(true);
        const auto all_of_quantized = [](const nb::quantized<S>& x) {
            return std::vector<std::size_t>{x.rows(),
                                            x.cols(),
                                            x.row_bytes(),
                                            x.bytes(),
                                            x.scale_count(),
                                            x.zero_count(),
                                            x.outer_count(),
                                            x.outer_zero_count(),
                                            x.nonfinite() ? 1u : 0u};
        };
        check_moves(std::move(q), all_of_quantized, [](const nb::quantized<S>& x) { CHECK(x.offset() == 0.0f); });
        nb::packed<S> p(rows, cols);
        if constexpr (S::has_offset) p.set_offset(2.0f);
        const auto all_of_packed = [](const nb::packed<S>& x) {
            return std::vector<std::size_t>{x.rows(),       x.cols(),        x.bytes(),
                                            x.panels(),     x.panel_bytes(), x.sections().codes,
                                            x.depth().cols, x.depth().count, x.offset() == 2.0f ? 1u : 0u};
        };
        check_moves(std::move(p), all_of_packed, [](const nb::packed<S>&) {});
    });
}

TEST_CASE("verbs take weights that were moved from for an empty matrix") {
    const std::vector<float> w = numbers();
    nibble_test::for_each_family([&]<class Format>() {
        using S = typename Format::scheme;
        INFO(Format::name);
        check_moves(nb::quantize<S>(view_of(w)), describe_values, [](const nb::quantized<S>& q) {
            is_gone(q);
            const nb::packed<S> p = nb::pack(q);
            CHECK(p.rows() == 0);
            CHECK(p.cols() == 0);
        });
        check_moves(nb::pack(nb::quantize<S>(view_of(w))), describe_shape, [&](const nb::packed<S>& p) {
            CHECK(nb::unpack(p).rows() == 0);
            CHECK(nb::bits_per_weight(p) == 0.0);
            std::vector<float> y(rows * rows);
            CHECK(broken_by([&] {
                      nb::gemm(view_of(w), p, {y.data(), rows, rows});
                  }) == "gemm: x must have as many columns as the weights");
            nb::gemm(nb::matrix_view<const float>(w.data(), 3, 0), p, nb::matrix_view<float>(nullptr, 3, 0));
            CHECK(nb::gemm_workspace_bytes(p, 3, 1) == nb::gemm_workspace_bytes(nb::packed<S>(), 3, 1));
        });
    });
}

TEST_CASE("containers that were moved from are 0 x 0") {
    const std::vector<float> w = numbers();
    check_moves(nb::quantize_k_means<3, nb::per_channel>(view_of(w)), describe_values, is_gone);
    check_moves(nb::quantize_outlier_victim<nb::per_group<32>>(view_of(w)), describe_values, [](const pairs& q) {
        is_gone(q);
        CHECK(nb::to_carrier(q).rows() == 0);
    });
    using mixed = nb::mixed_quantized<nb::bitmod_fp4<>>;
    check_moves(nb::quantize_by_error<nb::bitmod_fp4<>>(view_of(w)), describe_values, [](const mixed& q) {
        is_gone(q);
        CHECK(nb::to_carrier(q).rows() == 0);
        CHECK(q.code_bytes() == 0);
        CHECK(q.code_bits() == 0);
        CHECK(q.groups() == 0);
    });
    check_moves(nb::quantize_cross<nb::int8_channel>(view_of(w)), describe_values,
                [&](const nb::cross_quantized<nb::int8_channel>& q) {
                    is_gone(q);
                    std::vector<float> out(w.size());
                    CHECK(broken_by([&] {
                              nb::scale_columns(view_of(w), q, {out.data(), rows, cols});
                          }).find("columns") != std::string::npos);
                });
    const std::vector<float> importance(rows, 1.0f);
    check_moves(
        nb::quantize_rows<nb::int8_channel, nb::int4_channel>(view_of(w), 0.25),
        [](const rows_of_two& q) { return std::tuple(q.rows(), q.cols(), q.bytes(), q.high_rows(), q.low_rows()); },
        is_gone);
    using complex = nb::complex_quantized;
    check_moves(
        nb::quantize_complex(view_of(w)),
        [](const complex& q) { return std::tuple(q.rows(), q.cols(), q.scale_re(), q.scale_im(), q.nonfinite()); },
        [](const complex& q) {
            CHECK(nb::bits_per_weight(q) == 0.0);
            std::vector<float> out(rows * cols);
            CHECK(broken_by([&] {
                      nb::dequantize(q, {out.data(), rows, cols});
                  }) == "dequantize: out must have a real and an imaginary column per complex weight");
        });
}

TEST_CASE("weights of a format known at run time that were moved from hold nothing") {
    const std::vector<float> w = numbers();
    const nb::any_quantized<two_formats> q(nb::quantize<nb::int4_g32>(view_of(w)));
    const auto describe = [](const auto& any) { return std::tuple(any.name(), any.rows(), any.cols(), any.bytes()); };
    check_moves(q, describe, [](const nb::any_quantized<two_formats>& any) {
        CHECK(any.empty());
        CHECK(any.bits_per_weight() == 0.0);
    });
    check_moves(nb::any_packed<two_formats>(nb::pack(*q.get_if<nb::int4_g32>())), describe,
                [](const nb::any_packed<two_formats>& any) { CHECK(any.empty()); });
}

TEST_CASE("prepared activations that were moved from have no tokens") {
    const std::vector<float> x = numbers();
    const nb::packed<nb::int8_channel> w = nb::pack(nb::quantize<nb::int8_channel>(view_of(x)));
    std::vector<float> y(rows * rows);
    const auto describe = [](const nb::prepared_activations& a) {
        return std::tuple(a.tokens(), a.cols(), a.bytes(), a.asymmetric());
    };
    nb::activation_options offsets;
    offsets.quantization.asymmetric = true;
    for (const nb::activation_options& options : {nb::activation_options{}, offsets})
        check_moves(nb::prepare<nb::int8_channel>(view_of(x), options), describe, [&](nb::prepared_activations& a) {
            CHECK(broken_by([&] { nb::gemm(a, w, nb::matrix_view<float>(y.data(), rows, rows)); }) ==
                  "gemm: x must have as many columns as the weights");
        });
    // One whose memory went elsewhere is prepared into like a new one.
    nb::prepared_activations from = nb::prepare<nb::int8_channel>(view_of(x));
    nb::prepared_activations to = std::move(from);
    nb::prepare<nb::int8_channel>(view_of(x), from);
    std::vector<float> again(y.size());
    nb::gemm(to, w, nb::matrix_view<float>(y.data(), rows, rows));
    nb::gemm(from, w, nb::matrix_view<float>(again.data(), rows, rows));
    CHECK(std::memcmp(y.data(), again.data(), y.size() * sizeof(float)) == 0);
}

TEST_CASE("a buffer that was moved from has no bytes") {
    nb::buffer from(100);
    from.as<unsigned char>()[99] = 7;
    check_moves(
        from,
        [](const nb::buffer& b) {
            return std::pair(b.size(), b.size() != 0 ? static_cast<int>(b.as<unsigned char>()[b.size() - 1]) : -1);
        },
        [](const nb::buffer& b) { CHECK(b.data() == nullptr); });
}
