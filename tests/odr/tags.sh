#!/usr/bin/env bash
# tags.sh COMPILER INCLUDE_RSP: see CMakeLists.txt. Reads core/config.hpp under every combination of the flags below.
set -euo pipefail
compiler=$1 rsp=$2
flags=(-mavx2 -mfma -mf16c -mavxvnni -mavx512f -mavx512bw -mavx512vl -mavx512vnni)

outcome() {
    printf '%s\n' '#include <nibble/core/config.hpp>' \
        'outcome NIBBLE_ABI AVX2=NIBBLE_HAS_AVX2 AVX512VL=NIBBLE_HAS_AVX512VL AVX512=NIBBLE_HAS_AVX512' \
        'outcome VNNI=NIBBLE_HAS_VNNI FMA=NIBBLE_HAS_FMA REGISTERS=NIBBLE_VECTOR_REGISTERS ZEN=NIBBLE_TUNED_FOR_ZEN' |
        "$compiler" "@$rsp" "$@" -E -P -x c++ - | sed -n 's/^outcome //p' | paste -s -d ' '
}
outcomes=$({
    for ((set = 0; set < 1 << ${#flags[@]}; ++set)); do
        given=()
        for ((i = 0; i < ${#flags[@]}; ++i)); do
            if ((set >> i & 1)); then given+=("${flags[i]}"); fi
        done
        outcome -march=x86-64 "${given[@]}"
    done
    outcome -march=x86-64-v3
    outcome -march=znver3
} | LC_ALL=C sort -u)
echo "$outcomes"
if (($(wc -l <<<"$outcomes") < 6)); then
    echo "FAILED: fewer outcomes than instruction sets: the script does not understand this compiler"
    exit 1
fi
twice=$(cut -d ' ' -f 1 <<<"$outcomes" | uniq -d)
if [[ -n $twice ]]; then
    echo "FAILED: one tag for different kernels: $twice"
    exit 1
fi
