// kv_transforms.hpp: transforms of keys and values to try on caches, made of data that want them.
#pragma once

#include "support/attention_reference.hpp"
#include "support/kv_pair.hpp"

#include <nibble/cache/transform.hpp>

#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace attend_test {

// Some channels of keys and of values lie far from zero, others are larger than the rest.
[[nodiscard]] inline tokens uneven_tokens(const nibble::kv_cache_options& o, std::size_t count, std::uint64_t seed) {
    tokens t(o, count, seed);
    for (matrix* m : {&t.k, &t.v})
        for (std::size_t i = 0; i < m->rows; ++i)
            for (std::size_t c = 0; c < m->cols; ++c) {
                float& x = m->row(i)[c];
                if (c % 8 == 3) x += c % 16 == 3 ? 5.0f : -4.0f;
                if (c % 11 == 7) x *= 6.0f;
            }
    return t;
}

struct transforms {
    std::string name;
    std::shared_ptr<const nibble::kv_transform> keys, values;
    void set(sequence& s) const {
        s.set_key_transform(keys);
        s.set_value_transform(values);
    }
};

// Each step by itself, on keys and on values, and all together that go together.
[[nodiscard]] inline std::vector<transforms> all_transforms(const nibble::kv_cache_options& o, const tokens& t) {
    const auto make = [&](const matrix& of, bool mean, bool order, bool hadamard) {
        nibble::kv_transform a;
        if (mean) a.mean = nibble::column_means(of);
        if (order) a.order = nibble::order_by_norm(of, o.heads, a.mean);
        a.hadamard = hadamard;
        return std::make_shared<const nibble::kv_transform>(std::move(a));
    };
    std::vector<transforms> all;
    all.push_back({"mean of keys", make(t.k, true, false, false), nullptr});
    all.push_back({"order of keys", make(t.k, false, true, false), nullptr});
    all.push_back({"hadamard of keys", make(t.k, false, false, true), nullptr});
    all.push_back({"mean of values", nullptr, make(t.v, true, false, false)});
    all.push_back({"order of values", nullptr, make(t.v, false, true, false)});
    all.push_back({"hadamard of values", nullptr, make(t.v, false, false, true)});
    nibble::kv_transform halves; // rotary embedding of whole heads; of a part of them, on keys without their mean
    halves.rotary.dims = o.head_size / 2 * 2;
    all.push_back({"rotary", std::make_shared<const nibble::kv_transform>(halves), nullptr});
    nibble::kv_transform pairs = *make(t.k, true, false, false);
    pairs.rotary = {.dims = (o.head_size + 2) / 4 * 2, .interleaved = true, .base = 500.0};
    all.push_back(
        {"rotary and mean", std::make_shared<const nibble::kv_transform>(pairs), make(t.v, true, false, true)});
    all.push_back({"all", make(t.k, true, true, true), make(t.v, true, true, true)});
    return all;
}

} // namespace attend_test
