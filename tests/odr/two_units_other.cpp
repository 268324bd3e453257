// two_units_other.cpp: the second unit of two_units.cpp.
#include <nibble/nibble.hpp>

const void* handler_seen_by_the_other_unit();
const void* handler_seen_by_the_other_unit() {
    return &nibble::detail::current_failure_handler;
}
