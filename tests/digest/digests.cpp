// digests.cpp: what every verb makes of every format, against what was recorded: the same bits on every ISA, with every
// compiler and on every architecture. Inputs are sums of integers, and no library function takes part.
// `nibble_tests '[record]'`, of a build with -DNIBBLE_TEST_EVERY_DIGEST=ON, writes digests.txt anew. Without that
// option epilogues and prepared activations are those of one format of each family, which share them.
#include "support/catch.hpp"
#include "support/digest.hpp"
#include "support/gemm_format.hpp"
#include "support/kinds.hpp"
#include "support/kv_pair.hpp"
#include "support/quantize_reference.hpp"

#include <nibble/scheme/formats.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace nb = nibble;
using nibble_test::digest;
using nibble_test::exact_values;

namespace {

const std::string recorded_file = NIBBLE_TEST_DATA "/digest/digests.txt";

struct computed_digest {
    std::string verb, name, isa;
    std::uint64_t value = 0;
};

// One of everything, primes, whole groups and ragged ones, several panels, several tiles of tokens, and more columns
// than a sum of integers takes at once.
struct product_shape {
    std::size_t tokens, outputs, columns;
};
constexpr product_shape shapes[] = {{1, 1, 1},     {1, 16, 32},  {2, 17, 31},   {1, 33, 128}, {3, 5, 129},
                                    {4, 16, 256},  {5, 1, 257},  {7, 31, 97},   {8, 19, 384}, {13, 37, 520},
                                    {1, 65, 1037}, {97, 17, 96}, {40, 50, 130}, {2, 2, 65600}};
constexpr std::size_t searched_weights = 20000; // no search of ranges for more
std::vector<float> weights_of(const product_shape& s) {
    return exact_values(s.outputs * s.columns, 10 * s.columns + 1);
}
std::vector<float> tokens_of(const product_shape& s) {
    return exact_values(s.tokens * s.columns, 10 * s.columns + 2);
}
std::vector<float> bias_of(const product_shape& s) {
    return exact_values(s.outputs, 10 * s.columns + 3);
}
std::vector<float> residual_of(const product_shape& s) {
    return exact_values(s.tokens * s.outputs, 10 * s.columns + 4);
}

nb::gemm_options product_options(nb::activation_scale scale) {
    nb::gemm_options options;
    options.activations.scale = scale;
    return options;
}

void add_codes(digest& to, const std::vector<nibble_test::code_number>& codes) {
    for (const nibble_test::code_number code : codes)
        for (int shift = 0; shift < 32; shift += 8) to.add_byte(static_cast<unsigned char>(code >> shift));
}
// Rows of codes as they are stored, and all numbers of slots.
void add_quantized(digest& to, const nibble_test::plain_quantized& q) {
    for (const std::vector<unsigned char>& row : q.streams) to.add_bytes(row.data(), row.size());
    for (const auto* codes : {&q.scales, &q.outer, &q.zeros, &q.outer_zeros}) add_codes(to, *codes);
    to.add({&q.offset, 1});
}

void add_quantizers(std::vector<computed_digest>& to) {
    nb::for_each_format([&]<class Format>() {
        const std::string name(Format::name);
        const auto found = nibble_test::format_of_name().find(name);
        if (found == nibble_test::format_of_name().end()) return; // a build of one format of each kind
        const nibble_test::format_verbs format = found->second();
        digest plain, options, values;
        for (const product_shape& s : shapes) {
            const std::vector<float> w = weights_of(s);
            const auto quantize = [&](digest& into, const nb::quantize_options& how) {
                add_quantized(into, format.quantize(w.data(), s.outputs, s.columns, s.columns, how, 1));
            };
            quantize(plain, {});
            values.add(format.round_trip(w.data(), s.outputs, s.columns, s.columns, 1));
            if (w.size() > searched_weights) continue;
            quantize(options, {.range = nb::range::least_squares});
            for (const auto rounding :
                 {nb::rounding::toward_zero, nb::rounding::half_away, nb::rounding::stochastic, nb::rounding::half_up,
                  nb::rounding::half_toward_zero, nb::rounding::floor, nb::rounding::ceiling})
                quantize(options, {.rounding = rounding, .seed = s.columns});
        }
        to.push_back({"quantize", name, "", plain.value()});
        to.push_back({"quantize_options", name, "", options.value()});
        to.push_back({"dequantize", name, "", values.value()});
    });
}

void add_products(std::vector<computed_digest>& to) {
    const std::vector<std::string_view> isas = gemm_test::isa_names();
    for (const auto& format : gemm_test::gemm_formats()) {
        const std::string name(format->name());
        struct of_isa {
            digest plain, finished, prepared;
        };
        std::vector<of_isa> products;
        digest packed;
        bool surrounded = false;
        for (const product_shape& s : shapes) {
            const std::vector<float> w = weights_of(s);
            const std::vector<float> x = tokens_of(s);
            const std::vector<float> bias = bias_of(s);
            const std::vector<float> residual = residual_of(s);
            const nb::matrix_view<const float> tokens(x.data(), s.tokens, s.columns);
            const auto weights = format->quantize({w.data(), s.outputs, s.columns});
            packed.add_bytes(weights->packed_bytes().data(), weights->packed_bytes().size());
            surrounded = weights->surrounded();
            products.resize(weights->isas());
            std::vector<float> y(s.tokens * s.outputs);
            const nb::matrix_view<float> out(y.data(), s.tokens, s.outputs);
            for (std::size_t isa = 0; isa < weights->isas(); ++isa)
                for (const auto scale : {nb::activation_scale::per_token, nb::activation_scale::automatic}) {
                    const nb::gemm_options how = product_options(scale);
                    weights->gemm(isa, tokens, out, how, {});
                    products[isa].plain.add(y);
                    if (!surrounded) continue;
                    weights->gemm_finished(isa, tokens, out, bias, {residual.data(), s.tokens, s.outputs}, how, {});
                    products[isa].finished.add(y);
                    weights->gemm_prepared(isa, tokens, out, {.scale = scale}, {});
                    products[isa].prepared.add(y);
                }
        }
        to.push_back({"pack", name, "", packed.value()});
        for (std::size_t isa = 0; isa < products.size(); ++isa) {
            const std::string on(isas[isa]);
            to.push_back({"gemm", name, on, products[isa].plain.value()});
            if (!surrounded) continue;
            to.push_back({"gemm_finished", name, on, products[isa].finished.value()});
            to.push_back({"gemm_prepared", name, on, products[isa].prepared.value()});
        }
    }
}

// Whole panels and none, one block of tokens and several, spans that are joined, and numbers that wait in fp32.
void add_attention(std::vector<computed_digest>& to) {
    struct cache_shape {
        std::size_t heads, head_size, value_size, tokens;
        bool waiting;
    };
    constexpr cache_shape caches[] = {
        {1, 16, 16, 1, false}, {2, 40, 24, 37, true}, {1, 33, 48, 300, false}, {1, 64, 32, 1100, true}};
    for (const auto& pair : attend_test::kv_pairs()) {
        digest stored;
        std::vector<digest> attended(pair->isas());
        for (const cache_shape& s : caches) {
            nb::kv_cache_options o;
            o.heads = s.heads;
            o.head_size = s.head_size;
            o.value_size = s.value_size;
            o.capacity = std::max<std::size_t>(s.tokens, 64);
            o.page_tokens = std::max<std::size_t>(64, pair->tokens_per_group());
            o.storing = nb::kv_storing::at_append; // all of what is read and attended to is stored
            if (s.waiting) {
                o.key_window = 7;
                o.value_window = 19;
                o.sinks = 3;
            }
            const auto cache = pair->make(o);
            const std::vector<float> k = exact_values(s.tokens * s.heads * s.head_size, 5 * s.tokens);
            const std::vector<float> v = exact_values(s.tokens * s.heads * s.value_size, 5 * s.tokens + 1);
            cache->append({k.data(), s.tokens, s.heads * s.head_size}, {v.data(), s.tokens, s.heads * s.value_size});
            for (std::size_t head = 0; head < s.heads; ++head) {
                std::vector<float> keys(s.tokens * s.head_size);
                std::vector<float> values(s.tokens * s.value_size);
                cache->read_keys(head, 0, {keys.data(), s.tokens, s.head_size});
                cache->read_values(head, 0, {values.data(), s.tokens, s.value_size});
                stored.add(keys);
                stored.add(values);
            }
            const std::size_t query_heads = 3 * s.heads;
            for (const std::size_t queries : {std::size_t{1}, std::size_t{11}}) {
                if (queries > s.tokens) continue;
                std::vector<float> q = exact_values(queries * query_heads * s.head_size, 5 * s.tokens + 2);
                std::vector<float> out(queries * query_heads * s.value_size);
                std::vector<float> log_sums(queries * query_heads);
                for (std::size_t isa = 0; isa < pair->isas(); ++isa)
                    for (const auto precision : {nb::attention_precision::fp32, nb::attention_precision::integer_scores,
                                                 nb::attention_precision::integer}) {
                        nb::attend_options options;
                        options.precision = precision;
                        options.log_sums = {log_sums.data(), queries, query_heads};
                        cache->attend(isa, {q.data(), queries, query_heads * s.head_size},
                                      {out.data(), queries, query_heads * s.value_size}, options,
                                      nibble_test::test_executor{});
                        attended[isa].add(out);
                        attended[isa].add(log_sums);
                    }
            }
        }
        to.push_back({"kv_cache", pair->name(), "", stored.value()});
        for (std::size_t isa = 0; isa < attended.size(); ++isa)
            to.push_back({"attend", pair->name(), isa == 0 ? "best" : "generic", attended[isa].value()});
    }
}

std::string line_of(const computed_digest& d) {
    return d.verb + ' ' + nibble_test::hexadecimal(d.value) + ' ' + d.name;
}

// By verb and name; a line is a verb, a digest and the rest of it a name.
std::map<std::pair<std::string, std::string>, std::string> recorded() {
    std::map<std::pair<std::string, std::string>, std::string> all;
    std::ifstream in(recorded_file);
    for (std::string verb, value, name; in >> verb >> value && in.get() == ' ' && std::getline(in, name);)
        all[{verb, name}] = value;
    return all;
}

void check(const std::vector<computed_digest>& computed, std::size_t least) {
    const auto wanted = recorded();
    REQUIRE(!wanted.empty());
    CHECK(computed.size() >= least);
    for (const computed_digest& d : computed) {
        const auto found = wanted.find({d.verb, d.name});
        if (found == wanted.end())
            FAIL_CHECK("not recorded: " << line_of(d));
        else if (found->second != nibble_test::hexadecimal(d.value))
            FAIL_CHECK(d.verb << " of " << d.name << (d.isa.empty() ? "" : " on ") << d.isa << " is "
                              << nibble_test::hexadecimal(d.value) << ", recorded was " << found->second);
    }
}

} // namespace

