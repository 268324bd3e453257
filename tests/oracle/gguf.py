"""Compares nibble's GGUF tensor types with Python's gguf package: random and extreme blocks decoded, the plain encoders byte
for byte, files written by each and read by the other, and products of weights that nibble read from the package's files.

    python3 gguf.py GGML_STREAM GGML_PRODUCT

Exit code 77 (ctest: skipped) if gguf or NumPy is not installed.
"""

import importlib
import subprocess
import sys
import tempfile
from pathlib import Path

# This file has the package's name: its folder must not be searched for it.
sys.path = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]
try:
    import numpy as np

    gguf = importlib.import_module("gguf")
    quants = importlib.import_module("gguf.quants")
except ImportError as missing:
    print(f"SKIPPED: {missing} (pip install gguf)")
    sys.exit(77)

STREAM, PRODUCT = sys.argv[1], sys.argv[2]
TYPES = gguf.GGMLQuantizationType
# Where a block has fp16 numbers.
HALVES = {
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
    "IQ4_NL": [0],
    "IQ4_XS": [0],
    "TQ1_0": [52],
    "TQ2_0": [64],
    "MXFP4": [],
    "NVFP4": [],
}
ENCODED = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4"]
SPECIAL_HALVES = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x3C00, 0xBC00, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7C01, 0x7E00, 0xFE00]

rng = np.random.default_rng(2026)
faults = 0


def known(name):
    return hasattr(TYPES, name)


def tool(program, *arguments, data=b""):
    return subprocess.run([program, *map(str, arguments)], input=data, stdout=subprocess.PIPE, check=True).stdout


def report(what, wrong, count, example=""):
    global faults
    print(f"{what}: {count} compared, {wrong} differ{example if wrong else ''}")
    faults += int(wrong)


def same(a, b):
    return (a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))


def random_blocks(name, count):
    block, size = gguf.GGML_QUANT_SIZES[TYPES[name]]
    data = rng.integers(0, 256, (count, size), dtype=np.uint8)
    for at in HALVES[name]:
        # A third each: any bits, special values, ordinary ones.
        kind = rng.integers(0, 3, count)
        half = data[:, at].astype(np.uint16) | data[:, at + 1].astype(np.uint16) << 8
        half = np.where(kind == 1, rng.choice(np.array(SPECIAL_HALVES, dtype=np.uint16), count), half)
        half = np.where(kind == 2, rng.normal(0, 0.1, count).astype(np.float16).view(np.uint16), half)
        data[:, at], data[:, at + 1] = half & 0xFF, half >> 8
    # All codes everywhere, and none.
    data[0, :], data[1, :] = 0x00, 0xFF
    for i, byte in enumerate([0x88, 0x77, 0x55, 0xAA, 0x0F, 0xF0]):
        data[2 + i, :] = byte
    return data


def package_decode(name, data):
    with np.errstate(all="ignore"):
        return quants.dequantize(data, TYPES[name]).astype(np.float32)


for name in HALVES:
    if not known(name):
        print(f"{name}: not in this version of the package")
        continue
    data = random_blocks(name, 8192)
    if name == "MXFP4":
        # There 2^128, in OCP MX and here NaN.
        data[data[:, 0] == 0xFF, 0] = 0xFE
        data[8:270, 0] = np.arange(262) % 255
    if name == "NVFP4":
        # The highest bit of a scale means nothing; with it, 0x7f is not a number there that could be written here.
        scales = data[:, :4]
        scales[scales == 0xFF] = 0x7F
        data[8:264, 0] = np.arange(256) % 255
    wanted = package_decode(name, data)
    got = np.frombuffer(tool(STREAM, name, "decode", data=data.tobytes()), np.float32).reshape(wanted.shape)
    equal = same(got, wanted)
    if name in ("MXFP4", "NVFP4"):
        # Code 8 is -0 here, +0 there.
        equal |= (got == 0) & (wanted == 0)
    wrong = np.argwhere(~equal)
    report(f"{name} decode", len(wrong), wanted.size, f", first in block {wrong[0]}: {got[tuple(wrong[0])]!r}, package {wanted[tuple(wrong[0])]!r}" if len(wrong) else "")


