// allocations.cpp: replaces the global operator new of the test program by one that counts.
#include "support/allocations.hpp"

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace nibble_test {

std::atomic<std::size_t> allocations{0};

} // namespace nibble_test

namespace {

void* counted(std::size_t bytes, std::size_t alignment) noexcept {
    nibble_test::allocations.fetch_add(1, std::memory_order_relaxed);
    if (bytes == 0) bytes = 1;
    if (alignment <= alignof(std::max_align_t)) return std::malloc(bytes);
    void* memory = nullptr;
    return ::posix_memalign(&memory, alignment, bytes) == 0 ? memory : nullptr;
}
void* counted_or_throw(std::size_t bytes, std::size_t alignment) {
    void* memory = counted(bytes, alignment);
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
}

} // namespace

// The array forms and the sized ones call these.
void* operator new(std::size_t bytes) {
    return counted_or_throw(bytes, 1);
}
void* operator new(std::size_t bytes, std::align_val_t a) {
    return counted_or_throw(bytes, static_cast<std::size_t>(a));
}
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
    return counted(bytes, 1);
}
void* operator new(std::size_t bytes, std::align_val_t a, const std::nothrow_t&) noexcept {
    return counted(bytes, static_cast<std::size_t>(a));
}
void operator delete(void* memory) noexcept {
    std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
    std::free(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
    std::free(memory);
}
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
    std::free(memory);
}
void operator delete(void* memory, const std::nothrow_t&) noexcept {
    std::free(memory);
}
void operator delete(void* memory, std::align_val_t, const std::nothrow_t&) noexcept {
    std::free(memory);
}
