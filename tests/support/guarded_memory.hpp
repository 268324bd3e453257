// guarded_memory.hpp: memory that ends (or begins) at a page that may not be touched.
#pragma once

#include <nibble/core/buffer.hpp>

#include <cstddef>
#include <cstdint>
#include <new>
#include <sys/mman.h>
#include <unistd.h>
#include <utility>

namespace gemm_test {

// `bytes` bytes between two forbidden pages, right before the second.
class guarded_memory {
public:
    guarded_memory() = default;
    explicit guarded_memory(std::size_t bytes) {
        const std::size_t page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
        const std::size_t inside = (bytes + page - 1) / page * page;
        mapped_ = inside + 2 * page;
        base_ = ::mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (base_ == MAP_FAILED) throw std::bad_alloc();
        auto* first = static_cast<std::byte*>(base_) + page;
        if (inside != 0 && ::mprotect(first, inside, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
        data_ = first + inside - bytes;
    }
    guarded_memory(guarded_memory&& other) noexcept
        : base_(std::exchange(other.base_, nullptr)), mapped_(other.mapped_), data_(other.data_) {}
    guarded_memory& operator=(guarded_memory&&) = delete;
    ~guarded_memory() {
        if (base_ != nullptr) ::munmap(base_, mapped_);
    }
    [[nodiscard]] std::byte* data() const { return data_; }
    template <class T> [[nodiscard]] T* as() const { return reinterpret_cast<T*>(data_); }

private:
    void* base_ = nullptr;
    std::size_t mapped_ = 0;
    std::byte* data_ = nullptr;
};

// For buffers, whose sizes are multiples of 64: each allocation ends at a forbidden page.
inline nibble::allocator guarded_allocator() {
    nibble::allocator a;
    a.allocate = [](std::size_t bytes, std::size_t alignment, void*) -> void* {
        if (bytes % nibble::buffer::alignment != 0 || alignment > nibble::buffer::alignment) return nullptr;
        const std::size_t page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
        const std::size_t inside = (bytes + page - 1) / page * page;
        void* base = ::mmap(nullptr, inside + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (base == MAP_FAILED) return nullptr;
        ::mprotect(static_cast<std::byte*>(base) + inside, page, PROT_NONE);
        return static_cast<std::byte*>(base) + (inside - bytes);
    };
    a.deallocate = [](void* memory, std::size_t bytes, std::size_t, void*) {
        const std::size_t page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
        const std::size_t inside = (bytes + page - 1) / page * page;
        ::munmap(static_cast<std::byte*>(memory) - (inside - bytes), inside + page);
    };
    return a;
}

} // namespace gemm_test
