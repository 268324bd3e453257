// executor.cpp: an executor that promises no worker, or more than there can be, is refused by every verb that takes
// one.
#include "support/catch.hpp"
#include "support/contracts.hpp"

#include <nibble/any.hpp>
#include <nibble/io/ggml_quantize.hpp>
#include <nibble/io/gguf_writer.hpp>
#include <nibble/nibble.hpp>
#include <nibble/quantize/cross.hpp>
#include <nibble/quantize/lookup.hpp>
#include <nibble/quantize/mixed.hpp>
#include <nibble/quantize/outlier_victim.hpp>
#include <nibble/quantize/rows.hpp>
#include <nibble/recode.hpp>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <vector>

namespace nb = nibble;
using gemm_test::broken_by;
using sizes = std::initializer_list<std::size_t>;

namespace {

struct promises {
    std::size_t workers;
    [[nodiscard]] std::size_t concurrency() const noexcept { return workers; }
    template <class Task> void parallel_for(std::size_t count, const Task& task) const {
        for (std::size_t i = 0; i < count; ++i) task(i, std::size_t{0});
    }
};

using some = nb::format_list<nb::named_format<"four", nb::int4_g32>, nb::named_format<"plain", nb::f32_plain>>;
using mixed = nb::bitmod_fp3<>;
constexpr std::size_t rows = 8, cols = 256;

// What the verbs work on; `visit(name, call)` for each of them, call(executor) with everything else as it should be.
struct verbs {
    std::vector<float> memory = std::vector<float>(rows * cols, 0.5f);
    std::vector<float> results = std::vector<float>(rows * cols, 7.0f);
    nb::matrix_view<const float> x{memory.data(), rows, cols};
    nb::matrix_view<const float> none{memory.data(), 0, cols};
    nb::matrix_view<float> out{results.data(), rows, cols};
    nb::matrix_view<float> y{results.data(), rows, rows};

