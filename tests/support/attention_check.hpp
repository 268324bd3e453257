// attention_check.hpp: attention of a cache in every precision held to its definition, and pairs to try it on.
#pragma once

#include "support/attention_reference.hpp"
#include "support/catch.hpp"
#include "support/kv_pair.hpp"

#include <nibble/attend.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <vector>

namespace attend_test {

inline constexpr std::array precisions{nibble::attention_precision::fp32, nibble::attention_precision::integer_scores,
                                       nibble::attention_precision::integer};

[[nodiscard]] inline nibble::kv_cache_options options_for(const kv_pair& pair, std::size_t heads, std::size_t head_size,
                                                          std::size_t capacity) {
    nibble::kv_cache_options o;
    o.heads = heads;
    o.head_size = head_size;
    o.capacity = capacity;
    o.page_tokens = std::max<std::size_t>(64, pair.tokens_per_group());
    return o;
}
// Pairs that options, which no scheme sees, are tried on: plain numbers, integers per token, a group, a minimum along
// tokens.
[[nodiscard]] inline std::vector<const kv_pair*> some_pairs() {
    std::vector<const kv_pair*> some;
    for (const auto& pair : kv_pairs())
        for (const char* begin :
             {"f32 ", "int8_channel ", "int4_g32_min ", "mxfp4 ", "nvfp4 ", "along_tokens int2_g16_min "})
            if (pair->name().rfind(begin, 0) == 0) some.push_back(pair.get());
    return some;
}

// Attention of q over the cache in every precision, against the definition; returns the relative error of fp32.
inline double check(const kv_pair& pair, const sequence& s, const matrix& q, nibble::attend_options options,
                    const std::string& about) {
    const std::size_t heads = q.cols / s.options().head_size;
    double error = 0.0;
    for (const auto precision : precisions) {
        if (precision == nibble::attention_precision::integer_scores && !pair.integer_keys()) continue;
        if (precision == nibble::attention_precision::integer && !pair.integer_keys() && !pair.integer_values())
            continue;
        options.precision = precision;
        matrix out(q.rows, heads * s.options().value_size, 77.0f);
        matrix sums(q.rows, heads, 77.0f);
        options.log_sums = sums;
        s.attend(q, out, options);
        const reference_attention want = attend_by_definition(pair, s, q, options);
        const std::string wrong = outside(want, out) + log_sums_outside(want, sums);
        if (!wrong.empty())
            FAIL_CHECK(pair.name() << " precision " << static_cast<int>(precision) << ", " << about << ": " << wrong);
        if (precision == nibble::attention_precision::fp32) error = relative_error(want, out, s.options().value_size);
    }
    return error;
}

} // namespace attend_test
