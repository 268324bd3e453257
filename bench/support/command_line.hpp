// command_line.hpp: options of a program beside those of Google Benchmark: CLI11 takes its own and leaves the others.
#pragma once

#include "shape.hpp"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <functional>
#include <regex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bench {

inline constexpr int exit_usage = 2; // what the user gave cannot be used

// Throws user_error; `option` is named in the message.
[[nodiscard]] std::regex parse_pattern(std::string_view option, const std::string& pattern);
// The shapes without repetition. Throws user_error likewise.
[[nodiscard]] std::vector<weight_shape> parse_shapes(std::string_view option, const std::vector<std::string>& texts);

// Keeps the first of equal values.
template <class T> void drop_repeated(std::vector<T>& values) {
    std::vector<T> kept;
    for (const T& value : values)
        if (std::find(kept.begin(), kept.end(), value) == kept.end()) kept.push_back(value);
    values = std::move(kept);
}

// Machine, compiler and flags into Google Benchmark's head.
void describe_build();

// Parses argv by `app`, and gives `run` what is left for benchmark::Initialize: the program's name, the shortest run
// there is, so that a line has as many samples as the program itself asks for, and the user's own --benchmark_ options,
// which come later and win. An exception is one line on stderr. Returns the exit status: 0; exit_usage if an argument
// cannot be used; 1 if anything else failed.
[[nodiscard]] int bench_main(CLI::App& app, int argc, char** argv,
                             const std::function<int(std::vector<char*> rest)>& run);

} // namespace bench
