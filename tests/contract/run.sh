#!/usr/bin/env bash
# run.sh COMPILER FLAGS_RSP SOURCE WORK_DIR SKIPPED FLAGS...: see CMakeLists.txt.
set -euo pipefail
compiler=$1 rsp=$2 source=$3 work=$4 skipped=$5
shift 5
if [[ ! -f $source ]]; then
    echo "SKIPPED: $source does not exist"
    exit "$skipped"
fi
modes=(fast off)
if "$compiler" --version | grep -q clang; then modes+=(on); fi
cd "$work"
builds=()
for mode in "${modes[@]}"; do
    "$compiler" "@$rsp" -O2 "$@" "-ffp-contract=$mode" "$source" -o "$mode" -pthread &
    builds+=($!)
done
for build in "${builds[@]}"; do wait "$build"; done
for mode in "${modes[@]}"; do "./$mode" >"$mode.txt"; done
cat fast.txt
for mode in "${modes[@]:1}"; do
    if ! diff "fast.txt" "$mode.txt"; then
        echo "-ffp-contract=$mode computes other bits than -ffp-contract=fast"
        exit 1
    fi
done
echo "the same under -ffp-contract=${modes[*]}"
