// peaks.hpp: how fast this machine's arithmetic is when nothing else holds it up: instructions on registers.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

namespace bench {

// A sequence of instructions on independent accumulators, as many as latency times throughput asks for; no memory.
struct instruction_peak {
    std::string_view name;                     // "fma_256": what is done and the width of a register in bits
    int bits = 0;                              // that width
    double operations = 0;                     // per step; a multiply-add counts two
    float (*run)(std::size_t steps) = nullptr; // the value only keeps the work alive
};

// fp32 multiply-adds in every width that the compiler flags have, narrowest first; at least one.
[[nodiscard]] std::span<const instruction_peak> fma_peaks() noexcept;

// Integer dot products of weights and activations, for each width that the flags have; empty where x86's are missing.
//   bytes_int16   vpmaddubsw + vpaddw: unsigned times signed bytes, summed in int16 ("chained")
//   bytes_int32   vpmaddubsw + vpmaddwd + vpaddd: the same, widened to int32 each time
//   words_int32   vpmaddwd + vpaddd: signed 16-bit integers, summed in int32
//   dot_int32     vpdpbusd (VNNI): unsigned times signed bytes, summed in int32
[[nodiscard]] std::span<const instruction_peak> integer_peaks() noexcept;

} // namespace bench
