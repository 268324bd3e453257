// workspace.hpp: scratch memory that a caller keeps between calls, so that a verb allocates nothing once it is warm.
#pragma once

#include <nibble/core/buffer.hpp>

#include <cstddef>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

// Grows to the largest request it has seen and never shrinks. One call at a time may use it, of any verb: its contents
// mean nothing between calls, so that an engine keeps one for gemm, attend and all others, made of the most that
// gemm_workspace_bytes and attend_workspace_bytes say, and one for each thread that calls verbs by itself. What was
// moved from is an empty one, which grows again.
class workspace {
public:
    workspace() noexcept = default;
    explicit workspace(std::size_t bytes, allocator from = {}) : from_(from), memory_(bytes, from) {}

    // At least `bytes` bytes on a 64-byte boundary; allocates only if it never held as many.
    [[nodiscard]] std::byte* reserve(std::size_t bytes) {
        if (bytes > memory_.size()) {
            memory_ = buffer(); // freed first: growing never holds both
            memory_ = buffer(bytes, from_);
        }
        return memory_.data();
    }
    [[nodiscard]] std::size_t size() const noexcept { return memory_.size(); }

private:
    allocator from_{};
    buffer memory_{};
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
