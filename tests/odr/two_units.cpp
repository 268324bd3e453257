// two_units.cpp: includes everything, beside a second unit that does so too.
#include <nibble/nibble.hpp>

#include <cstdio>

const void* handler_seen_by_the_other_unit();

int main() {
    // One program, one failure handler: both units must name the same variable.
    const void* here = &nibble::detail::current_failure_handler;
    if (here == handler_seen_by_the_other_unit()) return 0;
    std::puts("the two units have two failure handlers");
    return 1;
}
