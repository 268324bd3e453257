#!/usr/bin/env bash
# hot_loops.sh COMPILER INCLUDE_RSP SOURCE WORK_DIR SKIPPED KNOWN FLAGS...: compiles the tiles and reads their innermost
# loops, those that multiply and have no other jump in them: none may touch the stack or move an integer through a vector
# register, which is how a compiler that has run out of registers shows itself. Such a loop is right, and up to twice as
# slow. A pointer for each of four panels may be read back from the stack: with a table of values GCC 12 does so where there
# are 16 registers, and two panels at a time were slower by a tenth to a fifth. Tuned for a Zen GCC 12 keeps up to four such
# pointers in vector registers: with products of 512 bits, one in a cycle there, moving them costs nothing.
set -euo pipefail
compiler=$1 rsp=$2 source=$3 work=$4 skipped=$5 known=$6
shift 6
if [[ $known != ON ]]; then
    echo "not one of the compilers whose loops are looked at"
    exit "$skipped"
fi
if ! command -v objdump >/dev/null; then
    echo "no objdump"
    exit "$skipped"
fi
if [[ $* == *native* ]] && ! "$compiler" "$@" -dM -E -x c++ /dev/null | grep __AVX2__ >/dev/null; then
    echo "no AVX2 on this machine"
    exit "$skipped"
fi
zen=0
if "$compiler" "$@" -dM -E -x c++ /dev/null | grep __znver >/dev/null; then zen=1; fi
# A compiler that does not know this machine's model tunes -march=native for none at all, and then keeps less in registers: read
# what it makes of the machine's instructions when it knows the model.
tuning=()
if [[ $* == *native* ]] && "$compiler" "$@" -Q --help=target 2>/dev/null | grep -E -- '-mtune=[[:space:]]+generic' >/dev/null; then
    model=$("$compiler" "$@" -Q --help=target | sed -n 's/^ *-march=[[:space:]]*\([a-z0-9-]\+\)[[:space:]]*$/\1/p')
    if [[ -n $model && $model != x86-64* ]]; then
        tuning=("-mtune=$model")
        echo "$* is $model tuned for no model: read with ${tuning[*]}"
    fi
fi
object=$work/tiles${*//[^a-z0-9]/_}.o
"$compiler" "@$rsp" -O3 "$@" "${tuning[@]}" -c "$source" -o "$object"
objdump -d --no-show-raw-insn -C "$object" | awk -v flags="$*" -v zen=$zen '
    function finish(    i, j, from, inner, hot, bad, what) {
        for (i = 1; i <= count; ++i) {
            if (target[i] == "" || !(target[i] in at) || at[target[i]] > i) continue
            from = at[target[i]]
            inner = 1
            for (j = from; j < i; ++j)
                if (target[j] != "") inner = 0
            if (!inner) continue
            hot = 0; bad = 0; reloads = 0; what = ""
            for (j = from; j <= i; ++j) {
                if (text[j] ~ /vpmaddubsw|vpmaddwd|vpdpbusd|vfn?m(add|sub)/) ++hot
                if (text[j] ~ /\tmov +-?[0-9a-fx]*\(%rsp\),%r/ && ++reloads <= 4) continue
                if (zen && text[j] ~ /\tvmovq +%(xmm[0-9]+,%r|r[a-z0-9]+,%xmm)/ && ++reloads <= 4) continue
                if (text[j] ~ /\(%rsp/ || text[j] ~ /vmovq .*%xmm.*%r|vmovq .*%r.*%xmm/) { ++bad; what = what "\n        " text[j] }
            }
            if (hot < 2) continue
            ++loops
            if (bad) { ++faults; print "in " name ":\n    a loop of " (i - from + 1) " instructions, " bad " of them:" what }
        }
        count = 0; delete at; delete target; delete text
    }
    /^[0-9a-f]+ <.*>:$/ { finish(); name = $0; sub(/^[0-9a-f]+ </, "", name); sub(/>:$/, "", name); next }
    /^ *[0-9a-f]+:\t/ {
        ++count
        address = $1; sub(/:$/, "", address)
        at[address] = count
        text[count] = $0
        target[count] = $2 ~ /^j/ ? $3 : ""
    }
    END {
        finish()
        print flags ": " loops + 0 " innermost loops that multiply, " faults + 0 " of them out of registers"
        if (loops < 18) { print "FAILED: fewer loops than tiles: the script does not understand this code"; exit 1 }
        if (faults) { print "FAILED"; exit 1 }
    }'