    template <class Visit> void quantizers(const Visit& visit) {
        visit("quantize", [&](const auto& e) { (void)nb::quantize<nb::int4_g32>(x, {}, e); });
        visit("quantize nothing", [&](const auto& e) { (void)nb::quantize<nb::int4_g32>(none, {}, e); });
        visit("quantize_cross", [&](const auto& e) { (void)nb::quantize_cross<nb::int8_channel>(x, 0.5f, {}, e); });
        visit("quantize_rows",
              [&](const auto& e) { (void)nb::quantize_rows<nb::int8_channel, nb::int4_g32>(x, 0.5, nullptr, {}, e); });
        visit("quantize_transposed", [&](const auto& e) { (void)nb::quantize_transposed<nb::int4_g32>(x, {}, e); });
        visit("quantize_by_error", [&](const auto& e) { (void)nb::quantize_by_error<mixed>(x, {}, e); });
        visit("quantize_by_error nothing", [&](const auto& e) { (void)nb::quantize_by_error<mixed>(none, {}, e); });
        visit("quantize_k_means",
              [&](const auto& e) { (void)nb::quantize_k_means<2, nb::per_channel>(x, {.places = 16}, e); });
        visit("quantize_planes", [&](const auto& e) { (void)nb::quantize_planes<nb::per_channel>(x, {}, e); });
        visit("quantize_outlier_victim",
              [&](const auto& e) { (void)nb::quantize_outlier_victim<nb::per_channel>(x, {}, e); });
        visit("quantize_ggml", [&](const auto& e) { (void)nb::quantize_ggml<nb::ggml_q4_0>(x, e); });
        visit("gguf_writer::add_matrix", [&](const auto& e) {
            nb::gguf_writer writer;
            (void)writer.add_matrix("w", x, "Q4_0", e);
        });
        visit("gguf_writer::add_matrix of floats", [&](const auto& e) {
            nb::gguf_writer writer;
            (void)writer.add_matrix("w", x, "F32", e);
        });
        nb::lookup_quantized<2, nb::per_channel> tables = nb::quantize_k_means<2, nb::per_channel>(x, {.places = 16});
        visit("encode_with_tables", [&](const auto& e) { nb::encode_with_tables(x, tables, e); });
    }
    template <class Visit> void inverses(const Visit& visit) {
        const auto q = nb::quantize<nb::int4_g32>(x);
        const auto cross = nb::quantize_cross<nb::int8_channel>(x);
        const auto by_rows = nb::quantize_rows<nb::int8_channel, nb::int4_g32>(x, 0.5);
        const auto groups = nb::quantize_by_error<mixed>(x);
        const auto tables = nb::quantize_k_means<2, nb::per_channel>(x, {.places = 16});
        const auto pairs = nb::quantize_outlier_victim<nb::per_channel>(x);
        visit("dequantize", [&](const auto& e) { nb::dequantize(q, out, e); });
        visit("dequantize cross", [&](const auto& e) { nb::dequantize(cross, out, e); });
        visit("dequantize rows", [&](const auto& e) { nb::dequantize(by_rows, out, e); });
        visit("dequantize mixed", [&](const auto& e) { nb::dequantize(groups, out, e); });
        visit("dequantize tables", [&](const auto& e) { nb::dequantize(tables, out, e); });
        visit("dequantize pairs", [&](const auto& e) { nb::dequantize(pairs, out, e); });
        visit("dequantize_transposed", [&](const auto& e) {
            nb::dequantize_transposed(q, nb::matrix_view<float>(results.data(), cols, rows), e);
        });
        visit("scale_columns", [&](const auto& e) { nb::scale_columns(x, cross, out, e); });
        visit("recode", [&](const auto& e) { (void)nb::recode<nb::int8_g32>(q, e); });
        visit("pack", [&](const auto& e) { (void)nb::pack(q, e); });
        const auto w = nb::pack(q);
        visit("unpack", [&](const auto& e) { (void)nb::unpack(w, e); });
        const nb::any_quantized<some> any(q);
        const nb::any_packed<some> any_w(w);
        visit("pack any", [&](const auto& e) { (void)nb::pack(any, e); });
        visit("unpack any", [&](const auto& e) { (void)nb::unpack(any_w, e); });
        visit("dequantize any", [&](const auto& e) { nb::dequantize(any, out, e); });
    }
    template <class S, class Visit> void products(const Visit& visit) {
        const auto w = nb::pack(nb::quantize<S>(x));
        const auto ready = nb::prepare<S>(x);
        std::vector<float> sums(rows);
        visit("gemm", [&](const auto& e) { nb::gemm(x, w, y, {}, e); });
        visit("gemm with an epilogue", [&](const auto& e) { nb::gemm(x, w, y, nb::relu, {}, e); });
        visit("gemm of nothing",
              [&](const auto& e) { nb::gemm(none, w, nb::matrix_view<float>(results.data(), 0, rows), {}, e); });
        visit("gemm of prepared", [&](const auto& e) { nb::gemm(ready, w, y, {}, e); });
        visit("gemm_gated", [&](const auto& e) { nb::gemm_gated(x, w, w, y, nb::relu, {}, {}, e); });
        visit("gemm_gated of prepared", [&](const auto& e) { nb::gemm_gated(ready, w, w, y, nb::relu, {}, {}, e); });
        visit("prepare", [&](const auto& e) { (void)nb::prepare<S>(x, {}, e); });
        visit("weight_sums", [&](const auto& e) { nb::weight_sums(w, std::span<float>(sums), {}, e); });
        visit("gemm_workspace_bytes", [&](const auto& e) { (void)nb::gemm_workspace_bytes(w, rows, e.concurrency()); });
        const nb::any_packed<some> any(w);
        nb::prepared_activations into;
        visit("gemm any", [&](const auto& e) { nb::gemm(x, any, y, {}, e); });
        visit("gemm any of prepared", [&](const auto& e) { nb::gemm(ready, any, y, nb::identity{}, {}, e); });
        visit("prepare any", [&](const auto& e) { nb::prepare(x, any, into, {}, e); });
        visit("weight_sums any", [&](const auto& e) { nb::weight_sums(any, std::span<float>(sums), {}, e); });
        visit("gemm_workspace_bytes any",
              [&](const auto& e) { (void)nb::gemm_workspace_bytes(any, rows, e.concurrency()); });
    }
    template <class Visit> void integers(const Visit& visit) {
        const auto q = nb::quantize<nb::int8_channel>(x);
        const auto w = nb::pack(q);
        const auto ready = nb::prepare<nb::int8_channel>(x);
        std::vector<std::int32_t> sums(rows * rows);
        nb::quantized<nb::int8_channel> codes(rows, rows);
        const nb::dyadic ratio = nb::dyadic::of(0.001);
        visit("prepare of codes", [&](const auto& e) { (void)nb::prepare<nb::int8_channel>(q, e); });
        visit("gemm_integer", [&](const auto& e) {
            nb::gemm_integer(ready, w, nb::matrix_view<std::int32_t>(sums.data(), rows, rows), {}, e);
        });
        visit("gemm_integer to codes", [&](const auto& e) {
            nb::gemm_integer(ready, w, codes, {.ratios = {&ratio, 1}}, {}, e);
        });
        visit("weight_sums in integers",
              [&](const auto& e) { nb::weight_sums(w, std::span<std::int32_t>(sums.data(), rows), {}, e); });
    }
    template <class Visit> void attention(const Visit& visit) {
        using cache_type = nb::kv_cache<nb::int8_channel, nb::int4_g32>;
        using latents = nb::kv_cache<nb::int8_channel, nb::prefix_of_keys>;
        cache_type cache({.heads = 2, .head_size = 64, .capacity = 64});
        latents prefix({.heads = 1, .head_size = 64, .value_size = 32, .capacity = 64});
        const nb::matrix_view<const float> k(memory.data(), 2, 128);
        const nb::matrix_view<const float> latent(memory.data(), 2, 64);
        cache.append(k, k);
        visit("append", [&](const auto& e) { cache.append(k, k, e); });
        visit("append latents", [&](const auto& e) { prefix.append(latent, e); });
        const nb::matrix_view<const float> q(memory.data(), 1, 128);
        const nb::matrix_view<float> to(results.data(), 1, 128);
        const nb::attended_sequence<nb::int8_channel, nb::int4_g32> one{&cache, 0, 1};
        visit("attend", [&](const auto& e) { nb::attend(q, cache, to, {}, e); });
        visit("attend of no sequence", [&](const auto& e) {
            nb::attend(nb::matrix_view<const float>(memory.data(), 0, 128), std::span(&one, 0),
                       nb::matrix_view<float>(results.data(), 0, 128), {}, e);
        });
        visit("attend_workspace_bytes",
              [&](const auto& e) { (void)nb::attend_workspace_bytes(cache, 1, 2, e.concurrency()); });
        std::vector<float> logs(2);
        const nb::matrix_view<float> log_sums(logs.data(), 1, 2);
        nb::attend(q, cache, to, {.log_sums = log_sums});
        visit("attention_mass", [&](const auto& e) {
            std::vector<float> mass(2 * cache.size());
            nb::attention_mass(q, cache, log_sums, nb::matrix_view<float>(mass.data(), 2, cache.size()), {}, e);
        });
    }
    template <class Visit> void all(const Visit& visit) {
        quantizers(visit);
        inverses(visit);
        products<nb::int4_g32>(visit);
        products<nb::f32_plain>(visit);
        integers(visit);
        attention(visit);
    }
};

} // namespace

