// written_file.hpp: puts pieces of bytes into a file, all or nothing; what the writers of model files stand on.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/status.hpp>

#include <cstddef>
#include <cstdio>
#include <span>
#include <string>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::detail {

// Writes the pieces one after the other beside `path`, as "<path>.partial", and moves that there when it is complete:
// who has the old file open or mapped keeps it, and a full disk leaves no half file under that name. cannot_open if any
// of it fails.
[[nodiscard]] inline status write_file(const char* path, std::span<const std::span<const std::byte>> pieces) {
    if (path == nullptr || *path == '\0') return {status_code::cannot_open, "no file name given"};
    const std::string partial = std::string(path) + ".partial";
    const int file = ::open(partial.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (file < 0) return {status_code::cannot_open, partial + ": cannot be created"};
    bool good = true;
    std::size_t total = 0;
    for (const std::span<const std::byte> piece : pieces) {
        total += piece.size();
        for (std::size_t done = 0; good && done < piece.size();) {
            const auto count = ::write(file, piece.data() + done, min_of<std::size_t>(piece.size() - done, 1u << 30));
            good = count > 0;
            done += good ? static_cast<std::size_t>(count) : 0;
        }
    }
    good = ::close(file) == 0 && good;
    if (good && std::rename(partial.c_str(), path) == 0) return {};
    ::unlink(partial.c_str());
    return {status_code::cannot_open,
            std::string(path) + ": " + std::to_string(total) + " bytes could not be written there"};
}

} // namespace nibble::inline NIBBLE_ABI::detail
NIBBLE_HEADER_END;
