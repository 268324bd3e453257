// form.cpp: the forms, compiled once for the two schemes that stand for the rest.
#include "form.hpp"

#include "workload.hpp"

#include <nibble/core/workspace.hpp>
#include <nibble/epilogue/activation.hpp>
#include <nibble/epilogue/destination.hpp>
#include <nibble/epilogue/low_rank.hpp>
#include <nibble/gemm.hpp>
#include <nibble/gemm_grouped.hpp>
#include <nibble/gemm_integer.hpp>
#include <nibble/pack.hpp>
#include <nibble/prepare.hpp>
#include <nibble/quantize.hpp>
#include <nibble/requantize.hpp>
#include <nibble/scheme/formats.hpp>

#include <concepts>
#include <cstdint>
#include <utility>

namespace bench {

namespace {

using codes = nibble::int8_channel;

template <class S> class form_of : public form {
public:
    form_of(nibble::matrix_view<const float> weights, nibble::matrix_view<const float> x, executor_ref threads)
        : weights_(nibble::pack(nibble::quantize<S>(weights, nibble::quantize_options{}, threads), threads)), x_(x),
          y_(x.rows(), weights.rows()) {}

    void run_plain(executor_ref threads) override { nibble::gemm(x_, weights_, y_.view(), options(), threads); }

protected:
    [[nodiscard]] nibble::gemm_options options() { return {.workspace = &scratch_}; }
    // Under a scale per token that fits them, as a calibration would find.
    [[nodiscard]] nibble::quantized<codes> quantized_results(executor_ref threads) {
        run_plain(threads);
        return nibble::quantize<codes>(std::as_const(y_).view(), nibble::quantize_options{}, threads);
    }

    nibble::packed<S> weights_;
    nibble::matrix_view<const float> x_;
    float_matrix y_;
    nibble::workspace scratch_;
};

template <class S> struct gated final : form_of<S> {
    static constexpr std::string_view verb = "gemm_gated";
    static constexpr std::size_t products = 2;
    nibble::packed<S> up;
    gated(nibble::matrix_view<const float> weights, nibble::matrix_view<const float> x, executor_ref threads)
        : form_of<S>(weights, x, threads), up(this->weights_) {}
    void run_plain(executor_ref threads) override {
        form_of<S>::run_plain(threads);
        nibble::gemm(this->x_, up, this->y_.view(), this->options(), threads);
    }
    void run(executor_ref threads) override {
        nibble::gemm_gated(this->x_, this->weights_, up, this->y_.view(), nibble::silu, nibble::identity{},
                           this->options(), threads);
    }
};

template <class S> struct scattered final : form_of<S> {
    static constexpr std::string_view verb = "scatter_add";
    static constexpr std::size_t products = 1;
    std::vector<std::uint32_t> rows;
    float_matrix sums;
    scattered(nibble::matrix_view<const float> weights, nibble::matrix_view<const float> x, executor_ref threads)
        : form_of<S>(weights, x, threads), sums(2 * x.rows(), weights.rows()) {
        for (std::size_t token = 0; token < x.rows(); ++token) rows.push_back(static_cast<std::uint32_t>(2 * token));
    }
    void run(executor_ref threads) override {
        nibble::gemm(this->x_, this->weights_, nibble::scatter_add(sums.view(), rows), nibble::identity{},
                     this->options(), threads);
    }
};

template <class S> struct requantized final : form_of<S> {
    static constexpr std::string_view verb = "requantize";
    static constexpr std::size_t products = 1;
    nibble::quantized<codes> results;
    requantized(nibble::matrix_view<const float> weights, nibble::matrix_view<const float> x, executor_ref threads)
        : form_of<S>(weights, x, threads), results(this->quantized_results(threads)) {}
    void run(executor_ref threads) override {
        nibble::gemm(this->x_, this->weights_, nibble::requantize(results), nibble::identity{}, this->options(),
                     threads);
    }
};

template <class S> struct low_rank final : form_of<S> {
    static constexpr std::string_view verb = "add_low_rank";
    static constexpr std::size_t products = 1;
    static constexpr std::size_t rank = 16;
    float_matrix left;
    float_matrix right;
    low_rank(nibble::matrix_view<const float> weights, nibble::matrix_view<const float> x, executor_ref threads)
        : form_of<S>(weights, x, threads), left(x.rows(), rank), right(rank, weights.rows()) {
        for (std::size_t i = 0; i < x.rows() * rank; ++i) left.view().data()[i] = 0.01f;
        for (std::size_t i = 0; i < rank * weights.rows(); ++i) right.view().data()[i] = 0.01f;
    }
    void run(executor_ref threads) override {
        nibble::gemm(this->x_, this->weights_, this->y_.view(),
                     nibble::add_low_rank(std::as_const(left).view(), std::as_const(right).view()), this->options(),
                     threads);
    }
};

template <class S> struct grouped final : form_of<S> {
    static constexpr std::string_view verb = "gemm_grouped";
    static constexpr std::size_t products = 1;
    static constexpr std::size_t experts = 8;
    std::vector<nibble::packed<S>> weights;
    std::vector<nibble::gemm_group<S>> groups;
    std::vector<std::uint32_t> rows; // of x
    float_matrix results;
    grouped(nibble::matrix_view<const float> w, nibble::matrix_view<const float> x, executor_ref threads)
        : form_of<S>(w, x, threads), results(experts * x.rows(), w.rows() / experts) {
        const std::size_t outputs = w.rows() / experts;
        for (std::size_t e = 0; e < experts; ++e)
            weights.push_back(nibble::pack(
                nibble::quantize<S>(nibble::matrix_view<const float>(w.row(e * outputs), outputs, w.cols(), w.stride()),
                                    nibble::quantize_options{}, threads)));
        for (std::size_t e = 0, first = 0; e < experts; ++e) {
            const std::size_t end = experts * x.rows() * (e + 1) * (e + 2) / (experts * (experts + 1));
            groups.push_back({weights[e], first, end - first});
            first = end;
        }
        for (std::size_t i = 0; i < results.view().rows(); ++i)
            rows.push_back(static_cast<std::uint32_t>(i % x.rows()));
    }
    void run_plain(executor_ref threads) override {
        for (const nibble::gemm_group<S>& g : groups) {
            if (g.rows == 0) continue;
            nibble::gemm_options options = this->options();
            options.activations.rows = {rows.data() + g.first_row, g.rows};
            nibble::gemm(this->x_, g.weights,
                         nibble::matrix_view<float>(results.view().row(g.first_row), g.rows, results.view().cols()),
                         options, threads);
        }
    }
    void run(executor_ref threads) override {
        nibble::gemm_options options = this->options();
        options.activations.rows = rows;
        nibble::gemm_grouped(this->x_, groups, results.view(), options, threads);
    }
};

template <class S> struct in_integers final : form_of<S> {
    static constexpr std::string_view verb = "gemm_integer";
    static constexpr std::size_t products = 1;
    nibble::quantized<codes> results;
    nibble::prepared_activations prepared;
    std::vector<nibble::dyadic> ratios;
    std::vector<std::int32_t> bias;
    in_integers(nibble::matrix_view<const float> weights, nibble::matrix_view<const float> x, executor_ref threads)
        : form_of<S>(weights, x, threads), results(x.rows(), weights.rows()), bias(weights.rows(), 100) {
        for (std::size_t n = 0; n < weights.rows(); ++n)
            ratios.push_back(nibble::dyadic::of(1e-3 + 1e-7 * static_cast<double>(n)));
    }
    void run(executor_ref threads) override {
        nibble::prepare<S>(this->x_, prepared, {}, threads);
        nibble::gemm_integer(prepared, this->weights_, results, {.ratios = ratios, .bias = bias}, this->options(),
                             threads);
    }
};

template <class Format, template <class> class Form> class maker_of final : public form_maker {
    using one = Form<typename Format::scheme>;

public:
    [[nodiscard]] std::string_view verb() const override { return one::verb; }
    [[nodiscard]] std::string_view scheme() const override { return Format::name; }
    [[nodiscard]] std::size_t products() const override { return one::products; }
    [[nodiscard]] std::unique_ptr<form> make(nibble::matrix_view<const float> weights,
                                             nibble::matrix_view<const float> x, executor_ref threads) const override {
        return std::make_unique<one>(weights, x, threads);
    }
};

using represented = nibble::format_list<nibble::named_format<"int8_channel", nibble::int8_channel>,
                                        nibble::named_format<"int4_g32", nibble::int4_g32>>;

} // namespace

const std::vector<std::unique_ptr<form_maker>>& all_forms() {
    static const std::vector<std::unique_ptr<form_maker>> forms = [] {
        std::vector<std::unique_ptr<form_maker>> made;
        nibble::for_each_format(represented{}, [&]<class Format>() {
            made.push_back(std::make_unique<maker_of<Format, gated>>());
            made.push_back(std::make_unique<maker_of<Format, scattered>>());
            made.push_back(std::make_unique<maker_of<Format, requantized>>());
            made.push_back(std::make_unique<maker_of<Format, low_rank>>());
            made.push_back(std::make_unique<maker_of<Format, grouped>>());
            if constexpr (std::same_as<typename Format::scheme::granularity_type, nibble::per_channel>)
                made.push_back(std::make_unique<maker_of<Format, in_integers>>());
        });
        return made;
    }();
    return forms;
}

} // namespace bench
