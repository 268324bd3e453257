// cache.hpp: keys and values of all layers and sequences, in formats that are chosen by name: nibble's any_kv_cache.
// Each format is compiled once as keys and once as values, and they go together in any pair.
#pragma once

#include "linear.hpp"

#include <nibble/attention/options.hpp>

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

struct cache_shape {
    std::size_t layers = 0, heads = 0, head_size = 0;
    std::size_t context = 0;   // tokens of a sequence, at most
    std::size_t sequences = 1; // as many of that length have room
};

// Rows [first, first + count) of a batch are the newest tokens of a sequence.
struct batch_rows {
    std::size_t sequence = 0, first = 0, count = 0;
};

class sequence_cache {
public:
    virtual ~sequence_cache() = default;
    // A new sequence without tokens, or with those of another, whose memory it shares until one of the two writes to
    // it.
    [[nodiscard]] virtual std::size_t add() = 0;
    [[nodiscard]] virtual std::size_t fork(std::size_t sequence) = 0;
    virtual void truncate(std::size_t sequence, std::size_t tokens) = 0;
    [[nodiscard]] virtual std::size_t size(std::size_t sequence) const = 0;
    [[nodiscard]] virtual std::size_t bytes() const = 0; // that hold tokens

    virtual void append(std::size_t layer, std::span<const batch_rows> batch, nb::matrix_view<const float> keys,
                        nb::matrix_view<const float> values, machine& on) = 0;
    virtual void attend(std::size_t layer, std::span<const batch_rows> batch, nb::matrix_view<const float> queries,
                        nb::matrix_view<float> out, nb::attend_options options, machine& on) = 0;
};

// Throws std::runtime_error for a format that there is not. The names, for --help.
[[nodiscard]] std::unique_ptr<sequence_cache> make_cache(std::string_view keys, std::string_view values,
                                                         const cache_shape& shape);
[[nodiscard]] std::string cache_formats();
