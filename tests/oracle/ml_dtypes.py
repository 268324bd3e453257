"""Compares nibble's codecs with ml_dtypes (and NumPy's float16): every code decoded, every tie, boundary and special
value and millions of random fp32 patterns encoded.

    python3 ml_dtypes.py CODEC_STREAM [SAMPLES]

Exit code 77 (ctest: skipped) if ml_dtypes or NumPy is not installed.
"""

import importlib
import subprocess
import sys
from pathlib import Path

# This file has the module's name: its folder must not be searched for it.
sys.path = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]
try:
    import numpy as np

    ml_dtypes = importlib.import_module("ml_dtypes")
except ImportError as missing:
    print(f"SKIPPED: {missing} (pip install ml_dtypes)")
    sys.exit(77)

TOOL = sys.argv[1]
SAMPLES = int(sys.argv[2]) if len(sys.argv) > 2 else 2_000_000

# name: (bits, what ml_dtypes makes of values out of range)
FLOATS = {
    "float4_e2m1fn": (4, "saturate"),
    "float6_e2m3fn": (6, "saturate"),
    "float6_e3m2fn": (6, "saturate"),
    "float8_e3m4": (8, "special"),
    "float8_e4m3": (8, "special"),
    "float8_e4m3fn": (8, "special"),
    "float8_e4m3fnuz": (8, "special"),
    "float8_e4m3b11fnuz": (8, "special"),
    "float8_e5m2": (8, "special"),
    "float8_e5m2fnuz": (8, "special"),
    "float8_e8m0fnu": (8, "special"),
    "bfloat16": (16, "special"),
    "float16": (16, "special"),
}
INTEGERS = {"int2": 2, "int4": 4, "uint2": 2, "uint4": 4}


def tool(name, command, data, result):
    done = subprocess.run([TOOL, name, *command.split()], input=data.tobytes(), stdout=subprocess.PIPE, check=True)
    return np.frombuffer(done.stdout, dtype=result)


def oracle_type(name):
    return np.dtype(np.float16) if name == "float16" else np.dtype(getattr(ml_dtypes, name))


def raw(bits):
    return np.uint16 if bits == 16 else np.uint8


def same(a, b):
    return (a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))


def inputs(values):
    """Values, their midpoints, both with their neighbours, overflow, special values, random patterns."""
    finite = np.unique(values[np.isfinite(values)].astype(np.float64))
    beyond = finite[-1] + np.array([0.25, 0.5, 1.0, 2.0]) * (finite[-1] - finite[-2])
    points = np.concatenate([finite, (finite[1:] + finite[:-1]) / 2, beyond, -beyond])
    with np.errstate(over="ignore", under="ignore"):
        points = points.astype(np.float32)
    points = np.concatenate([points, np.nextafter(points, np.float32(np.inf)), np.nextafter(points, np.float32(-np.inf))])
    patterns = np.array([0, 1, 0x7FFFFF, 0x800000, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x7FC00000, 0x7FFFFFFF], dtype=np.uint32)
    rng = np.random.default_rng(2026)
    anything = rng.integers(0, 2**32, SAMPLES, dtype=np.uint32)
    # As many again in the binades of the format.
    low, high = np.abs(finite[finite != 0]).min(), np.abs(finite).max()
    near = np.exp2(rng.uniform(np.log2(low) - 3, min(np.log2(high) + 2, 127.9), SAMPLES)) * rng.choice([-1.0, 1.0], SAMPLES)
    return np.concatenate(
        [points, -points, patterns.view(np.float32), (patterns | 0x80000000).view(np.float32), anything.view(np.float32), near.astype(np.float32)]
    )


faults = 0


def compare(what, x, got, wanted, equal):
    global faults
    wrong = np.flatnonzero(~equal)
    print(f"{what}: {x.size} values, {wrong.size} differ")
    for i in wrong[:5]:
        print(f"    {x[i]!r}: nibble {got[i]!r}, ml_dtypes {wanted[i]!r}")
    faults += wrong.size


for name, (bits, policy) in FLOATS.items():
    dtype = oracle_type(name)
    codes = np.arange(2**bits, dtype=np.uint16)
    with np.errstate(invalid="ignore"):
        wanted = codes.astype(raw(bits)).view(dtype).astype(np.float32)
    got = tool(name, "decode", codes, np.float32)
    compare(f"{name} decode", codes, got, wanted, same(got, wanted))

    x = inputs(wanted)
    keep = np.ones(x.size, dtype=bool)
    if policy == "saturate":
        keep = ~np.isnan(x)  # no NaN code: nibble gives 0, ml_dtypes -0
    if name == "float8_e8m0fnu":
        # No sign, zero or infinity: nibble gives the nearest code (0 or 0xfe), ml_dtypes NaN. Of ties nibble gives the even
        # code, ml_dtypes the upper one; it also rounds all of (2^-127, 2^-126) up.
        tie = np.frexp(x)[0] == 0.75
        keep = np.isnan(x) | ((x >= np.float32(2.0**-126)) & (x <= np.float32(2.0**127)) & ~tie)
    x = x[keep]
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = x.astype(dtype).view(raw(bits)).astype(np.uint16)
    got = tool(name, f"encode {policy}", x, np.uint16)
    # Which NaN it is, and its sign, is each library's choice.
    with np.errstate(invalid="ignore"):
        nan = [np.isnan(c.astype(raw(bits)).view(dtype).astype(np.float32)) for c in (got, wanted)]
    compare(f"{name} encode {policy}", x, got, wanted, (got == wanted) | (nan[0] & nan[1]))

for name, bits in INTEGERS.items():
    dtype = oracle_type(name)
    codes = np.arange(2**bits, dtype=np.uint16)
    # ml_dtypes keeps the codes in whole bytes, those of negative numbers extended by their sign.
    integers = codes.astype(np.int64)
    if not name.startswith("u"):
        integers = np.where(integers >= 2 ** (bits - 1), integers - 2**bits, integers)
    wanted = integers.astype(np.int8).view(dtype).astype(np.float32)
    got = tool(name, "decode", codes, np.float32)
    compare(f"{name} decode", codes, got, wanted, same(got, wanted))
    # Encoding there truncates and wraps around; where both round the same way, on integers in range, they agree.
    wanted = (got.astype(dtype).astype(np.int64) & (2**bits - 1)).astype(np.uint16)
    compare(f"{name} encode", got, tool(name, "encode saturate", got, np.uint16), wanted, tool(name, "encode saturate", got, np.uint16) == wanted)

print(f"ml_dtypes {ml_dtypes.__version__}, NumPy {np.__version__}: {faults} differences")
sys.exit(1 if faults else 0)
