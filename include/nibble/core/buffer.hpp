// buffer.hpp: owning bytes on a 64-byte boundary, from any allocator; what quantized and packed weights live in.
#pragma once

#include <nibble/core/check.hpp>
#include <nibble/core/exchange.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// Where a buffer's memory comes from. `allocate` returns at least `bytes` bytes on an `alignment` boundary or nullptr;
// `deallocate` gets the same numbers back. The default is ::operator new, with huge pages asked for from 4 MiB on:
// streaming packed weights touches every page once, and 4 KiB pages cost several per cent of the read bandwidth.
struct allocator {
    void* (*allocate)(std::size_t bytes, std::size_t alignment, void* context) = nullptr;
    void (*deallocate)(void* memory, std::size_t bytes, std::size_t alignment, void* context) = nullptr;
    void* context = nullptr;
};

class buffer {
public:
    static constexpr std::size_t alignment = 64;

    buffer() noexcept = default;
    // `bytes` zeroed bytes.
    explicit buffer(std::size_t bytes, allocator from = {}) : from_(from) {
        if (bytes == 0) return;
        data_ = static_cast<std::byte*>(acquire(bytes));
        NIBBLE_CHECK(data_ != nullptr, "buffer: out of memory");
        bytes_ = bytes;
        std::memset(data_, 0, bytes);
    }
    buffer(const buffer& other) : buffer(other.bytes_, other.from_) {
        if (bytes_ != 0) std::memcpy(data_, other.data_, bytes_);
    }
    buffer(buffer&& other) noexcept
        : data_(detail::exchange(other.data_, nullptr)), bytes_(detail::exchange(other.bytes_, 0)), from_(other.from_) {
    }
    buffer& operator=(buffer other) noexcept {
        detail::swap(data_, other.data_);
        detail::swap(bytes_, other.bytes_);
        detail::swap(from_, other.from_);
        return *this;
    }
    ~buffer() { release(); }

    [[nodiscard]] std::byte* data() noexcept { return data_; }
    [[nodiscard]] const std::byte* data() const noexcept { return data_; }
    [[nodiscard]] std::size_t size() const noexcept { return bytes_; }

    // The bytes from `offset` on as objects of a trivial type; offset must be a multiple of its alignment.
    template <class T> [[nodiscard]] T* as(std::size_t offset = 0) noexcept {
        return reinterpret_cast<T*>(data_ + offset);
    }
    template <class T> [[nodiscard]] const T* as(std::size_t offset = 0) const noexcept {
        return reinterpret_cast<const T*>(data_ + offset);
    }

private:
    static constexpr std::size_t huge_page = std::size_t{2} << 20;
    static constexpr std::size_t alignment_for(std::size_t bytes) noexcept {
        return bytes >= 2 * huge_page ? huge_page : alignment;
    }

    [[nodiscard]] void* acquire(std::size_t bytes) const {
        const std::size_t boundary = alignment_for(bytes);
        if (from_.allocate != nullptr) return from_.allocate(bytes, boundary, from_.context);
        void* memory = ::operator new(bytes, std::align_val_t{boundary}, std::nothrow);
#if defined(__linux__)
        if (memory != nullptr && boundary == huge_page) (void)::madvise(memory, bytes, MADV_HUGEPAGE);
#endif
        return memory;
    }
    void release() noexcept {
        if (data_ == nullptr) return;
        const std::size_t boundary = alignment_for(bytes_);
        if (from_.deallocate != nullptr)
            from_.deallocate(data_, bytes_, boundary, from_.context);
        else
            ::operator delete(data_, std::align_val_t{boundary});
    }

    std::byte* data_ = nullptr;
    std::size_t bytes_ = 0;
    allocator from_{};
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
