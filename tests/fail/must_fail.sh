#!/usr/bin/env bash
# must_fail.sh COMPILER FLAGS_RSP SOURCE: see CMakeLists.txt.
set -euo pipefail
compiler=$1 rsp=$2 source=$3

mapfile -t expected < <(sed -n 's|^// expect: ||p' "$source")
read -r -a flags < <(sed -n 's|^// flags: ||p' "$source"; echo)
if ((${#expected[@]} == 0)); then
    echo "$source has no line '// expect: <regular expression>'"
    exit 1
fi
if output=$("$compiler" "@$rsp" "${flags[@]}" -fsyntax-only "$source" 2>&1); then
    echo "$source compiles, and must not"
    exit 1
fi
for pattern in "${expected[@]}"; do
    if ! grep -Eq -- "$pattern" <<<"$output"; then
        echo "$source fails to compile, but the output does not match: $pattern"
        echo "$output"
        exit 1
    fi
done
grep -E -m1 'error' <<<"$output"
