// main.cpp: checksums of gemm in every format, with a chain of epilogues; run.sh compares those of programs compiled
// with floating-point contraction on and off.
#include "../support/kinds.hpp"

#include <nibble/epilogue/activation.hpp>
#include <nibble/epilogue/bias.hpp>
#include <nibble/epilogue/residual.hpp>
#include <nibble/epilogue/scale.hpp>
#include <nibble/gemm.hpp>
#include <nibble/pack.hpp>
#include <nibble/quantize.hpp>
#include <nibble/scheme/formats.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

namespace nb = nibble;

namespace {

constexpr std::size_t most_tokens = 6;
constexpr std::size_t outputs = 33;
constexpr std::size_t columns = 203;

std::vector<float> numbers(std::size_t count, std::uint32_t seed) {
    std::vector<float> v(count);
    std::uint32_t state = seed;
    for (float& x : v) {
        std::int32_t sum = 0;
        for (int i = 0; i < 4; ++i) {
            state = state * 1664525u + 1013904223u;
            sum += static_cast<std::int32_t>(state >> 12) - (1 << 19);
        }
        x = static_cast<float>(sum) * 0x1p-19f;
    }
    return v;
}

std::uint32_t crc32(const std::vector<float>& values) {
    std::uint32_t crc = 0xffffffffu;
    for (const float x : values) {
        std::uint32_t word = 0;
        std::memcpy(&word, &x, sizeof word);
        crc ^= word;
        for (int bit = 0; bit < 32; ++bit) crc = (crc >> 1) ^ ((crc & 1u) != 0 ? 0xedb88320u : 0u);
    }
    return ~crc;
}

struct inputs {
    std::vector<float> w = numbers(outputs * columns, 1);
    std::vector<float> x = numbers(most_tokens * columns, 2);
    std::vector<float> bias = numbers(outputs, 3);
    std::vector<float> residual = numbers(most_tokens * outputs, 4);
};

// Finished: what an epilogue makes of the products, or they alone.
template <class Format, class I, bool Finished = true> void print_checksums(const inputs& in) {
    const auto weights =
        nb::pack(nb::quantize<typename Format::scheme>(nb::matrix_view<const float>(in.w.data(), outputs, columns)));
    for (const std::size_t tokens : {std::size_t{1}, most_tokens})
        for (const auto activations : {nb::activation_scale::per_token, nb::activation_scale::automatic}) {
            nb::gemm_options options;
            options.activations.scale = activations;
            std::vector<float> y(tokens * outputs);
            const nb::matrix_view<const float> x(in.x.data(), tokens, columns);
            const nb::matrix_view<float> to(y.data(), tokens, outputs);
            if constexpr (Finished) {
                const auto finish =
                    nb::scale_by{0.13f} | nb::add_bias(in.bias) | nb::gelu |
                    nb::add_residual(nb::matrix_view<const float>(in.residual.data(), tokens, outputs)) | nb::silu |
                    nb::clamp{-0.2f, 3.0f};
                nb::gemm<I>(x, weights, to, finish, options);
            } else {
                nb::gemm<I>(x, weights, to, nb::identity{}, options);
            }
            std::printf("%.*s %s M = %zu %s %08x\n", static_cast<int>(Format::name.size()), Format::name.data(),
                        I::name, tokens, activations == nb::activation_scale::automatic ? "automatic" : "per token",
                        crc32(y));
        }
}

} // namespace

int main() {
    const inputs in;
    // Formats of one kind share their kernels, those of one family what surrounds them, and this program is compiled
    // two or three times.
    nibble_test::for_each_family([&]<class Format>() { print_checksums<Format, nb::best_isa>(in); });
    if constexpr (!nibble_test::kinds_only)
        nibble_test::for_each_kind([&]<class Format>() { print_checksums<Format, nb::best_isa, false>(in); });
    // The generic ISA is plain C++, which compilers fuse most eagerly: formats of every kernel family and scale.
    using some =
        nb::format_list<nb::named_format<"f32", nb::f32_plain>,
                        nb::named_format<"int8_channel_asym", nb::int8_channel_asym>,
                        nb::named_format<"int4_g32", nb::int4_g32>, nb::named_format<"int5_g32_min", nb::int5_g32_min>,
                        nb::named_format<"nvfp4", nb::nvfp4>, nb::named_format<"mxfp8_e5m2", nb::mxfp8_e5m2>,
                        nb::named_format<"nf4_g64", nb::nf4_g64>>;
    nb::for_each_format(some{}, [&]<class Format>() { print_checksums<Format, nb::generic>(in); });
}
