// element_code.cpp: an element whose codes are wider than its bits need is no element.
// expect: constraint|concept|element
#include <nibble/scheme/formats.hpp>
using namespace nibble;
struct wide { static constexpr int bits = 4; using code = std::uint16_t; static constexpr float decode(code c) noexcept { return static_cast<float>(c); } };
constexpr bool use = scheme<wide, per_channel, scale<f32>>::scaled;
