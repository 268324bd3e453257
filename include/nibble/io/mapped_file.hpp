// mapped_file.hpp: a whole file as read-only memory; what the readers of model files stand on.
#pragma once

#include <nibble/core/config.hpp>
#include <nibble/core/status.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// Owns one read-only mapping (POSIX mmap); moving it leaves the bytes where they are. Opening reads nothing: pages come
// from the disk when they are first touched. The system's rule for mappings holds: if another process truncates the
// file meanwhile, touching a page behind its new end raises SIGBUS.
class mapped_file {
public:
    mapped_file() noexcept = default;
    mapped_file(const mapped_file&) = delete;
    mapped_file(mapped_file&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
    mapped_file& operator=(mapped_file other) noexcept {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        return *this;
    }
    ~mapped_file() {
        if (data_ != nullptr) ::munmap(data_, size_);
    }

    // Maps the file at `path`. Anything that is not a readable regular file of at least one byte is cannot_open, and
    // `out` is then as it was.
    [[nodiscard]] static status open(const char* path, mapped_file& out) {
        if (path == nullptr || *path == '\0') return {status_code::cannot_open, "no file name given"};
        // Non-blocking: opening a named pipe would otherwise wait for someone to write into it.
        const int file = ::open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        if (file < 0) {
            if (::access(path, F_OK) != 0) return cannot_open(path, "there is no such file");
            if (::access(path, R_OK) != 0) return cannot_open(path, "no permission to read it");
            return cannot_open(path, "the system refuses to open it");
        }
        mapped_file mapped;
        const char* why = mapped.map(file);
        ::close(file); // a mapping outlives its descriptor
        if (why != nullptr) return cannot_open(path, why);
        out = std::move(mapped);
        return {};
    }

    [[nodiscard]] std::span<const std::byte> bytes() const noexcept {
        return {static_cast<const std::byte*>(data_), size_};
    }

private:
    [[nodiscard]] static status cannot_open(const char* path, const char* why) {
        return {status_code::cannot_open, std::string("cannot open ") + path + ": " + why};
    }

    // nullptr, or why not.
    [[nodiscard]] const char* map(int file) noexcept {
        struct stat facts {};
        if (::fstat(file, &facts) != 0) return "its size is unknown";
        if (S_ISDIR(facts.st_mode)) return "it is a directory";
        if (!S_ISREG(facts.st_mode)) return "it is not a regular file";
        if (facts.st_size <= 0) return "it is empty";
        std::size_t size = 0;
        if (__builtin_add_overflow(facts.st_size, 0, &size)) return "it does not fit in the address space";
        void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
        if (data == MAP_FAILED) return "the system refuses to map it";
        data_ = data;
        size_ = size;
        return nullptr;
    }

    void* data_ = nullptr;
    std::size_t size_ = 0;
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
