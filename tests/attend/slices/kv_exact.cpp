// kv_exact.cpp: keys and values as they are.
#include "support/kv_pair.hpp"
#include "support/kv_pair_slice.hpp"

#include <nibble/scheme/formats.hpp>

namespace attend_test {

const kv_pair& exact_pair() {
    using f32 = nibble::named_format<"f32", nibble::f32_plain>;
    static const kv_pair_of<f32, f32, false, false> pair;
    return pair;
}

} // namespace attend_test
