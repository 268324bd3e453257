#!/usr/bin/env bash
# instruction_sets.sh COMPILER INCLUDE_RSP SOURCE_DIR WORK_DIR: see CMakeLists.txt.
set -euo pipefail
compiler=$1 rsp=$2 source=$3 work=$4
baseline=(-march=x86-64)
avx2=(-march=x86-64 -mavx2 -mfma -mf16c)
cd "$work"

# Names with a definition that the linker may take from either object: weak functions and variables, unique globals.
weak() { nm --defined-only --format=posix "$1" | awk '$2 ~ /^[VWuvw]$/ {print $1}' | LC_ALL=C sort -u; }

# Expected in both: what belongs to the standard library, to xsimd or to the compiler, with no type of nibble's in its
# name. A program that chooses among instruction sets at run time takes the baseline's copy of these by linking the
# baseline first.
allowed='^(_ZZ?N?K?R?S[tabisod]|_ZN?K?9__gnu_cxx|_ZN?K?5xsimd|_Z(TI|TS|TV)[NK]*(St|5xsimd)|_Zn[wa]|_Zd[la]|DW\.ref\.|__clang_call_terminate$)'

faults=0
for level in -O0 -O2; do
    "$compiler" "@$rsp" $level "${baseline[@]}" -DENTRY=run_baseline -c "$source/kernels.cpp" -o "baseline$level.o" &
    first=$!
    "$compiler" "@$rsp" $level "${avx2[@]}" -DENTRY=run_avx2 -c "$source/kernels.cpp" -o "avx2$level.o"
    wait $first
    weak "baseline$level.o" >baseline.txt
    weak "avx2$level.o" >avx2.txt
    LC_ALL=C comm -12 baseline.txt avx2.txt >shared.txt
    # An allowed name must still not mention a nibble type: 6nibble is how `nibble` is written in a mangled name.
    grep -E "$allowed" shared.txt | grep -v 6nibble >expected.txt || true
    LC_ALL=C comm -23 shared.txt expected.txt >unexpected.txt
    echo "$level: $(wc -l <baseline.txt) weak symbols for the baseline, $(wc -l <avx2.txt) for AVX2;" \
        "in both, as expected: $(wc -l <expected.txt)"
    c++filt <expected.txt | cut -c1-150 | sed 's/^/    /'
    if [[ -s unexpected.txt ]]; then
        echo "$level: in both, and not expected:"
        c++filt <unexpected.txt | sed 's/^/    /'
        faults=1
    fi
done
if ((faults)); then
    echo "FAILED: the linker keeps one of each, compiled for either instruction set"
    exit 1
fi

"$compiler" "@$rsp" "${baseline[@]}" "$source/program.cpp" baseline-O2.o avx2-O2.o -o baseline_first
"$compiler" "@$rsp" "${baseline[@]}" "$source/program.cpp" avx2-O2.o baseline-O2.o -o avx2_first
./baseline_first | tee baseline_first.txt
./avx2_first | tee avx2_first.txt
cmp baseline_first.txt avx2_first.txt
