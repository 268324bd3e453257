#!/usr/bin/env bash
# measure.sh COMPILER FLAGS_RSP SOURCE SKIPPED: compiles SOURCE up to three times at -O2; the fastest counts.
set -euo pipefail
compiler=$1 rsp=$2 source=$3 skipped=$4
bar=$(sed -n 's|^// bar: \([0-9.]*\) s.*|\1|p' "$source")
header=$(sed -n 's|^#include <\(nibble/[^>]*\)>.*|\1|p' "$source" | head -n 1)
if ! printf '#if !__has_include(<%s>)\n#error\n#endif\n' "$header" | "$compiler" "@$rsp" -E -x c++ - >/dev/null 2>&1; then
    echo "SKIPPED: no $header yet"
    exit "$skipped"
fi

TIMEFORMAT='%U %S'
best=
for _ in 1 2 3; do
    spent=$({ time "$compiler" "@$rsp" -O2 -c "$source" -o /dev/null; } 2>&1)
    if ! [[ ${spent##*$'\n'} =~ ^[0-9.]+\ [0-9.]+$ ]]; then echo "$spent"; exit 1; fi
    seconds=$(awk '{printf "%.2f", $1 + $2}' <<<"${spent##*$'\n'}")
    if [[ -z $best ]] || awk "BEGIN {exit !($seconds < $best)}"; then best=$seconds; fi
    if awk "BEGIN {exit !($best < $bar)}"; then break; fi
done
lines=$("$compiler" "@$rsp" -E -P "$source" | wc -l)
echo "${source##*/}: $best s (bar $bar s, fails at twice that), $lines lines after preprocessing"
awk "BEGIN {exit !($best < 2 * $bar)}"
