#!/usr/bin/env bash
# build.sh: what a Makefile would do; $CXX, $CXXFLAGS and $PKG_CONFIG come from the caller.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
read -r -a flags <<<"${CXXFLAGS:-} $("${PKG_CONFIG:-pkg-config}" --cflags --libs nibble)"
"${CXX:-c++}" -std=c++20 "$here/../main.cpp" "${flags[@]}" -o pkg_config_consumer
./pkg_config_consumer
