// codebook_levels.cpp: equal levels are refused.
// expect: codebook: levels must be finite and distinct
#include <nibble/scheme/formats.hpp>
using namespace nibble;
struct twice { static constexpr float levels[3] = {1, 2, 1}; };
constexpr float use = codebook<twice>::decode(0);
