// broken_file.hpp: a file that must be refused, and the whole sentence that must say so.
#pragma once

#include "io_support.hpp"

#include <nibble/core/status.hpp>

#include <string>

namespace nibble_test {

struct broken_file {
    const char* what;
    bytes file;
    nibble::status_code code;
    std::string message; // "<field> at byte <offset>: <why>"; the reader puts its format's name in front
};

} // namespace nibble_test
