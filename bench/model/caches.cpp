// caches.cpp: rounding, and the list of kernels.
#include "caches.hpp"

#include "cache_unit.hpp"

#include <nibble/scheme/formats.hpp>

#include <algorithm>
#include <stdexcept>
#include <string_view>
#include <vector>

namespace bench {
namespace {

class rounding final : public sequence_cache {
public:
    rounding(const cache_shape& shape, const scheme& keys, const scheme& values)
        : heads_(shape.heads), head_size_(shape.head_size), keys_(keys), values_(values) {
        exact_ = make_cache("f32", "f32", shape);
    }

    [[nodiscard]] std::size_t add() override { return exact_->add(); }
    [[nodiscard]] std::size_t fork(std::size_t sequence) override { return exact_->fork(sequence); }
    void truncate(std::size_t sequence, std::size_t tokens) override { exact_->truncate(sequence, tokens); }
    [[nodiscard]] std::size_t size(std::size_t sequence) const override { return exact_->size(sequence); }
    [[nodiscard]] std::size_t bytes() const override { return exact_->bytes(); }

    void append(std::size_t layer, std::span<const batch_rows> batch, nibble::matrix_view<const float> keys,
                nibble::matrix_view<const float> values, machine& on) override {
        exact_->append(layer, batch, rounded(keys_, keys, key_numbers_, on),
                       rounded(values_, values, value_numbers_, on), on);
    }
    void attend(std::size_t layer, std::span<const batch_rows> batch, nibble::matrix_view<const float> queries,
                nibble::matrix_view<float> out, nibble::attend_options options, machine& on) override {
        exact_->attend(layer, batch, queries, out, options, on);
    }

private:
    // A head of a token is a row, as caches have it.
    [[nodiscard]] nibble::matrix_view<const float> rounded(const scheme& format, nibble::matrix_view<const float> x,
                                                           std::vector<float>& numbers, machine& on) const {
        numbers.resize(x.rows() * x.cols());
        const std::size_t rows = x.rows() * heads_;
        if (x.stride() != x.cols()) throw std::logic_error("keys and values lie close together");
        format.quantize({x.data(), rows, head_size_}, on.threads)
            ->dequantize({numbers.data(), rows, head_size_}, on.threads);
        return {numbers.data(), x.rows(), x.cols()};
    }

    std::size_t heads_;
    std::size_t head_size_;
    const scheme& keys_;
    const scheme& values_;
    std::unique_ptr<sequence_cache> exact_;
    std::vector<float> key_numbers_;
    std::vector<float> value_numbers_;
};

using kivi2 = nibble::minimum_scheme<nibble::uint2, 32>;
using kivi4 = nibble::minimum_scheme<nibble::uint4, 32>;
using key_formats = nibble::format_list<
    nibble::named_format<"f16", nibble::f16_plain>, nibble::named_format<"int8_channel", nibble::int8_channel>,
    nibble::named_format<"int8_g32", nibble::int8_g32>, nibble::named_format<"mxfp8_e4m3", nibble::mxfp8_e4m3>,
    nibble::named_format<"int4_g32", nibble::int4_g32>, nibble::named_format<"mxfp4", nibble::mxfp4>,
    nibble::named_cache_format<"along_tokens_int4_g32_min", nibble::along_tokens<kivi4>>,
    nibble::named_cache_format<"along_tokens_int2_g32_min", nibble::along_tokens<kivi2>>>;
using value_formats = nibble::format_list<
    nibble::named_format<"f16", nibble::f16_plain>, nibble::named_format<"int8_channel", nibble::int8_channel>,
    nibble::named_format<"int8_g32", nibble::int8_g32>, nibble::named_format<"mxfp8_e4m3", nibble::mxfp8_e4m3>,
    nibble::named_format<"int4_g32", nibble::int4_g32>, nibble::named_format<"mxfp4", nibble::mxfp4>,
    nibble::named_format<"int4_g32_min", kivi4>, nibble::named_format<"int2_g32_min", kivi2>>;

template <nibble::format_name Keys, nibble::format_name Values> cache_kernel kernel_of() {
    return {Keys.text, Values.text,
            [](const cache_shape& shape) -> std::unique_ptr<sequence_cache> {
                return std::make_unique<cache_of<key_formats, value_formats>>(Keys.text, Values.text, shape);
            },
            [](std::size_t head_size) {
                double bits = 0;
                nibble::for_each_format(key_formats{}, [&]<class Format>() {
                    using scheme = typename nibble::detail::key_format<typename Format::scheme>::scheme_type;
                    if (Format::name == Keys.text) bits += nibble::bits_per_weight<scheme>(128, head_size) / 2;
                });
                nibble::for_each_format(value_formats{}, [&]<class Format>() {
                    if (Format::name == Values.text)
                        bits += nibble::bits_per_weight<typename Format::scheme>(128, head_size) / 2;
                });
                return bits;
            }};
}

} // namespace

std::unique_ptr<sequence_cache> rounded_cache(const cache_shape& shape, const scheme& keys, const scheme& values) {
    return std::make_unique<rounding>(shape, keys, values);
}

const std::vector<cache_kernel>& cache_kernels() {
    static const std::vector<cache_kernel> all{kernel_of<"f16", "f16">(),
                                               kernel_of<"int8_channel", "int8_channel">(),
                                               kernel_of<"int8_g32", "int8_g32">(),
                                               kernel_of<"mxfp8_e4m3", "mxfp8_e4m3">(),
                                               kernel_of<"int8_channel", "int4_g32">(),
                                               kernel_of<"int4_g32", "int4_g32">(),
                                               kernel_of<"mxfp4", "mxfp4">(),
                                               kernel_of<"along_tokens_int4_g32_min", "int4_g32_min">(),
                                               kernel_of<"along_tokens_int2_g32_min", "int2_g32_min">()};
    return all;
}

} // namespace bench