TEST_CASE("every verb refuses executors without a worker, and with more than there can be") {
    const std::string too_few = "the executor's concurrency() is 0: it must be at least 1, also where "
                                "std::thread::hardware_concurrency() does not know and says 0";
    const std::string too_many = "the executor's concurrency() is more than 65536: it is the number of its threads";
    verbs of;
    of.all([&](const char* name, const auto& call) {
        INFO(name);
        const std::vector<float> before = of.results;
        CHECK(broken_by([&] { call(promises{0}); }) == too_few);
        for (const std::size_t workers : {std::size_t{65537}, SIZE_MAX / 64, SIZE_MAX}) {
            INFO(workers);
            CHECK(broken_by([&] { call(promises{workers}); }) == too_many);
        }
        CHECK(of.results == before);
        CHECK(broken_by([&] { call(promises{1}); }).empty()); // nothing else is wrong with the call
    });
}

TEST_CASE("as many workers as there may be have memory") {
    std::vector<float> x(64, 1.0f), y(2), alone(2);
    const auto w = nb::pack(nb::quantize<nb::int4_g32>({x.data(), 2, 32}));
    nb::gemm({x.data(), 1, 32}, w, {alone.data(), 1, 2});
    nb::gemm({x.data(), 1, 32}, w, {y.data(), 1, 2}, {}, promises{65536});
    CHECK(y == alone);
    const nb::packed_view<nb::int4_g32> view = w;
    nb::gemm({x.data(), 1, 32}, view, {y.data(), 1, 2}, {}, promises{65536});
    CHECK(y == alone);
    // One argument left out, of a packed or of a view of one.
    std::vector<float> gated(2), other(2);
    nb::gemm_gated({x.data(), 1, 32}, w, view, {gated.data(), 1, 2}, nb::identity{}, {}, promises{2});
    nb::gemm_gated({x.data(), 1, 32}, view, w, {other.data(), 1, 2}, nb::identity{});
    CHECK(gated == other);
    CHECK(gated[0] == alone[0] * alone[0]);
}
