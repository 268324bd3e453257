// fwd.hpp: names only, for engine headers that must stay cheap.
#pragma once

#include <nibble/core/config.hpp>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

template <class T> class matrix_view;
class buffer;
class workspace;
class status;
struct serial;

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
