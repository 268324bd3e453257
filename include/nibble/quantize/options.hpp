// quantize/options.hpp: how a float matrix is quantized: the choices that quantize and its halves take.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>

#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// How the range of a scale group is chosen.
enum class range {
    absmax, // the scheme's own rule, from the largest magnitude (or, if it says so, the mean): the default, and fast
    least_squares, // a search for the stored scale, and zero point or minimum, of least squared error of the group: see
                   // quantize
};

// What becomes of NaN and infinities. Ranges never see them, and nonfinite() of the result tells of them.
enum class nonfinite_policy {
    mark,   // kept where the format can say it, see quantize: the default
    zero,   // NaN is quantized as 0, infinity as the largest value of its group's codes; nothing stored is NaN
    refuse, // an error of the caller (NIBBLE_CHECK), before anything is returned or changed
};

// choose_scales reads range, nonfinite and flush_subnormals; encode all but range.
struct quantize_options {
    nibble::range range = nibble::range::absmax;
    nibble::rounding rounding = nibble::rounding::nearest_even;
    std::uint64_t seed = 0; // of stochastic rounding
    // Of learned rounding, and needed for it: rows x cols bytes, row after row without gaps; the lowest bit of each
    // says whether that weight goes to the code above (1) or below (0). A weight that a code holds exactly stays.
    const std::uint8_t* round_up = nullptr;
    nibble::nonfinite_policy nonfinite = nonfinite_policy::mark;
    bool flush_subnormals = false; // fp32 subnormals count as zeros, as on hardware that flushes its inputs
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
