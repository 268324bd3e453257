// onednn.cpp: oneDNN's matmul of fp32 and of bytes, for the list of peers; versions 2 and 3.
#include "peers.hpp"

#include "support/workload.hpp"

#include <oneapi/dnnl/dnnl.hpp>

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string_view>
#include <utility>

namespace bench {
namespace {

using dnnl::memory;

dnnl::engine& engine() {
    static dnnl::engine one(dnnl::engine::kind::cpu, 0);
    return one;
}
dnnl::stream& stream() {
    static dnnl::stream one(engine());
    return one;
}
memory::dim size(std::size_t value) {
    return static_cast<memory::dim>(value);
}

dnnl::matmul::primitive_desc describe(const memory::desc& x, const memory::desc& weights, const memory::desc& y) {
#if DNNL_VERSION_MAJOR >= 3
    return {engine(), x, weights, y};
#else
    return {dnnl::matmul::desc(x, weights, y), engine()};
#endif
}

template <class T> constexpr memory::data_type type_of = memory::data_type::f32;
template <> constexpr memory::data_type type_of<std::int8_t> = memory::data_type::s8;
template <> constexpr memory::data_type type_of<std::uint8_t> = memory::data_type::u8;

// Row-major weights as they were quantized, and the activations of the last call; shared by all copies of a matrix.
template <class Weight> struct source {
    std::vector<Weight> weights;
    std::size_t n = 0;
    std::size_t k = 0;
    float scale = 1;
    std::vector<std::uint8_t> bytes; // activations
    const float* bytes_of = nullptr;
    std::size_t bytes_rows = 0;
};

// Scale of a symmetric quantization to [-127, 127]; 1 for zeros.
float scale_of(float largest) {
    return largest > 0 ? largest / 127.0f : 1.0f;
}

void quantize_activations(source<std::int8_t>& from, nibble::matrix_view<const float> x) {
    if (from.bytes_of == x.data() && from.bytes_rows == x.rows()) return;
    float largest = 0;
    for (std::size_t row = 0; row < x.rows(); ++row)
        for (std::size_t i = 0; i < x.cols(); ++i) largest = std::max(largest, std::abs(x.row(row)[i]));
    const float scale = scale_of(largest);
    from.bytes.resize(x.rows() * x.cols());
    for (std::size_t row = 0; row < x.rows(); ++row)
        for (std::size_t i = 0; i < x.cols(); ++i)
            from.bytes[row * x.cols() + i] = static_cast<std::uint8_t>(std::lrint(x.row(row)[i] / scale) + 128);
    from.bytes_of = x.data();
    from.bytes_rows = x.rows();
}

// A copy in oneDNN's own order, which depends on the number of tokens and threads and is made by the first call with
// them: call every copy once before the clock starts.
template <class Activation, class Weight> class onednn_packed final : public packed_weights {
public:
    explicit onednn_packed(std::shared_ptr<source<Weight>> from) : from_(std::move(from)) {}

    [[nodiscard]] std::size_t bytes() const override { return from_->n * from_->k * sizeof(Weight); }
    [[nodiscard]] std::unique_ptr<packed_weights> clone() const override {
        return std::make_unique<onednn_packed>(from_);
    }
    void gemm(nibble::matrix_view<const float> x, nibble::matrix_view<float> y, nibble::workspace&,
              executor_ref threads, nibble::activation_scale) const override {
        const void* activations = x.data();
        memory::dims strides{size(x.stride()), 1};
        if constexpr (sizeof(Activation) == 1) {
            quantize_activations(*from_, x);
            activations = from_->bytes.data();
            strides[0] = size(x.cols());
        }
        const memory::desc x_form({size(x.rows()), size(x.cols())}, type_of<Activation>, strides);
        const memory::desc y_form({size(y.rows()), size(y.cols())}, memory::data_type::f32,
                                  memory::dims{size(y.stride()), 1});
        omp_set_num_threads(static_cast<int>(threads.concurrency()));
        if (tokens_ != x.rows() || threads_ != threads.concurrency() || x_stride_ != strides[0] ||
            y_stride_ != y.stride()) {
            prepare(x_form, y_form);
            tokens_ = x.rows();
            threads_ = threads.concurrency();
            x_stride_ = strides[0];
            y_stride_ = y.stride();
        }
        // oneDNN's interface knows no const; it reads its source.
        matmul_.execute(stream(), {{DNNL_ARG_SRC, memory(x_form, engine(), const_cast<void*>(activations))},
                                   {DNNL_ARG_WEIGHTS, weights_},
                                   {DNNL_ARG_DST, memory(y_form, engine(), y.data())}});
        stream().wait();
    }

private:
    void prepare(const memory::desc& x_form, const memory::desc& y_form) const {
        const memory::dims dims{size(from_->k), size(from_->n)};
        const auto description = describe(x_form, memory::desc(dims, type_of<Weight>, memory::format_tag::any), y_form);
        matmul_ = dnnl::matmul(description);
        memory plain(memory::desc(dims, type_of<Weight>, memory::format_tag::ba), engine(), from_->weights.data());
        weights_ = memory(description.weights_desc(), engine());
        dnnl::reorder(plain, weights_).execute(stream(), plain, weights_);
        stream().wait();
    }

    std::shared_ptr<source<Weight>> from_;
    mutable dnnl::matmul matmul_;
    mutable memory weights_;
    mutable std::size_t tokens_ = 0;
    mutable std::size_t threads_ = 0;
    mutable memory::dim x_stride_ = 0;
    mutable std::size_t y_stride_ = 0;
};

template <class Activation, class Weight> class onednn_weights final : public quantized_weights {
public:
    explicit onednn_weights(std::shared_ptr<source<Weight>> from) : from_(std::move(from)) {}
    [[nodiscard]] double bits_per_weight() const override { return 8.0 * sizeof(Weight); }
    void dequantize(nibble::matrix_view<float> out, executor_ref) const override {
        for (std::size_t row = 0; row < from_->n; ++row)
            for (std::size_t i = 0; i < from_->k; ++i)
                out.row(row)[i] = static_cast<float>(from_->weights[row * from_->k + i]) * from_->scale;
    }
    [[nodiscard]] std::unique_ptr<packed_weights> pack(executor_ref) const override {
        return std::make_unique<onednn_packed<Activation, Weight>>(from_);
    }

private:
    std::shared_ptr<source<Weight>> from_;
};

template <class Activation, class Weight> class onednn_scheme final : public scheme {
public:
    explicit onednn_scheme(std::string_view name) : name_(name) {}
    [[nodiscard]] std::string_view name() const override { return name_; }
    [[nodiscard]] std::unique_ptr<quantized_weights> quantize(nibble::matrix_view<const float> weights,
                                                              executor_ref) const override {
        auto made = std::make_shared<source<Weight>>();
        made->n = weights.rows();
        made->k = weights.cols();
        made->weights.resize(weights.rows() * weights.cols());
        if constexpr (sizeof(Weight) == 1) {
            float largest = 0;
            for (std::size_t row = 0; row < weights.rows(); ++row)
                for (std::size_t i = 0; i < weights.cols(); ++i)
                    largest = std::max(largest, std::abs(weights.row(row)[i]));
            made->scale = scale_of(largest);
        }
        for (std::size_t row = 0; row < weights.rows(); ++row)
            for (std::size_t i = 0; i < weights.cols(); ++i) {
                Weight& to = made->weights[row * weights.cols() + i];
                if constexpr (sizeof(Weight) == 1)
                    to = static_cast<Weight>(std::lrint(weights.row(row)[i] / made->scale));
                else
                    to = weights.row(row)[i];
            }
        return std::make_unique<onednn_weights<Activation, Weight>>(std::move(made));
    }

private:
    std::string_view name_;
};

std::string isa_name() {
    switch (dnnl::get_effective_cpu_isa()) {
    case dnnl::cpu_isa::sse41:
        return "sse41";
    case dnnl::cpu_isa::avx:
        return "avx";
    case dnnl::cpu_isa::avx2:
        return "avx2";
    case dnnl::cpu_isa::avx2_vnni:
        return "avx2_vnni";
    case dnnl::cpu_isa::avx512_core:
        return "avx512_core";
    case dnnl::cpu_isa::avx512_core_vnni:
        return "avx512_core_vnni";
    case dnnl::cpu_isa::avx512_core_bf16:
        return "avx512_core_bf16";
    case dnnl::cpu_isa::avx512_core_amx:
        return "avx512_core_amx";
    default:
        return "native";
    }
}

} // namespace

void add_onednn(std::vector<peer>& peers) {
    peers.push_back({std::make_unique<onednn_scheme<float, float>>("onednn_f32"), true, isa_name(), true});
    peers.push_back(
        {std::make_unique<onednn_scheme<std::uint8_t, std::int8_t>>("onednn_u8s8"), false, isa_name(), true});
}

} // namespace bench
