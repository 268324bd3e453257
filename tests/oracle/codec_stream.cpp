// codec_stream.cpp: nibble's scalar codecs as a filter, for other languages to compare with.
//   codec_stream NAME encode saturate|special [ROUNDING]   fp32 on standard input, codes as uint16 on standard output
//   codec_stream NAME decode                               codes as uint16 in, fp32 out
// ROUNDING is nearest_even (the default), toward_zero or half_up.
// All little-endian, as the machine has them. Exit code 2: not a name or a command.
#include <nibble/element/element.hpp>
#include <nibble/element/integer.hpp>
#include <nibble/element/minifloat.hpp>
#include <nibble/element/power_of_two.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string_view>
#include <vector>

namespace {

template <class In, class Out, class Convert> int stream(Convert&& convert) {
    std::vector<In> in(1 << 16);
    std::vector<Out> out(in.size());
    while (const std::size_t count = std::fread(in.data(), sizeof(In), in.size(), stdin)) {
        for (std::size_t i = 0; i < count; ++i) out[i] = convert(in[i]);
        if (std::fwrite(out.data(), sizeof(Out), count, stdout) != count) return 1;
    }
    return std::fflush(stdout) == 0 ? 0 : 1;
}

template <class Element, nibble::rounding Rounding> int encode(std::string_view policy) {
    using nibble::overflow;
    if (policy == "saturate")
        return stream<float, std::uint16_t>([](float x) {
            return static_cast<std::uint16_t>(nibble::encode<Element, Rounding, overflow::saturate>(x));
        });
    if (policy == "special")
        return stream<float, std::uint16_t>([](float x) {
            return static_cast<std::uint16_t>(nibble::encode<Element, Rounding, overflow::special>(x));
        });
    return 2;
}

struct request {
    std::string_view command;
    std::string_view policy;
    std::string_view rounding;
};

template <class Element> int run(const request& r) {
    using nibble::rounding;
    if (r.command == "decode")
        return stream<std::uint16_t, float>(
            [](std::uint16_t code) { return Element::decode(static_cast<typename Element::code>(code)); });
    if (r.command != "encode") return 2;
    if (r.rounding == "" || r.rounding == "nearest_even") return encode<Element, rounding::nearest_even>(r.policy);
    if (r.rounding == "toward_zero") return encode<Element, rounding::toward_zero>(r.policy);
    if (r.rounding == "half_up") return encode<Element, rounding::half_up>(r.policy);
    return 2;
}

} // namespace

int main(int argc, char** argv) {
    const std::string_view name = argc > 1 ? argv[1] : "";
    const request r{argc > 2 ? argv[2] : "", argc > 3 ? argv[3] : "", argc > 4 ? argv[4] : ""};
    using nibble::integer;
    using nibble::integer_range;
    // The names are those of ml_dtypes and NumPy.
    if (name == "float4_e2m1fn") return run<nibble::e2m1>(r);
    if (name == "float6_e2m3fn") return run<nibble::e2m3>(r);
    if (name == "float6_e3m2fn") return run<nibble::e3m2>(r);
    if (name == "float8_e3m4") return run<nibble::e3m4>(r);
    if (name == "float8_e4m3") return run<nibble::e4m3_ieee>(r);
    if (name == "float8_e4m3fn") return run<nibble::e4m3>(r);
    if (name == "float8_e4m3fnuz") return run<nibble::e4m3_fnuz>(r);
    if (name == "float8_e4m3b11fnuz") return run<nibble::e4m3_b11_fnuz>(r);
    if (name == "float8_e5m2") return run<nibble::e5m2>(r);
    if (name == "float8_e5m2fnuz") return run<nibble::e5m2_fnuz>(r);
    if (name == "float8_e5m3fnu")
        return run<nibble::minifloat<nibble::float_format{
            .exponent = 5, .mantissa = 3, .specials = nibble::specials::fn, .has_sign = false}>>(r);
    if (name == "float8_e8m0fnu") return run<nibble::e8m0>(r);
    if (name == "bfloat16") return run<nibble::bf16>(r);
    if (name == "float16") return run<nibble::f16>(r);
    if (name == "int1" || name == "uint1") return run<nibble::binary>(r);
    if (name == "int2") return run<integer<2, integer_range::full>>(r);
    if (name == "int4") return run<integer<4, integer_range::full>>(r);
    if (name == "uint2") return run<nibble::uint2>(r);
    if (name == "uint4") return run<nibble::uint4>(r);
    std::fprintf(stderr, "codec_stream: no element %s, or no command %s\n", argc > 1 ? argv[1] : "",
                 argc > 2 ? argv[2] : "");
    return 2;
}
