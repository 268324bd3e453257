// scheme.hpp: a number format behind virtual calls, so that the program around it is compiled once, not once per
// format.
#pragma once

#include "executor_ref.hpp"

#include <nibble/core/view.hpp>
#include <nibble/core/workspace.hpp>
#include <nibble/prepare.hpp>

#include <cstddef>
#include <memory>
#include <string_view>
#include <vector>

namespace bench {

// Weights as a kernel reads them.
class packed_weights {
public:
    virtual ~packed_weights() = default;
    [[nodiscard]] virtual std::size_t bytes() const = 0;
    [[nodiscard]] virtual std::unique_ptr<packed_weights> clone() const = 0;
    // y (M x N) = x (M x K) times the transposed weights, with activations scaled like this where they become integers.
    virtual void gemm(nibble::matrix_view<const float> x, nibble::matrix_view<float> y, nibble::workspace& scratch,
                      executor_ref threads,
                      nibble::activation_scale scale = nibble::activation_scale::automatic) const = 0;
};

class quantized_weights {
public:
    virtual ~quantized_weights() = default;
    [[nodiscard]] virtual double bits_per_weight() const = 0;
    virtual void dequantize(nibble::matrix_view<float> out, executor_ref threads) const = 0;
    [[nodiscard]] virtual std::unique_ptr<packed_weights> pack(executor_ref threads) const = 0;
};

class scheme {
public:
    virtual ~scheme() = default;
    [[nodiscard]] virtual std::string_view name() const = 0;
    [[nodiscard]] virtual std::unique_ptr<quantized_weights> quantize(nibble::matrix_view<const float> weights,
                                                                      executor_ref threads) const = 0;
    // The same under range::least_squares, where the format has a range.
    [[nodiscard]] virtual std::unique_ptr<quantized_weights> search(nibble::matrix_view<const float> weights,
                                                                    executor_ref threads) const {
        return quantize(weights, threads);
    }
    // How its products can scale activations, the default first; none if those stay fp32.
    [[nodiscard]] virtual std::vector<nibble::activation_scale> activation_scales() const { return {}; }
    // Can keys and values be kept in it, row by row?
    [[nodiscard]] virtual bool stores_tokens() const { return false; }
    // The same weights met by activations of 7 bits (activation_quantization::qmax = 64), as <name>_a7; null where no
    // kernel is faster for that.
    [[nodiscard]] virtual std::unique_ptr<scheme> with_seven_bits() const { return nullptr; }
};

// Every format of <nibble/scheme/formats.hpp>, in the order of that list, then your own (formats.hpp).
[[nodiscard]] const std::vector<std::unique_ptr<scheme>>& all_schemes();

} // namespace bench
