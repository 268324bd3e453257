#!/usr/bin/env bash
# tags.sh COMPILER INCLUDE_RSP CONFIG_HPP: see CMakeLists.txt. Reads core/config.hpp under every -march that the compiler knows,
# under single flags, and under those that kernels ask for one after the other.
set -euo pipefail
export LC_ALL=C
compiler=$1 rsp=$2 config=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
printf '%s\n' '#include <nibble/core/config.hpp>' \
    'outcome NIBBLE_ABI AVX2=NIBBLE_HAS_AVX2 AVX512VL=NIBBLE_HAS_AVX512VL AVX512=NIBBLE_HAS_AVX512 \' \
    'VNNI=NIBBLE_HAS_VNNI FMA=NIBBLE_HAS_FMA REGISTERS=NIBBLE_VECTOR_REGISTERS ZEN=NIBBLE_TUNED_FOR_ZEN' >"$work/source.cpp"

# Macros that say nothing of instructions or values; tests of the others follow from what the compiler defines.
untold=' __NO_MATH_ERRNO__ __CLANG_CUDA_APPROX_TRANSCENDENTALS__ '
# One line for a set of flags: NIBBLE_ABI, what kernels ask for, then the macros that are 1, but for names of processors. Nothing
# for flags that the compiler does not take.
outcome() {
    "$compiler" "@$rsp" "$@" -E -dD -P "$work/source.cpp" 2>/dev/null |
        awk -v untold="$untold" '
            $1 == "#define" && $3 == "1" && $2 ~ /^__[A-Za-z0-9_]*$/ && $2 ~ /[A-Z]/ && $2 !~ /^__STDC/ && index(untold, " " $2 " ") == 0 &&
                ($2 ~ /^__ARM_FEATURE_/ || $2 ~ /__$/) { macros = macros " " $2 }
            $1 == "outcome" { found = substr($0, 9) }
            END { if (found != "") print found " |" macros }' || true
}
# "valid arguments to '-march=' switch are: a b c" (GCC), "valid target CPU values are: a, b, c" (Clang).
known() {
    { "$compiler" "$@" -E -x c++ /dev/null 2>&1 || true; } | sed -n 's/.*valid.* are: //p' | sed 's/;.*//' | tr -s ' ,' '\n\n' | sort -u
}
# GCC lists its options; of Clang's there are those that go by the names of macros: -msse4.1 for __SSE4_1__, -mamx-tile for
# __AMX_TILE__.
if "$compiler" -Q --help=target >"$work/target" 2>/dev/null; then
    single=$(awk '$2 ~ /^\[(en|dis)abled\]$/ { print $1 }' "$work/target" | grep -vE '^-m(16|32|x32|iamcu|android|bionic|glibc|musl|uclibc|long-double.*|96.*|128.*)$')
else
    single=$(for name in $(grep -o '__[A-Za-z0-9_]*__' "$config" | sed 's/^__//; s/__$//' | tr A-Z a-z); do
        printf '%s\n' "-m${name//_/.}" "-m${name//_/-}"
    done | sort -u)
fi
kernels=(-mavx2 -mfma -mf16c -mavxvnni -mavx512f -mavx512bw -mavx512vl -mavx512vnni)
arithmetic=(-ffast-math -ffinite-math-only -fno-signed-zeros -freciprocal-math -fno-trapping-math -frounding-math -fsignaling-nans
    -funsafe-math-optimizations '-fassociative-math -fno-signed-zeros -fno-trapping-math' -mfpmath=387)
{
    for cpu in $(known -march=none); do
        case $cpu in native | i[3-7]86* | lakemont | pentium* | c3* | winchip* | athlon* | geode | k6* | prescott | samuel*) continue ;; esac
        outcome "-march=$cpu"
    done
    for flag in $single; do outcome -march=x86-64 "$flag"; done
    for flag in "${arithmetic[@]}"; do outcome -march=x86-64-v3 $flag; done
    for ((count = 1; count <= ${#kernels[@]}; ++count)); do outcome -march=x86-64 "${kernels[@]:0:count}"; done
    outcome -march=x86-64-v3 -mtune=znver3
} | sort -u >"$work/outcomes"
echo "$(wc -l <"$work/outcomes") sets of instruction sets and arithmetic, the longest tag: $(cut -d ' ' -f 1 "$work/outcomes" |
    awk '{ if (length($1) > length(longest)) longest = $1 } END { print longest }')"
if (($(cut -d ' ' -f 1 "$work/outcomes" | sort -u | wc -l) < 100)); then
    cat "$work/outcomes"
    echo "FAILED: fewer than 100 tags: the script does not understand this compiler"
    exit 1
fi
# One tag, one line.
awk '
    ($1 in line) {
        split(line[$1], parts, "|"); before = parts[2] " "
        split($0, parts, "|"); now = parts[2] " "
        missing = ""
        n = split(now, names, " "); for (i = 1; i <= n; ++i) if (index(before, " " names[i] " ") == 0) missing = missing " " names[i]
        n = split(before, names, " "); for (i = 1; i <= n; ++i) if (index(now, " " names[i] " ") == 0) missing = missing " " names[i]
        print $1 ": with and without" (missing == "" ? " other kernels: " $0 : missing)
        ++faults
    }
    { line[$1] = $0 }
    END { exit faults != 0 }' "$work/outcomes" | sort -u || {
    echo "FAILED: one tag (NIBBLE_ABI) for different instructions; add the macros to the lists in core/config.hpp"
    exit 1
}
