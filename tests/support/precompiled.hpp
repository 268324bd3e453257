// precompiled.hpp: what every test reads and no change of nibble's touches, compiled once: a second of each file's
// compilation. Tests include what they use all the same.
#pragma once

#include "support/catch.hpp"

#include <algorithm>
#include <functional>
#include <memory>
#include <span>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif
