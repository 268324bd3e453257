#!/usr/bin/env bash
# instruction_sets.sh COMPILER INCLUDE_RSP SOURCE_DIR WORK_DIR: see CMakeLists.txt.
set -euo pipefail
export LC_ALL=C
compiler=$1 rsp=$2 source=$3 work=$4
baseline=(-march=x86-64)
v3=(-march=x86-64-v3)
# The most that the compiler knows and that differs from x86-64-v3 in what it may emit anywhere: BMI, VBMI, masks, 32 registers.
best=(-march=icelake-server)
cd "$work"
rm -f before.txt

compile() { # NAME LEVEL [FLAGS]: into NAME-LEVEL.o, whose only function of its own is run_NAME
    local -n flags=$1
    "$compiler" "@$rsp" "$2" "${flags[@]}" ${3:-} "-DENTRY=run_$1" -c "$source/kernels.cpp" -o "$1$2.o"
}
# Two at a time.
part=-DNIBBLE_TEST_A_PART
compile baseline -O0 &
other=$!
compile v3 -O0
wait $other
compile baseline -O2 $part &
other=$!
compile v3 -O2 $part
wait $other
{ compile v3 -Og $part && compile best -O0 $part; } &
other=$!
compile v3 -Os $part
wait $other

# Names with a definition that the linker may take from either object: weak functions and variables, unique globals.
weak() { nm --defined-only --format=posix "$1" | awk '$2 ~ /^[VWuvw]$/ {print $1}' | sort -u; }
# Without a type of nibble's in their names (6nibble, as it is written there), and so the same under any flags. Only these may be:
#   DW.ref.*                 a pointer to the runtime's handler of exceptions; no code
#   __clang_call_terminate   Clang's call of std::terminate from what is noexcept: it calls two functions and does nothing else
allowed='^(DW\.ref\..*|__clang_call_terminate)$'
faults=0
for object in v3-O0 v3-Og v3-Os v3-O2 best-O0; do
    weak "$object.o" >all.txt
    grep -v 6nibble all.txt | grep -vE "$allowed" >unexpected.txt || true
    echo "$object: $(wc -l <all.txt) weak symbols"
    if [[ -s unexpected.txt ]]; then
        echo "$object: not of this library:"
        c++filt <unexpected.txt | cut -c1-200 | sed 's/^/    /'
        faults=1
    fi
    # What is allowed has no code, or none that a baseline processor does not know: no instruction of AVX begins without a v, no
    # mask register is %k.
    objdump -d --no-show-raw-insn -j '.text.__clang_call_terminate' "$object.o" 2>/dev/null >allowed.txt || true
    if grep -E $'\t''v[a-z0-9]+ |%[xyz]mm|%k[0-7]' allowed.txt; then
        echo "$object: __clang_call_terminate has instructions that the baseline lacks"
        faults=1
    fi
done
# And those of different flags have no name in common, with a type of nibble's in it or without.
for pair in "baseline-O0 v3-O0" "baseline-O2 v3-O2" "v3-O0 best-O0"; do
    set -- $pair
    weak "$1.o" >one.txt
    weak "$2.o" >two.txt
    comm -12 one.txt two.txt | grep -vE "$allowed" >shared.txt || true
    if [[ -s shared.txt ]]; then
        echo "$1 and $2: in both:"
        c++filt <shared.txt | cut -c1-200 | sed 's/^/    /'
        faults=1
    fi
done
if ((faults)); then
    echo "FAILED: the linker keeps one of each, compiled for either instruction set"
    exit 1
fi

# The program runs the baseline's part, then that of x86-64-v3 where the machine has it: the same bits, whichever object is first on
# the linker's line. The first part alone must do on a processor of 2008.
emulator=$(command -v qemu-x86_64 || command -v qemu-x86_64-static || true)
for level in -O0 -Og -Os -O2; do
    old=baseline-O2.o
    if [[ $level == -O0 ]]; then old=baseline-O0.o; else rm -f before.txt; fi
    "$compiler" "@$rsp" "${baseline[@]}" "$source/program.cpp" $old v3$level.o -o baseline_first
    "$compiler" "@$rsp" "${baseline[@]}" "$source/program.cpp" v3$level.o $old -o v3_first
    for program in baseline_first v3_first; do
        ./$program >$program.txt
        echo "$level, $program: $(paste -s -d ' ' $program.txt)"
        if [[ -e before.txt ]]; then cmp before.txt $program.txt; fi
        mv $program.txt before.txt
        if [[ -n $emulator ]]; then
            "$emulator" -cpu Nehalem ./$program >old.txt
            cmp <(head -n 1 before.txt) old.txt
        fi
    done
done
rm -f before.txt
if [[ -z $emulator ]]; then echo "not run on an older processor: there is no qemu-x86_64"; fi
