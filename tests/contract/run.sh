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
name=$(basename "$source" .cpp)
builds=()
for mode in "${modes[@]}"; do
    # Of encoders' loops, those of -O3 too.
    level=-O2
    if [[ $mode == fast && $name == encoders ]]; then level=-O3; fi
    "$compiler" "@$rsp" "$level" "$@" "-ffp-contract=$mode" "$source" -o "$name-$mode" -pthread &
    builds+=($!)
done
for build in "${builds[@]}"; do wait "$build"; done
for mode in "${modes[@]}"; do "./$name-$mode" >"$name-$mode.txt"; done
cat "$name-fast.txt"
for mode in "${modes[@]:1}"; do
    if ! diff "$name-fast.txt" "$name-$mode.txt"; then
        echo "-ffp-contract=$mode computes other bits than -ffp-contract=fast"
        exit 1
    fi
done
echo "the same under -ffp-contract=${modes[*]}"