TEST_CASE("quantize and dequantize give the recorded bits") {
    std::vector<computed_digest> all;
    add_quantizers(all);
    check(all, 3 * nibble_test::tested_formats);
}

TEST_CASE("pack and gemm give the recorded bits on every instruction set") {
    std::vector<computed_digest> all;
    add_products(all);
    check(all, 2 * nibble_test::tested_formats);
}

TEST_CASE("caches and attention give the recorded bits on every instruction set") {
    std::vector<computed_digest> all;
    add_attention(all);
    check(all, 2 * attend_test::kv_pairs().size());
}

TEST_CASE("every recorded digest is of a format and a verb that is there") {
    if (nibble_test::kinds_only) NIBBLE_SKIP("this build has one format of each kind");
    std::map<std::string, int> names;
    nb::for_each_format([&]<class Format>() { names[std::string(Format::name)] = 7; });
    for (const auto& pair : attend_test::kv_pairs()) names[pair->name()] = 2;
    std::map<std::string, int> lines;
    for (const auto& [key, value] : recorded()) ++lines[key.second];
    CHECK(lines == names);
}

TEST_CASE("the digests are written anew", "[.][record]") {
    std::vector<computed_digest> all;
    add_quantizers(all);
    add_products(all);
    add_attention(all);
    // The same on every ISA, or nothing is written.
    std::map<std::pair<std::string, std::string>, std::string> lines;
    bool same = true;
    for (const computed_digest& d : all)
        same = lines.try_emplace({d.verb, d.name}, line_of(d)).first->second == line_of(d) && same;
    REQUIRE(same);
    std::size_t surrounded = 0;
    for (const computed_digest& d : all) surrounded += d.verb == "gemm_finished" ? 1u : 0u;
    INFO("compile with -DNIBBLE_TEST_EVERY_DIGEST, and not for one format of each kind");
    REQUIRE(surrounded >= nb::all_formats::size);
    std::ofstream out(recorded_file);
    for (const computed_digest& d : all) {
        const auto line = lines.find({d.verb, d.name});
        if (line == lines.end()) continue; // of another ISA, written already
        out << line->second << '\n';
        lines.erase(line);
    }
    REQUIRE(out.flush());
}
