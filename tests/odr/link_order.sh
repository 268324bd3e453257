#!/usr/bin/env bash
# link_order.sh COMPILER INCLUDE_RSP SOURCE_DIR WORK_DIR: see CMakeLists.txt.
set -euo pipefail
compiler=$1 rsp=$2 source=$3 work=$4
mkdir -p "$work"
cd "$work"

"$compiler" "@$rsp" -O2 -march=x86-64 -DENTRY=run_baseline -c "$source/kernels.cpp" -o baseline.o &
first=$!
"$compiler" "@$rsp" -O2 -march=x86-64 -mavx2 -mfma -mf16c -DENTRY=run_avx2 -c "$source/kernels.cpp" -o avx2.o
wait $first
"$compiler" "@$rsp" -O2 -march=x86-64 -c "$source/program.cpp" -o program.o
"$compiler" program.o baseline.o avx2.o -o baseline_first
"$compiler" program.o avx2.o baseline.o -o avx2_first
./baseline_first | tee baseline_first.txt
./avx2_first | tee avx2_first.txt
cmp baseline_first.txt avx2_first.txt
