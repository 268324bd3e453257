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
        const std::vector<cache_pair>& pairs = cache_pairs();
        const auto exact = std::find_if(pairs.begin(), pairs.end(), [](const cache_pair& pair) {
            return pair.keys == "f32" && pair.values == "f32";
        });
        if (exact == pairs.end()) throw std::logic_error("no cache in fp32");
        exact_ = exact->make(shape);
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

template <class Keys, class Values> cache_kernel kernel_of(std::string_view keys, std::string_view values) {
    using key_scheme = typename nibble::detail::key_format<Keys>::scheme_type;
    return {cache_pair_of<Keys, Values>(keys, values), [](std::size_t head_size) {
                return (nibble::bits_per_weight<key_scheme>(128, head_size) +
                        nibble::bits_per_weight<Values>(128, head_size)) /
                       2;
            }};
}
template <class S> cache_kernel kernel_of_both() {
    return kernel_of<S, S>(nibble::name_of<S>(), nibble::name_of<S>());
}

} // namespace

std::unique_ptr<sequence_cache> rounded_cache(const cache_shape& shape, const scheme& keys, const scheme& values) {
    return std::make_unique<rounding>(shape, keys, values);
}

const std::vector<cache_kernel>& cache_kernels() {
    using kivi2 = nibble::minimum_scheme<nibble::uint2, 32>;
    using kivi4 = nibble::minimum_scheme<nibble::uint4, 32>;
    static const std::vector<cache_kernel> all{
        kernel_of_both<nibble::f16_plain>(),
        kernel_of_both<nibble::int8_channel>(),
        kernel_of_both<nibble::int8_g32>(),
        kernel_of_both<nibble::mxfp8_e4m3>(),
        kernel_of<nibble::int8_channel, nibble::int4_g32>("int8_channel", "int4_g32"),
        kernel_of_both<nibble::int4_g32>(),
        kernel_of_both<nibble::mxfp4>(),
        kernel_of<nibble::along_tokens<kivi4>, kivi4>("along_tokens_int4_g32_min", "int4_g32_min"),
        kernel_of<nibble::along_tokens<kivi2>, kivi2>("along_tokens_int2_g32_min", "int2_g32_min")};
    return all;
}

} // namespace bench
