#!/usr/bin/env bash
# check_tidy.sh SOURCE INCLUDE_RSP SKIPPED FLAGS...: clang-tidy 16 finds nothing in the headers that SOURCE includes, by the checks of
# .clang-tidy. Other versions have other checks; without it the test is skipped.
set -euo pipefail
source=$1 rsp=$2 skipped=$3
shift 3
tool=$(command -v clang-tidy-16 || command -v clang-tidy || true)
if [[ -z $tool ]] || ! "$tool" --version | grep -E 'version 16\.' >/dev/null; then
    echo "SKIPPED: no clang-tidy 16 (Debian and Ubuntu: apt-get install clang-tidy-16)"
    exit "$skipped"
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mapfile -t include <"$rsp"
"$tool" --quiet "--config-file=$root/.clang-tidy" "$source" -- -xc++ "${include[@]}" "$@"
echo "nothing found"
