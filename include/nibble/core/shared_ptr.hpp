// shared_ptr.hpp: shared_ptr, an object that several own: the pages of caches and what their numbers go through.
#pragma once

#include <nibble/core/config.hpp>

#include <concepts>
#include <cstddef>
#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

namespace detail {

// Who owns, and how the last one gets rid of it.
struct shared_count {
    std::size_t owners = 1;
    void (*destroy)(shared_count*) noexcept = nullptr;
};
template <class T> struct shared_holder : shared_count {
    T value;
    template <class... Args> explicit shared_holder(Args&&... args) : value(static_cast<Args&&>(args)...) {
        destroy = [](shared_count* self) noexcept { delete static_cast<shared_holder*>(self); };
    }
};

} // namespace detail

// The part of std::shared_ptr that this library needs, under its names; from any std::shared_ptr, which it then keeps
// alive. Different ones to one object may be copied and dropped by several threads at once. (Why not std::shared_ptr:
// its count has one name under all compiler flags, so that of two units for different instruction sets the linker keeps
// either one's.)
template <class T> class shared_ptr {
    template <class U> friend class shared_ptr;
    template <class U, class... Args> friend shared_ptr<U> make_shared(Args&&... args);

public:
    using element_type = T;

    constexpr shared_ptr() noexcept = default;
    constexpr shared_ptr(std::nullptr_t) noexcept {}
    shared_ptr(const shared_ptr& other) noexcept : at_(other.at_), count_(other.count_) { keep(); }
    shared_ptr(shared_ptr&& other) noexcept : at_(other.at_), count_(other.count_) { other.forget(); }
    template <class U>
        requires std::is_convertible_v<U*, T*>
    shared_ptr(const shared_ptr<U>& other) noexcept : at_(other.at_), count_(other.count_) {
        keep();
    }
    template <class U>
        requires std::is_convertible_v<U*, T*>
    shared_ptr(shared_ptr<U>&& other) noexcept : at_(other.at_), count_(other.count_) {
        other.forget();
    }
    // From another library's pointer.
    template <class Pointer>
        requires requires(const Pointer& p) {
            { p.get() } -> std::convertible_to<T*>;
            p.use_count();
            typename Pointer::weak_type;
        }
    shared_ptr(Pointer other) : at_(other.get()) {
        if (at_ != nullptr) count_ = new detail::shared_holder<Pointer>(static_cast<Pointer&&>(other));
    }
    shared_ptr& operator=(shared_ptr other) noexcept {
        T* const at = at_;
        detail::shared_count* const count = count_;
        at_ = other.at_;
        count_ = other.count_;
        other.at_ = at;
        other.count_ = count;
        return *this;
    }
    ~shared_ptr() {
        if (count_ != nullptr && __atomic_sub_fetch(&count_->owners, 1, __ATOMIC_ACQ_REL) == 0) count_->destroy(count_);
    }

    [[nodiscard]] T* get() const noexcept { return at_; }
    [[nodiscard]] T& operator*() const noexcept { return *at_; }
    [[nodiscard]] T* operator->() const noexcept { return at_; }
    [[nodiscard]] explicit operator bool() const noexcept { return at_ != nullptr; }
    [[nodiscard]] friend bool operator==(const shared_ptr& a, const shared_ptr& b) noexcept { return a.at_ == b.at_; }
    [[nodiscard]] friend bool operator==(const shared_ptr& a, std::nullptr_t) noexcept { return a.at_ == nullptr; }

private:
    void keep() const noexcept {
        if (count_ != nullptr) __atomic_fetch_add(&count_->owners, 1, __ATOMIC_RELAXED);
    }
    void forget() noexcept {
        at_ = nullptr;
        count_ = nullptr;
    }

    T* at_ = nullptr;
    detail::shared_count* count_ = nullptr;
};

// A T made of the arguments.
template <class T, class... Args> [[nodiscard]] shared_ptr<T> make_shared(Args&&... args) {
    auto* const holder = new detail::shared_holder<std::remove_const_t<T>>(static_cast<Args&&>(args)...);
    shared_ptr<T> made;
    made.at_ = &holder->value;
    made.count_ = holder;
    return made;
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
