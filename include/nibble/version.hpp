// version.hpp: the only place a version is written; CMake and pkg-config read it from here.
#pragma once

#define NIBBLE_VERSION_MAJOR 0
#define NIBBLE_VERSION_MINOR 1
#define NIBBLE_VERSION_PATCH 0
