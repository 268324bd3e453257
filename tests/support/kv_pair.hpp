// kv_pair.hpp: caches and attention of many pairs of schemes behind one run-time interface: the templates are compiled
// once, in attend/slices/, and all tests of attention share them.
#pragma once

#include "support/executors.hpp"

#include <nibble/attend.hpp>
#include <nibble/cache/transform.hpp>
#include <nibble/core/buffer.hpp>
#include <nibble/core/view.hpp>
#include <nibble/kv_cache.hpp>

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace attend_test {

using nibble_test::test_executor;
using view = nibble::matrix_view<float>;
using const_view = nibble::matrix_view<const float>;

// A kv_cache.
class sequence {
public:
    virtual ~sequence() = default;
    [[nodiscard]] virtual const nibble::kv_cache_options& options() const = 0;
    [[nodiscard]] virtual std::size_t size() const = 0;
    [[nodiscard]] virtual std::size_t begin() const = 0;
    [[nodiscard]] virtual std::size_t stored_keys() const = 0;
    [[nodiscard]] virtual std::size_t stored_values() const = 0;
    [[nodiscard]] virtual std::size_t pages_needed(std::size_t count) const = 0;
    [[nodiscard]] virtual std::size_t available() const = 0;
    [[nodiscard]] virtual std::size_t page_bytes() const = 0;
    [[nodiscard]] virtual std::size_t owners(std::size_t page) const = 0;
    virtual void set_key_transform(std::shared_ptr<const nibble::kv_transform> transform) = 0;
    virtual void set_value_transform(std::shared_ptr<const nibble::kv_transform> transform) = 0;
    [[nodiscard]] virtual nibble::shared_ptr<const nibble::kv_transform> key_transform() const = 0;
    virtual void append(const_view k, const_view v, const test_executor& threads) = 0;
    void append(const_view k, const_view v) { append(k, v, test_executor{}); }
    virtual void flush(const test_executor& threads) = 0;
    void flush() { flush(test_executor{}); }
    virtual void truncate(std::size_t count) = 0;
    [[nodiscard]] virtual bool can_truncate(std::size_t count) const = 0;
    [[nodiscard]] virtual std::unique_ptr<sequence> fork() const = 0;
    [[nodiscard]] virtual std::unique_ptr<sequence> beside() const = 0; // an empty one of the same pages
    virtual void evict_before(std::size_t position) = 0;
    [[nodiscard]] virtual std::size_t page_count() const = 0;
    [[nodiscard]] virtual bool has_page(std::size_t i) const = 0;
    [[nodiscard]] virtual std::vector<std::byte> save_page(std::size_t i) const = 0;
    virtual void drop_page(std::size_t i) = 0;
    virtual void restore_page(std::size_t i, const std::vector<std::byte>& from) = 0;
    virtual void read_keys(std::size_t head, std::size_t first, view out) const = 0;
    virtual void read_values(std::size_t head, std::size_t first, view out) const = 0;
    virtual void attend(std::size_t isa, const_view q, view out, const nibble::attend_options& options,
                        const test_executor& threads) const = 0;
    [[nodiscard]] virtual std::size_t workspace_bytes(std::size_t isa, std::size_t queries, std::size_t heads,
                                                      std::size_t threads,
                                                      const nibble::attend_options& options) const = 0;
    void attend(const_view q, view out, const nibble::attend_options& options = {}) const {
        attend(0, q, out, options, test_executor{});
    }
};

struct part_of_call {
    const sequence* cache = nullptr;
    std::size_t first = 0;
    std::size_t count = 0;
};

class kv_pair {
public:
    virtual ~kv_pair() = default;
    [[nodiscard]] virtual std::string name() const = 0;
    [[nodiscard]] virtual std::size_t tokens_per_group() const = 0; // of along_tokens, or 0
    [[nodiscard]] virtual bool integer_keys() const = 0;            // precision integer_scores makes a difference
    [[nodiscard]] virtual bool integer_values() const = 0;          // precision integer does
    [[nodiscard]] virtual bool has_offsets() const = 0;             // a zero point or a minimum, in keys or values
    [[nodiscard]] virtual std::size_t isas() const = 0;             // 0 is the best, 1, if there, generic
    [[nodiscard]] virtual std::unique_ptr<sequence> make(const nibble::kv_cache_options& options,
                                                         nibble::allocator from = {}) const = 0;
    virtual void attend(const_view q, const std::vector<part_of_call>& parts, view out,
                        const nibble::attend_options& options, const test_executor& threads) const = 0;
    // What quantize and dequantize make of tokens x channels of one head: keys (whole groups of tokens, where they run
    // along them) or values. Where the scheme has one scale for everything, `scale` becomes the one that quantize
    // chose.
    [[nodiscard]] virtual std::vector<float> quantized_keys(const_view k, float& scale) const = 0;
    [[nodiscard]] virtual std::vector<float> quantized_values(const_view v, float& scale) const = 0;
};

// One share of the pairs, of NIBBLE_TEST_KV_SLICES: CMake writes a source for each (attend/slices/).
template <std::size_t Slice> std::vector<std::unique_ptr<kv_pair>> make_kv_slice();
// Keys of every kind with values of the next kind, and every kind along tokens likewise.
[[nodiscard]] const std::vector<std::unique_ptr<kv_pair>>& kv_pairs();
// Not among those: f32 of both, what others are compared to.
[[nodiscard]] const kv_pair& exact_pair();

} // namespace attend_test
