#!/usr/bin/env bash
# check_format.sh ROOT SKIPPED: every C++ file of the tree is as clang-format 16 leaves it. Other versions differ; without it the
# test is skipped.
set -euo pipefail
root=$1 skipped=$2
tool=$(command -v clang-format-16 || command -v clang-format || true)
if [[ -z $tool ]] || ! "$tool" --version | grep -E 'version 16\.' >/dev/null; then
    echo "SKIPPED: no clang-format 16 (Debian and Ubuntu: apt-get install clang-format-16)"
    exit "$skipped"
fi
cd "$root"
# Macros that are hostile on purpose keep their order, and what must not compile its lines.
find include tests bench examples \( -name '*.hpp' -o -name '*.cpp' \) ! -path tests/headers/hostile.hpp ! -path "tests/fail/*" -print0 |
    xargs -0 "$tool" --dry-run -Werror
echo "as clang-format 16 leaves them"
