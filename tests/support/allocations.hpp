// allocations.hpp: how often the test program has called operator new.
#pragma once

#include <atomic>
#include <cstddef>

namespace nibble_test {

extern std::atomic<std::size_t> allocations;

} // namespace nibble_test
