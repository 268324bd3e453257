// matrix.hpp: the matrices of a language model in the benchmarks' formats, whose templates are compiled once for all
// programs; what the example does in the product's epilogue comes after it here.
#pragma once

#include "support/scheme.hpp"

#include "linear.hpp"

#include <memory>
#include <string>

namespace bench {

// `weights` as nibble_compare has them. Products of integers scale activations as `scale` says.
[[nodiscard]] std::unique_ptr<linear> matrix_of(std::unique_ptr<packed_weights> weights, std::string format,
                                                double bits_per_weight, std::size_t outputs, std::size_t inputs,
                                                nibble::activation_scale scale);

} // namespace bench