def values(block):
    """Rows of all kinds, in whole blocks."""
    parts = [
        rng.normal(0, 1, (2000, block)),
        rng.laplace(0, 1e-2, (1000, block)),
        rng.normal(0, 1, (1000, block)) * 10.0 ** rng.integers(-6, 5, (1000, 1)),
        rng.integers(-8, 9, (1000, block)) * 0.25,  # ties, equal magnitudes, whole numbers of steps
        rng.integers(-1, 2, (500, block)) * rng.uniform(0.1, 3, (500, 1)),
        rng.uniform(1, 2, (500, block)),
        -rng.uniform(1, 2, (500, block)),
        np.zeros((2, block)),
        np.full((2, block), 0.7),
        rng.normal(0, 1, (200, block)) * 1e5,  # d beyond fp16 in some
        rng.normal(0, 1, (200, block)) * 2e-8,  # d subnormal or 0 in fp16
    ]
    all_kinds = np.concatenate(parts).astype(np.float32)
    # bf16 weights, as models have them: their quotients often are ties, which one rounding more or less decides.
    weights = rng.normal(0, 0.02, (2**19 // block, block)).astype(np.float32).view(np.uint32)
    weights = (weights + 0x7FFF + (weights >> 16 & 1)) & np.uint32(0xFFFF0000)
    return np.concatenate([all_kinds, weights.view(np.float32)])


for name in ENCODED:
    if not known(name):
        continue
    block, size = gguf.GGML_QUANT_SIZES[TYPES[name]]
    x = values(block)
    if name == "MXFP4":
        # Where log2 in fp32 rounds up to the next whole number, the package's exponent is one larger.
        top = np.abs(x).max(axis=1)
        with np.errstate(divide="ignore"):
            exact = np.where(top > 0, np.frexp(top)[1] - 1, 0) == np.where(top > 0, np.floor(np.log2(top)), 0)
        print(f"MXFP4: {np.count_nonzero(~exact)} blocks left out, for log2")
        x = x[exact]
    with np.errstate(all="ignore"):
        wanted = quants.quantize(x, TYPES[name])
    got = np.frombuffer(tool(STREAM, name, "reference", data=x.tobytes()), np.uint8).reshape(-1, size)
    wrong = np.flatnonzero((got != wanted).any(axis=1))
    report(f"{name} reference encoder", len(wrong), len(x), f", first is block {wrong[:1]}: {got[wrong[0]].tobytes().hex()}, package {wanted[wrong[0]].tobytes().hex()}" if len(wrong) else "")
    # The search is at least as good as the rule, in every kind of data and so in their sum.
    best = np.frombuffer(tool(STREAM, name, "best", data=x.tobytes()), np.uint8).reshape(-1, size)
    decoded = [package_decode(name, b).astype(np.float64) for b in (best, wanted)]
    good = np.isfinite(decoded[1]).all(axis=1)
    errors = [((d - x) ** 2).sum(axis=1) for d in decoded]
    # Under an fp16 scale near 0 both err alike.
    worse = np.count_nonzero(errors[0][good] > errors[1][good] * (1 + 1e-6))
    print(f"{name} best: {worse} of {np.count_nonzero(good)} blocks with a larger error than the package's; all in all {errors[0][good].sum() / errors[1][good].sum():.4f} of it")
    report(f"{name} error of best", int(errors[0][good].sum() > errors[1][good].sum()), 1)

with tempfile.TemporaryDirectory() as folder:
    # nibble's file, read by the package.
    path = Path(folder) / "written.gguf"
    x = rng.normal(0, 1, (2, 512)).astype(np.float32)
    tool(STREAM, path, "write", data=x.tobytes())
    reader = gguf.GGUFReader(path)
    expected = {
        "general.architecture": "nibble", "general.alignment": 64, "u8": 200, "i8": -5, "u16": 60000, "i16": -30000, "u32": 4000000000,
        "i32": -2000000000, "u64": 2**63, "i64": -(2**40), "f32": 1.5, "f64": 0.1, "flag": True, "numbers": [1, -2, 3], "texts": ["a", "", "\u00e9"],
    }  # fmt: skip
    for key, value in expected.items():
        field = reader.get_field(key)
        got = field.contents() if field is not None else None
        report(f"metadata {key}", int(got != value or type(got) is not type(value)), 1, f": {got!r}")
    for tensor in reader.tensors:
        if tensor.name == "I8":
            equal = tensor.data.shape == (2, 3, 5) and (tensor.data.ravel() == np.arange(30)).all()
            report("tensor I8", int(not equal), 1)
            continue
        equal = tensor.tensor_type.name == tensor.name and list(tensor.shape) == [512, 2] and tensor.data_offset % 64 == 0
        report(f"tensor {tensor.name}: type, shape, place", int(not equal), 1)
        if tensor.name == "BF16" or tensor.name in HALVES:
            y = package_decode(tensor.name, tensor.data)
        elif tensor.name in ("F32", "F16"):
            y = tensor.data.astype(np.float32)
        else:
            continue
        exact = {"F32": x, "F16": x.astype(np.float16).astype(np.float32)}.get(tensor.name)
        if tensor.name == "BF16":
            exact = package_decode("BF16", quants.quantize(x, TYPES.BF16))
        if exact is not None:
            report(f"tensor {tensor.name}: values", np.count_nonzero(y != exact), y.size)
        else:
            # A file with the values in the wrong place would be off by as much as they are large.
            limit = {"TQ1_0": 0.3, "TQ2_0": 0.3, "Q2_K": 0.12, "Q3_K": 0.04}.get(tensor.name, 0.03)
            relative = ((y - x) ** 2).sum() / (x**2).sum()
            report(f"tensor {tensor.name}: relative squared error {relative:.5f}", int(not relative < limit), 1)
    report("tensors written", int(len(reader.tensors) < len(HALVES)), len(reader.tensors))

    # The package's file, read by nibble: all values, then products.
    path = Path(folder) / "package.gguf"
    writer = gguf.GGUFWriter(path, "test")
    rows, cols, tokens = 48, 512, 5
    stored = {}
    for name in HALVES:
        if not known(name):
            continue
        block, size = gguf.GGML_QUANT_SIZES[TYPES[name]]
        if name in ENCODED:
            data = quants.quantize(rng.normal(0, 1, (rows, cols)).astype(np.float32), TYPES[name])
        else:
            data = rng.integers(0, 256, (rows * cols // block, size), dtype=np.uint8)
            for at in HALVES[name]:
                half = rng.normal(0, 0.1, len(data)).astype(np.float16).view(np.uint16)
                data[:, at], data[:, at + 1] = half & 0xFF, half >> 8
            if name == "NVFP4":
                data[:, :4] %= 0x7F
            data = data.reshape(rows, -1)
        stored[name] = data
        writer.add_tensor(name, data, raw_dtype=TYPES[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    wanted = [package_decode(name, data).ravel() for name, data in stored.items()]
    got = np.frombuffer(tool(STREAM, path, "dump"), np.float32)
    wanted = np.concatenate(wanted)
    report("values of the package's file", np.count_nonzero(got != wanted) if got.shape == wanted.shape else wanted.size, wanted.size)
    # The same in parts, as the package splits it, and as nibble does.
    try:
        writer = gguf.GGUFWriter(Path(folder) / "parts.gguf", "test", split_max_tensors=5)
    except TypeError:
        print("split files: not in this version of the package")
    else:
        for name, data in stored.items():
            writer.add_tensor(name, data, raw_dtype=TYPES[name])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        first = next(Path(folder).glob("parts-00001-of-*.gguf"))
        got = np.frombuffer(tool(STREAM, first, "dump"), np.float32)
        report("values of the package's parts", np.count_nonzero(got != wanted) if got.shape == wanted.shape else wanted.size, wanted.size)
        tool(STREAM, first, "split", 7, Path(folder) / "again")
        parts = sorted(Path(folder).glob("again-*.gguf"))
        names = [f"again-{i + 1:05d}-of-{len(parts):05d}.gguf" for i in range(len(parts))]
        readers = [gguf.GGUFReader(part) for part in parts]
        facts = [[int(r.fields[f"split.{key}"].parts[-1][0]) for key in ("no", "count", "tensors.count")] for r in readers]
        wrong = [part.name for part in parts] != names or facts != [[i, len(parts), len(stored)] for i in range(len(parts))]
        report("nibble's parts: names and keys", int(wrong), len(parts), f", {facts}")
        tensors = [t for r in readers for t in r.tensors]
        wrong = [t.name for t in tensors] != list(stored) or any(not np.array_equal(t.data.ravel().view(np.uint8), stored[t.name].ravel().view(np.uint8)) for t in tensors)
        report("nibble's parts: tensors", int(wrong), len(tensors))
    for name in ("Q4_0", "Q4_1", "Q5_0", "Q8_0", "Q2_K", "Q4_K", "Q6_K"):
        w = package_decode(name, stored[name]).astype(np.float64)
        x = rng.normal(0, 1, (tokens, cols)).astype(np.float32)
        y = np.frombuffer(tool(PRODUCT, path, name, tokens, data=x.tobytes()), np.float32).reshape(tokens, rows)
        exact = x.astype(np.float64) @ w.T
        # Activations become int8: half a step of max|x| / 127 each; and the sums are fp32.
        step = np.abs(x).max(axis=1, keepdims=True).astype(np.float64) / 127
        size = np.abs(w).sum(axis=1)[None, :]
        bound = step / 2 * size * (1 + 2.0**-20) + cols * 2.0**-24 * 8 * (np.abs(x).astype(np.float64) @ np.abs(w).T)
        error = np.abs(y - exact)
        report(f"{name} product, at most {np.max(error / bound):.3f} of the bound", np.count_nonzero(~(error <= bound)), y.size)

print(f"gguf, NumPy {np.__version__}: {faults} differences")
sys.exit(1 if faults else 0)
