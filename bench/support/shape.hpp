// shape.hpp: the shapes of the programs' command lines and line names.
#pragma once

#include <charconv>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace bench {

struct weight_shape {
    std::size_t n = 0; // output features
    std::size_t k = 0; // input features
    friend bool operator==(const weight_shape&, const weight_shape&) = default;
};

// "4096x11008" is N = 4096, K = 11008: decimal digits around one 'x', each from 1 to 2^20; nothing else.
[[nodiscard]] inline std::optional<weight_shape> parse_shape(std::string_view text) {
    weight_shape made;
    const char* const end = text.data() + text.size();
    const auto first = std::from_chars(text.data(), end, made.n);
    if (first.ec != std::errc{} || first.ptr == end || *first.ptr != 'x') return std::nullopt;
    const auto second = std::from_chars(first.ptr + 1, end, made.k);
    if (second.ec != std::errc{} || second.ptr != end) return std::nullopt;
    constexpr std::size_t largest = std::size_t{1} << 20;
    if (made.n < 1 || made.n > largest || made.k < 1 || made.k > largest) return std::nullopt;
    return made;
}

// verb/scheme/isa/MxNxK/threads:T
[[nodiscard]] inline std::string line_name(std::string_view verb, std::string_view scheme, std::string_view isa,
                                           std::size_t tokens, weight_shape shape, std::size_t threads) {
    std::string name(verb);
    name.append("/").append(scheme).append("/").append(isa).append("/").append(std::to_string(tokens));
    name.append("x").append(std::to_string(shape.n)).append("x").append(std::to_string(shape.k));
    return name.append("/threads:").append(std::to_string(threads));
}

} // namespace bench
