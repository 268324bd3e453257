// workload.hpp: the weights and activations that every scheme is tried on; synthetic, or a model file's.
#pragma once

#include "executor_ref.hpp"

#include <nibble/core/buffer.hpp>
#include <nibble/core/view.hpp>

#include <cstddef>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace bench {

// What the user gave cannot be used; the message is one line for stderr.
struct user_error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// A row-major float matrix that owns its memory.
class float_matrix {
public:
    float_matrix() = default;
    float_matrix(std::size_t rows, std::size_t cols) : memory_(rows * cols * sizeof(float)), rows_(rows), cols_(cols) {}

    [[nodiscard]] std::size_t rows() const noexcept { return rows_; }
    [[nodiscard]] std::size_t cols() const noexcept { return cols_; }
    [[nodiscard]] nibble::matrix_view<float> view() noexcept { return {memory_.as<float>(), rows_, cols_}; }
    [[nodiscard]] nibble::matrix_view<const float> view() const noexcept { return {memory_.as<float>(), rows_, cols_}; }
    [[nodiscard]] nibble::matrix_view<const float> first(std::size_t rows) const noexcept {
        return {memory_.as<float>(), rows, cols_};
    }

private:
    nibble::buffer memory_;
    std::size_t rows_ = 0;
    std::size_t cols_ = 0;
};

struct weight_tensor {
    std::string name;
    float_matrix weights; // N x K
};

struct workload {
    std::string title;              // what it is, for reports
    std::vector<std::string> notes; // what was left out, and why
    std::vector<weight_tensor> tensors;
    std::map<std::size_t, float_matrix> activations; // by K: tokens x K

    [[nodiscard]] std::size_t weight_count() const noexcept;
    [[nodiscard]] const float_matrix& inputs(const weight_tensor& tensor) const {
        return activations.at(tensor.weights.cols());
    }
};

// Token t of an activation matrix is the same for any number of tokens.
[[nodiscard]] workload synthetic_workload(std::size_t n, std::size_t k, std::size_t tokens, executor_ref threads);

// The rank-2 F32, F16 and BF16 tensors of a GGUF or safetensors file: those whose names match `pattern` or, where it is
// empty, the linear layers (both dimensions at least 128; no embedding, head or norm). At most `largest` weights:
// of a larger model, tensors spread evenly over the file are taken. Activations are synthetic. Throws user_error.
[[nodiscard]] workload file_workload(const std::string& path, const std::string& pattern, std::size_t largest,
                                     std::size_t tokens, executor_ref threads);

} // namespace bench
