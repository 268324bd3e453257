// linear.hpp: the matrix of one layer in whichever format it is stored, and its products: the seam between the model,
// which knows no format, and nibble's templates, which linear.cpp compiles.
#pragma once

#include <nibble/adapt/thread_pool.hpp>
#include <nibble/core/status.hpp>
#include <nibble/core/view.hpp>
#include <nibble/core/workspace.hpp>
#include <nibble/epilogue/activation.hpp>
#include <nibble/io/read_layer.hpp>
#include <nibble/prepare.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

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
// All of it in one type, so that the products of a format are compiled once: a branch for each vector of results costs
// nothing beside the sums behind it.
struct finish_step : nb::epilogue_step {
    finish with;
    explicit finish_step(const finish& f) noexcept : with(f) {}
    template <class Lanes> Lanes operator()(const Lanes& product, const nb::position& at) const noexcept {
        Lanes y = product;
        if (with.bias != nullptr) y = y + Lanes::load(with.bias + at.output, at.count);
        y = y.kept();
        if (with.activate != activation::none) y = activated(y, with.activate, at);
        if (!with.factor.empty()) y = (y.kept() * Lanes::load(with.factor.row(at.token) + at.output, at.count)).kept();
        if (!with.addend.empty()) y = y + Lanes::load(with.addend.row(at.token) + at.output, at.count);
        return y;
    }
    // Not inline: a call costs nothing beside an exponential, and is compiled once, not at every place of every format.
    template <class Lanes>
    [[gnu::noinline]] static Lanes activated(const Lanes& y, activation f, const nb::position& at) noexcept {
        return f == activation::silu ? nb::silu(y, at) : nb::gelu(y, at);
    }
};

class linear {
public:
    // Rows [first_row, first_row + rows) of a product have matrices of their own: one, or gate and up.
    struct expert {
        const linear *weights = nullptr, *up = nullptr;
        std::size_t first_row = 0, rows = 0;
    };

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
    // y = then(x wᵀ)
    virtual void multiply(const nb::prepared_activations& x, nb::matrix_view<float> y, const finish& then,
                          machine& on) const = 0;
    // y = f(x wᵀ) x (x upᵀ), for `up` in the same format.
    virtual void multiply_gated(const nb::prepared_activations& x, const linear& up, activation f,
                                nb::matrix_view<float> y, machine& on) const = 0;
    // The same for each expert's rows of x, or of options.rows, or y = x wᵀ without `up`. All in this one's format.
    virtual void multiply_experts(nb::matrix_view<const float> x, std::span<const expert> experts, activation f,
                                  nb::matrix_view<float> y, const nb::activation_options& options,
                                  machine& on) const = 0;
    virtual void rows(std::span<const std::uint32_t> ids, nb::matrix_view<float> out, machine& on) const = 0;
};

// Of a file's tensor as it is stored; of a quantized layer of a checkpoint, or its numbers into a matrix `w` of its
// shape; of numbers, in the format of that name. `out` stays empty where linear.cpp does not list the format.
[[nodiscard]] nb::status read_tensor(const nb::tensor_info& tensor, const nb::thread_pool& threads,
                                     std::unique_ptr<linear>& out);
[[nodiscard]] nb::status read_checkpoint_layer(const nb::tensor_source& file, std::string_view name,
                                               const nb::layer_options& options, nb::matrix_view<float> w,
                                               const nb::thread_pool& threads, std::unique_ptr<linear>& out);
[[nodiscard]] std::unique_ptr<linear> quantize_matrix(nb::matrix_view<const float> w, std::string_view format,
                                                      const nb::thread_pool& threads);
[[nodiscard]] std::string weight_formats();

// For messages: " f32 f16 ..."
template <class List> [[nodiscard]] std::string names_of(const List& list) {
    std::string names;
    nb::for_each_format(list, [&]<class Format>() { (names += ' ') += Format::name; });
    return names;
}
