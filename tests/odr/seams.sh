#!/usr/bin/env bash
# seams.sh COMPILER INCLUDE_RSP SOURCE_DIR WORK_DIR: with seams the unit that multiplies has no tile in it, and the program
# computes what it should.
set -euo pipefail
compiler=$1 rsp=$2 source=$3 work=$4
"$compiler" "@$rsp" -O0 -c "$source/seams.cpp" -o "$work/seams.o"
if nm -C "$work/seams.o" | grep -E '(integer|real)_tile|prepare_block|attention_task' | grep -v ' U '; then
    echo "FAILED: these were to be compiled in seams_kernels.cpp alone"
    exit 1
fi
"$compiler" "@$rsp" -O0 -c "$source/seams_kernels.cpp" -o "$work/seams_kernels.o"
"$compiler" "$work/seams.o" "$work/seams_kernels.o" -o "$work/seams"
"$work/seams"
