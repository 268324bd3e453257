"""Compares nibble's codecs with ml_dtypes, type by type as ml_dtypes lists them, and with NumPy's float16: every code decoded;
every value, tie and boundary with its neighbours, special values, and at least ten million fp32 patterns encoded.

    python3 ml_dtypes.py CODEC_STREAM [PATTERNS]

A type of ml_dtypes that this file does not map is a failure. Where the two libraries mean different things, the difference is
written down below, and ml_dtypes is held to its side of it before its answer is mapped to nibble's. Exit code 77 (ctest:
skipped) if ml_dtypes or NumPy is not installed.
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
VERSION = tuple(int(part) for part in ml_dtypes.__version__.split(".")[:2])
PATTERNS = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000_000

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
    "float8_e5m3fnu": (8, "special"),
    "float8_e8m0fnu": (8, "special"),
    "bfloat16": (16, "special"),
    "float16": (16, "special"),  # NumPy's
}
# name: bits. ml_dtypes truncates and then wraps around; within the range that is nibble's toward_zero.
INTEGERS = {"int2": 2, "int4": 4, "uint2": 2, "uint4": 4}
# One bit: nibble's element is binary, -1 or +1. name: binary's value of an integer v.
BITS = {"uint1": lambda v: 2 * v - 1, "int1": lambda v: -2 * v - 1}
# Pairs of a real and an imaginary part, each of which is bfloat16 or float16 above.
PAIRS = {"bcomplex32", "complex32"}

faults = 0
lines = []


def types_of_ml_dtypes():
    def is_type(value):
        return isinstance(value, type) and issubclass(value, np.generic)

    return {name for name in dir(ml_dtypes) if is_type(getattr(ml_dtypes, name)) or is_dtype(getattr(ml_dtypes, name))}


def is_dtype(value):
    try:
        return isinstance(value, type) and np.dtype(value).kind != "O"
    except TypeError:
        return False


def tool(name, command, data, result):
    done = subprocess.run([TOOL, name, *command.split()], input=data.tobytes(), stdout=subprocess.PIPE, check=True)
    return np.frombuffer(done.stdout, dtype=result)


def oracle_type(name):
    return np.dtype(np.float16) if name == "float16" else np.dtype(getattr(ml_dtypes, name))


def raw(bits):
    return np.uint16 if bits == 16 else np.uint8


def same(a, b):
    return (a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))


rng = np.random.default_rng(2026)
ANYTHING = rng.integers(0, 2**32, PATTERNS // 2, dtype=np.uint32).view(np.float32)
MANTISSAS = rng.integers(0, 2**32, PATTERNS - PATTERNS // 2, dtype=np.uint32) & np.uint32(0x807FFFFF)
STEPS = rng.integers(0, 2**31, PATTERNS - PATTERNS // 2, dtype=np.uint32)
UNIT = rng.random(PATTERNS, dtype=np.float32)


def inputs(values):
    """Values, their midpoints, both with two neighbours on either side, overflow, special values, and PATTERNS others."""
    finite = np.unique(values[np.isfinite(values)].astype(np.float64))
    beyond = finite[-1] + np.array([0.25, 0.5, 1.0, 2.0]) * (finite[-1] - finite[-2])
    points = np.concatenate([finite, (finite[1:] + finite[:-1]) / 2, beyond, -beyond])
    up, down = np.float32(np.inf), np.float32(-np.inf)
    with np.errstate(all="ignore"):
        points = points.astype(np.float32)
        one_up, one_down = np.nextafter(points, up), np.nextafter(points, down)
        points = np.concatenate([points, one_up, one_down, np.nextafter(one_up, up), np.nextafter(one_down, down)])
    patterns = [0, 1, 2, 0x200000, 0x400000, 0x400001, 0x600000, 0x7FFFFF, 0x800000, 0x800001, 0x3F7FFFFF, 0x3F800000]
    patterns += [0x7F000000, 0x7F400000, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x7FBFFFFF, 0x7FC00000, 0x7FFFFFFF]
    patterns = np.array(patterns, dtype=np.uint32)
    # Half of the others lie in the binades of the format and two beyond each end.
    low = max(int(np.frexp(np.abs(finite[finite != 0]).min())[1]) + 126 - 2, 0)
    high = min(int(np.frexp(np.abs(finite).max())[1]) + 126 + 2, 254)
    fields = np.uint32(low) + STEPS % np.uint32(high - low + 1)
    in_range = (MANTISSAS | (fields << np.uint32(23))).view(np.float32)
    special = np.concatenate([patterns, patterns | 0x80000000]).view(np.float32)
    return np.concatenate([points, -points, special, ANYTHING, in_range])


def compare(what, x, got, wanted, equal):
    global faults
    wrong = np.flatnonzero(~equal)
    lines.append((what, x.size, wrong.size))
    print(f"{what}: {x.size} values, {wrong.size} differ", flush=True)
    for i in wrong[:5]:
        print(f"    {x[i]!r}: nibble {got[i]!r}, ml_dtypes {wanted[i]!r}")
    faults += wrong.size


def map_codes(name, what, codes, where, theirs, ours):
    """Where the libraries differ by intent: ml_dtypes must say `theirs`, one of them, and nibble must say `ours`."""
    global faults
    broken = np.count_nonzero(~np.isin(codes[where], theirs))
    if broken:
        print(f"{name}: ml_dtypes says something new of {what}, {broken} times")
        faults += broken
    codes[where] = ours


def map_negative(name, codes, x):
    # Without a sign, ml_dtypes has NaN for what is below zero, nibble zero.
    if name == "float8_e5m3fnu":
        map_codes(name, "negative values", codes, x < 0, [255], 0)


def check_float(name, bits, policy):
    dtype = oracle_type(name)
    codes = np.arange(2**bits, dtype=np.uint16)
    with np.errstate(invalid="ignore"):
        values = codes.astype(raw(bits)).view(dtype).astype(np.float32)
    got = tool(name, "decode", codes, np.float32)
    compare(f"{name} decode", codes, got, values, same(got, values))

    def is_nan(c):
        with np.errstate(invalid="ignore"):
            return np.isnan(values)[c]

    x = inputs(values)
    with np.errstate(all="ignore"):
        wanted = x.astype(dtype).view(raw(bits)).astype(np.uint16)
    mode = policy
    if policy == "saturate":
        # Without a code for NaN nibble gives 0, ml_dtypes a zero that may have a sign.
        map_codes(name, "NaN", wanted, np.isnan(x), [0, 2 ** (bits - 1)], 0)
    if name == "float8_e8m0fnu":
        # Ties: ml_dtypes goes up, which is nibble's half_up. It has NaN for what has no logarithm or is too large, nibble the
        # nearest code. Of (2^-127, 1.5 x 2^-127) it gave the upper code before 0.7, nibble gives the nearer.
        mode = "special half_up"
        map_codes(name, "zero and negative values", wanted, x <= 0, [255], 0)
        map_codes(name, "values beyond the largest", wanted, x >= np.float32(1.5 * 2.0**127), [255], 254)
        smallest = (x > np.float32(2.0**-127)) & (x < np.float32(1.5 * 2.0**-127))
        map_codes(name, "values next to the smallest", wanted, smallest, [1] if VERSION < (0, 7) else [0], 0)
    map_negative(name, wanted, x)
    got = tool(name, f"encode {mode}", x, np.uint16)
    # Which NaN it is, and its sign, is each library's choice.
    compare(f"{name} encode {mode}", x, got, wanted, (got == wanted) | (is_nan(got) & is_nan(wanted)))

    if policy == "special" and name != "float8_e8m0fnu":
        # Saturation is not ml_dtypes' way; its answer to the value clipped to the range is what it would be. Fewer patterns:
        # only values out of range differ from the above.
        x = x[: x.size - (PATTERNS - PATTERNS // 8)]
        top = np.abs(values[np.isfinite(values)]).max()
        with np.errstate(all="ignore"):
            wanted = np.clip(x, -top, top).astype(dtype).view(raw(bits)).astype(np.uint16)
        map_negative(name, wanted, x)
        got = tool(name, "encode saturate", x, np.uint16)
        compare(f"{name} encode saturate", x, got, wanted, (got == wanted) | (is_nan(got) & is_nan(wanted)))


def check_integer(name, bits):
    dtype = oracle_type(name)
    mask = 2**bits - 1
    codes = np.arange(2**bits, dtype=np.uint16)
    # ml_dtypes keeps the codes in whole bytes, those of negative numbers extended by their sign.
    integers = codes.astype(np.int64)
    if not name.startswith("u"):
        integers = np.where(integers >= 2 ** (bits - 1), integers - 2**bits, integers)
    wanted = integers.astype(np.int8).view(dtype).astype(np.float32)
    got = tool(name, "decode", codes, np.float32)
    compare(f"{name} decode", codes, got, wanted, same(got, wanted))
    x = in_range_of(int(integers.min()), int(integers.max()))
    wanted = (x.astype(dtype).astype(np.int64) & mask).astype(np.uint16)
    got = tool(name, "encode saturate toward_zero", x, np.uint16)
    compare(f"{name} encode saturate toward_zero", x, got, wanted, got == wanted)


def in_range_of(low, high):
    """PATTERNS values and more that truncate to integers from low to high: around every half of one, and random patterns."""
    x = inputs(np.arange(low - 1, high + 2).astype(np.float32) / 2)
    x = np.concatenate([x, np.float32(low - 1) + UNIT * np.float32(high - low + 2)])
    with np.errstate(invalid="ignore"):
        return x[(np.trunc(x) >= low) & (np.trunc(x) <= high)]


def check_bit(name, value_of):
    dtype = oracle_type(name)
    codes = np.array([0, 1], dtype=np.uint16)
    integers = codes.astype(np.int8) * (1 if name.startswith("u") else -1)
    wanted = value_of(integers.view(dtype).astype(np.float32))
    got = tool(name, "decode", codes, np.float32)
    compare(f"{name} decode, as binary", codes, got, wanted, same(got, wanted))
    # Truncation jumps at +-1, binary at 0.
    x = in_range_of(0, 1) if name.startswith("u") else in_range_of(-1, 0)
    wanted = np.abs(x.astype(dtype).astype(np.int64)).astype(np.uint16)
    with np.errstate(all="ignore"):
        moved = np.abs(x) - np.float32(1) if name.startswith("u") else -x - np.float32(1)
    got = tool(name, "encode saturate toward_zero", moved.astype(np.float32), np.uint16)
    compare(f"{name} encode, as binary", x, got, wanted, got == wanted)


known = set(FLOATS) | set(INTEGERS) | set(BITS) | PAIRS
found = types_of_ml_dtypes()
for name in sorted(found - known):
    print(f"{name}: a type of ml_dtypes that nibble has no mapping for")
    faults += 1
absent = sorted(known - found - {"float16"})
for name in absent:
    print(f"{name}: not in this ml_dtypes, not compared")

for name, (bits, policy) in FLOATS.items():
    if name not in absent:
        check_float(name, bits, policy)
for name, bits in INTEGERS.items():
    if name not in absent:
        check_integer(name, bits)
for name, value_of in BITS.items():
    if name not in absent:
        check_bit(name, value_of)

for what, count, wrong in lines:
    if "encode" in what and not what.endswith("encode saturate") and count < PATTERNS:
        print(f"{what}: only {count} values, not {PATTERNS}")
        faults += 1
total = sum(count for _, count, _ in lines)
print(f"ml_dtypes {ml_dtypes.__version__}, NumPy {np.__version__}: {total} comparisons, {faults} differences")
sys.exit(1 if faults else 0)
