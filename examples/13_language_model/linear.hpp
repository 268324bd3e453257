// linear.hpp: the matrix of one layer in whichever format it is stored, and its products: the seam between the model,
// which knows no format, and nibble's templates, which are compiled in units of a few formats each (linear_unit.hpp).
#pragma once

#include <nibble/adapt/thread_pool.hpp>
#include <nibble/core/status.hpp>
#include <nibble/core/view.hpp>
#include <nibble/core/workspace.hpp>
#include <nibble/io/read_layer.hpp>
#include <nibble/io/safetensors_model.hpp>
#include <nibble/io/tensor_file.hpp>
#include <nibble/prepare.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nb = nibble;

// What every verb of a forward pass shares.
struct machine {
    const nb::thread_pool& threads;
    nb::workspace scratch{};
};

enum class activation { none, silu, gelu };

// What a product goes through before it is stored, in this order; what is empty is left out.
struct finish {
    const float* bias = nullptr; // one per output
    activation activate = activation::none;
    nb::matrix_view<const float> factor{}; // of y's shape, and may be y
    nb::matrix_view<const float> addend{}; // likewise: the residual
};

class linear {
public:
    linear() = default;
    linear(const linear&) = delete;
    linear& operator=(const linear&) = delete;
    virtual ~linear() = default;

    [[nodiscard]] virtual std::string_view format() const noexcept = 0;
    [[nodiscard]] virtual std::size_t outputs() const noexcept = 0;
    [[nodiscard]] virtual std::size_t inputs() const noexcept = 0;
    [[nodiscard]] virtual std::size_t bytes() const noexcept = 0;
    [[nodiscard]] virtual double bits_per_weight() const noexcept = 0;

    // Activations as these weights want them; whether what was prepared for others will do.
    virtual void prepare(nb::matrix_view<const float> x, nb::prepared_activations& into,
                         const nb::activation_options& options, machine& on) const = 0;
    [[nodiscard]] virtual bool fits(const nb::prepared_activations& x) const noexcept = 0;
    // y = finish(x wᵀ)
    virtual void multiply(const nb::prepared_activations& x, nb::matrix_view<float> y, const finish& then,
                          machine& on) const = 0;
    virtual void rows(std::span<const std::uint32_t> ids, nb::matrix_view<float> out, machine& on) const = 0;
};

// A unit's formats: a tensor of a file as it is stored, and fp32 numbers into a format by name. Both leave `out` empty
// if the unit does not have the format.
struct weight_unit {
    std::string (*names)();
    nb::status (*read)(const nb::tensor_info& tensor, const nb::thread_pool& threads, std::unique_ptr<linear>& out);
    void (*quantize)(std::string_view format, nb::matrix_view<const float> w, const nb::thread_pool& threads,
                     std::unique_ptr<linear>& out);
};

// Who wants more formats writes another unit and adds it to this list; the names of all.
[[nodiscard]] std::vector<weight_unit>& weight_units();
[[nodiscard]] std::string weight_formats();
// A quantized layer of a checkpoint: as it is stored, or, into a matrix of its shape, as fp32.
[[nodiscard]] nb::status read_checkpoint_layer(const nb::safetensors_model& file, std::string_view name,
                                               const nb::layer_options& options, nb::matrix_view<float> w,
                                               const nb::thread_pool& threads, std::unique_ptr<linear>& out);
