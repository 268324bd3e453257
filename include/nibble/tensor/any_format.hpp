// any_format.hpp: weights whose number format is known only at run time: any_quantized, any_packed and any_packed_view
// over a list of formats; made by a reader of model files, read by pack and gemm.
#pragma once

#include <nibble/core/check.hpp>
#include <nibble/core/exchange.hpp>
#include <nibble/scheme/formats.hpp>
#include <nibble/tensor/packed.hpp>
#include <nibble/tensor/packed_view.hpp>
#include <nibble/tensor/quantized.hpp>
#include <nibble/tensor/scale_groups.hpp>

#include <cstddef>
#include <string_view>
#include <type_traits>
#include <utility>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// One of Holder<scheme of Format> for the formats of a list, or nothing. The list is closed, so that a visit can
// instantiate any verb, epilogues and executors of the caller's included, and only for the formats that the caller
// lists. A scheme that the list names twice counts under its first name. Copies are deep; moving leaves it empty.
template <template <class> class Holder, class List> class any_format;

template <template <class> class Holder, class... Formats> class any_format<Holder, format_list<Formats...>> {
public:
    using list = format_list<Formats...>;
    template <class Scheme> static constexpr bool lists = (std::is_same_v<typename Formats::scheme, Scheme> || ...);

    any_format() noexcept = default;
    template <class Scheme>
        requires lists<Scheme>
    any_format(Holder<Scheme> value) : held_(new Holder<Scheme>(std::move(value))), format_(index_of<Scheme>) {}
    any_format(const any_format& other) {
        other.visit([&]<class Scheme>(const Holder<Scheme>& value) { *this = any_format(value); });
    }
    any_format(any_format&& other) noexcept
        : held_(detail::exchange(other.held_, nullptr)), format_(detail::exchange(other.format_, none)) {}
    any_format& operator=(any_format other) noexcept {
        detail::swap(held_, other.held_);
        detail::swap(format_, other.format_);
        return *this;
    }
    ~any_format() {
        visit([]<class Scheme>(Holder<Scheme>& value) { delete &value; });
    }

    [[nodiscard]] bool empty() const noexcept { return format_ == none; }
    // The format's name in the list; "" if empty.
    [[nodiscard]] std::string_view name() const noexcept {
        std::string_view found;
        std::size_t at = 0;
        ((at++ == format_ ? found = Formats::name : found), ...);
        return found;
    }
    [[nodiscard]] std::size_t rows() const noexcept {
        return number([](const auto& value) { return value.rows(); });
    }
    [[nodiscard]] std::size_t cols() const noexcept {
        return number([](const auto& value) { return value.cols(); });
    }
    [[nodiscard]] std::size_t bytes() const noexcept {
        return number([](const auto& value) { return value.bytes(); });
    }
    [[nodiscard]] double bits_per_weight() const noexcept {
        double bits = 0.0;
        visit([&](const auto& value) { bits = nibble::bits_per_weight(value); });
        return bits;
    }
    // As of what is held; false if empty.
    [[nodiscard]] bool nonfinite() const noexcept {
        bool found = false;
        visit([&](const auto& value) { found = value.nonfinite(); });
        return found;
    }
    // The weights if they are in that scheme, else nullptr.
    template <class Scheme>
        requires lists<Scheme>
    [[nodiscard]] const Holder<Scheme>* get_if() const noexcept {
        return format_ == index_of<Scheme> ? static_cast<const Holder<Scheme>*>(held_) : nullptr;
    }
    template <class Scheme>
        requires lists<Scheme>
    [[nodiscard]] Holder<Scheme>* get_if() noexcept {
        return format_ == index_of<Scheme> ? static_cast<Holder<Scheme>*>(held_) : nullptr;
    }

    // Calls function(Holder<Scheme>&) with what is held; nothing if empty. Instantiates it for every listed scheme.
    template <class Function> void visit(Function&& function) {
        visit_as<Holder>(held_, function, std::make_index_sequence<sizeof...(Formats)>{});
    }
    template <class Function> void visit(Function&& function) const {
        visit_as<constant>(held_, function, std::make_index_sequence<sizeof...(Formats)>{});
    }

private:
    template <class Scheme> using constant = const Holder<Scheme>;
    static constexpr std::size_t none = static_cast<std::size_t>(-1);
    template <class Scheme>
    static constexpr std::size_t index_of = [] {
        std::size_t at = 0;
        std::size_t found = none;
        ((std::is_same_v<typename Formats::scheme, Scheme>&& found == none ? found = at : found, ++at), ...);
        return found;
    }();

    template <template <class> class As, class Function, std::size_t... Index>
    void visit_as(void* held, Function& function, std::index_sequence<Index...>) const {
        const auto one = [&]<std::size_t At, class Scheme>() {
            if constexpr (index_of<Scheme> == At)
                if (format_ == At) function(*static_cast<As<Scheme>*>(held));
        };
        (one.template operator()<Index, typename Formats::scheme>(), ...);
    }
    template <class Function> [[nodiscard]] std::size_t number(Function function) const noexcept {
        std::size_t result = 0;
        visit([&](const auto& value) { result = function(value); });
        return result;
    }

    void* held_ = nullptr;
    std::size_t format_ = none;
};

template <class List> using any_quantized = any_format<quantized, List>;
template <class List> using any_scale_groups = any_format<scale_groups, List>;
template <class List> using any_packed = any_format<packed, List>;
template <class List> using any_packed_view = any_format<packed_view, List>; // whose copies are of the view

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
