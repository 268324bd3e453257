"""Writes layers of every layout with NumPy and the safetensors package, packed here from the published layouts, and
compares the weights that nibble decodes with NumPy's, bit for bit; then reads what nibble wrote with that package.

    python3 safetensors.py LAYER_DECODE

Exit code 77 (ctest: skipped) if safetensors or NumPy is not installed.
"""

import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

# This file has the module's name: its folder must not be searched for it.
sys.path = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]
try:
    import numpy as np

    store = importlib.import_module("safetensors.numpy")
    opener = importlib.import_module("safetensors")
except ImportError as missing:
    print(f"SKIPPED: {missing} (pip install safetensors numpy)")
    sys.exit(77)

TOOL = sys.argv[1]
rng = np.random.default_rng(2026)
faults = 0
layers = 0


def serialize(tensors):
    """tensors: name -> array, or (type, shape, bytes) for types that NumPy has not. The file's bytes, by the package."""
    described = {}
    kept = []
    for name, tensor in tensors.items():
        if isinstance(tensor, tuple):
            dtype, shape, data = tensor
        else:
            dtype = {"float16": "F16", "float32": "F32", "int32": "I32", "int64": "I64", "uint8": "U8", "int8": "I8"}[str(tensor.dtype)]
            shape, data = tensor.shape, np.ascontiguousarray(tensor).tobytes()
        kept.append((name, dtype, list(shape), data))
    # The package's own serializer for what NumPy has; others by the format's description, checked by the package below.
    if all(not isinstance(t, tuple) for t in tensors.values()):
        return store.save({name: np.ascontiguousarray(t) for name, t in tensors.items()})
    blob = b""
    for name, dtype, shape, data in kept:
        described[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(blob), len(blob) + len(data)]}
        blob += data
    header = json.dumps(described).encode()
    return len(header).to_bytes(8, "little") + header + blob


def pack_bits(codes, bits):
    """codes [..., n] -> int32 words [..., n * bits / 32]: a plain bit stream, lowest bits first."""
    planes = (codes[..., None].astype(np.uint32) >> np.arange(bits, dtype=np.uint32)) & 1
    stream = planes.reshape(*codes.shape[:-1], -1).astype(np.uint8)
    return np.packbits(stream, axis=-1, bitorder="little").view("<i4")


def pack_words(codes, bits):
    """codes [..., n] -> int32 words of floor(32 / bits) codes, zeros behind the last."""
    per = 32 // bits
    n = codes.shape[-1]
    padded = np.zeros((*codes.shape[:-1], -(-n // per) * per), dtype=np.uint32)
    padded[..., :n] = codes
    words = padded.reshape(*codes.shape[:-1], -1, per)
    shifts = (np.arange(per, dtype=np.uint32) * np.uint32(bits)).astype(np.uint32)
    return np.bitwise_or.reduce(words << shifts, axis=-1).view(np.int32)


def scales_of(kind, shape):
    """(what goes into the file, the fp32 values)"""
    values = (rng.uniform(0.5, 2.0, shape) * 2.0**-6).astype(np.float32)
    if kind == "F16":
        half = values.astype(np.float16)
        return half, half.astype(np.float32)
    if kind == "BF16":
        words = (values.view(np.uint32) >> 16).astype(np.uint16)
        return ("BF16", shape, words.tobytes()), (words.astype(np.uint32) << 16).view(np.float32)
    return values, values


def check(what, tensors, wanted, *arguments, same=True, skip=()):
    global faults, layers
    layers += 1
    with tempfile.TemporaryDirectory() as folder:
        path, copy = Path(folder, "a.safetensors"), Path(folder, "b.safetensors")
        path.write_bytes(serialize(tensors))
        done = subprocess.run([TOOL, str(path), "l", *arguments, "--write", str(copy)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if done.returncode != 0:
            print(f"{what}: {done.stderr.decode()}")
            faults += 1
            return
        got = np.frombuffer(done.stdout, dtype=np.float32)
        wanted = np.ascontiguousarray(wanted, dtype=np.float32).ravel()
        wrong = wanted.size if got.size != wanted.size else int((got.view(np.uint32) != wanted.view(np.uint32)).sum())
        # What nibble wrote: the package must take it, and find the same bytes.
        raw = {name: info for name, info in opener.deserialize(copy.read_bytes())}
        original = {name: info for name, info in opener.deserialize(path.read_bytes())}
        differing = [name for name in original if name not in skip and (name not in raw or bytes(raw[name]["data"]) != bytes(original[name]["data"])
                     or list(raw[name]["shape"]) != list(original[name]["shape"]) or raw[name]["dtype"] != original[name]["dtype"])] if same else []
        print(f"{what}: {wanted.size} weights as {done.stderr.decode().strip()}, {wrong} differ; tensors that differ: {differing or 'none'}")
        faults += wrong + len(differing)


N, K = 64, 256

for bits in (2, 3, 4, 8):
    for group, kind, v2, act_order in ((32, "F16", False, False), (64, "BF16", True, True), (128, "F32", False, True), (256, "F16", True, False)):
        q = rng.integers(0, 2**bits, (K, N))
        z = rng.integers(1, 2**bits, (K // group, N))
        stored, s = scales_of(kind, (K // group, N))
        g = np.arange(K) // group
        if act_order:
            g = rng.permutation(g)
        wanted = ((q - z[g]).astype(np.float32) * s[g]).T
        tensors = {
            "l.qweight": np.ascontiguousarray(pack_bits(q.T, bits).T),
            "l.qzeros": pack_bits(z if v2 else z - 1, bits),
            "l.scales": stored,
            "l.g_idx": g.astype(np.int32),
        }
        check(f"gptq {bits} bits, groups of {group}, {kind}, v2 {v2}, act-order {act_order}", tensors, wanted, *(["--v2"] if v2 else []))

for group, kind in ((32, "F16"), (64, "BF16"), (128, "F32"), (256, "F16")):
    q = rng.integers(0, 16, (K, N))
    z = rng.integers(0, 16, (K // group, N))
    stored, s = scales_of(kind, (K // group, N))
    g = np.arange(K) // group
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def interleave(codes):
        return pack_words(codes.reshape(codes.shape[0], -1, 8)[..., order].reshape(codes.shape), 4)

    wanted = ((q - z[g]).astype(np.float32) * s[g]).T
    check(f"awq, groups of {group}, {kind}", {"l.qweight": interleave(q), "l.qzeros": interleave(z), "l.scales": stored}, wanted,
          "--group-size", str(group))

for bits in (2, 3, 4, 8):
    for group, kind, symmetric, act_order in ((32, "F16", True, False), (64, "BF16", False, False), (128, "F32", False, True), (256, "BF16", True, False)):
        half = 2 ** (bits - 1)
        q = rng.integers(-half, half, (N, K))
        z = np.zeros((N, K // group), dtype=int) if symmetric else rng.integers(-half, half, (N, K // group))
        stored, s = scales_of(kind, (N, K // group))
        g = np.arange(K) // group
        if act_order:
            g = rng.permutation(g)
        wanted = (q - z[:, g]).astype(np.float32) * s[:, g]
        tensors = {"l.weight_packed": pack_words(q + half, bits), "l.weight_scale": stored, "l.weight_shape": np.array([N, K])}
        if not symmetric:
            tensors["l.weight_zero_point"] = np.ascontiguousarray(pack_words((z + half).T, bits).T)
        if act_order:
            tensors["l.weight_g_idx"] = g.astype(np.int32)
        check(f"compressed-tensors {bits} bits, groups of {group}, {kind}, symmetric {symmetric}, act-order {act_order}", tensors, wanted, "--group-size", str(group))

for kind in ("F16", "BF16", "F32"):
    q = rng.integers(-128, 128, (N, K))
    stored, s = scales_of(kind, (N, 1))
    check(f"int8, {kind}", {"l.weight": q.astype(np.int8), "l.weight_scale": stored}, q.astype(np.float32) * s)

e2m1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=np.float32)
e2m1 = np.concatenate([e2m1, -e2m1])
code = np.arange(128)
e4m3 = np.where(code < 8, code / 512, (8 + code % 8) * 2.0 ** (code // 8 - 10)).astype(np.float32)
for divided, number in ((False, 0.00119047623), (True, 840.125)):
    q = rng.integers(0, 16, (N, K))
    b = rng.integers(0, 127, (N, K // 16)).astype(np.uint8)
    outer = np.float32(1) / np.float32(number) if divided else np.float32(number)
    wanted = e2m1[q] * np.repeat(e4m3[b] * outer, 16, axis=1)
    packed = (q[:, 0::2] | q[:, 1::2] << 4).astype(np.uint8)
    tensors = {
        "l.weight_packed" if divided else "l.weight": packed,
        "l.weight_scale": ("F8_E4M3", b.shape, b.tobytes()),
        "l.weight_global_scale" if divided else "l.weight_scale_2": np.full((1,) if divided else (), number, dtype=np.float32),
    }
    check("nvfp4 of compressed-tensors" if divided else "nvfp4 of Model Optimizer", tensors, wanted)

q = rng.integers(0, 16, (N, K))
exponents = rng.integers(100, 140, (N, K // 32)).astype(np.uint8)
check("mxfp4 of compressed-tensors", {"l.weight_packed": (q[:, 0::2] | q[:, 1::2] << 4).astype(np.uint8), "l.weight_scale": exponents},
      e2m1[q] * np.repeat(np.ldexp(np.float32(1), exponents.astype(int) - 127), 32, axis=1))

q = rng.integers(0, 256, (N, K)).astype(np.uint8)
q = np.where(q % 128 == 127, 0, q).astype(np.uint8)  # no NaN
values = np.where(q < 128, e4m3[q % 128], -e4m3[q % 128]).astype(np.float32)
for kind in ("U8", "F8_E8M0"):
    check(f"mxfp8 of compressed-tensors, scales of {kind}",
          {"l.weight": ("F8_E4M3", q.shape, q.tobytes()), "l.weight_scale": (kind, exponents.shape, exponents.tobytes())},
          values * np.repeat(np.ldexp(np.float32(1), exponents.astype(int) - 127), 32, axis=1), same=kind == "U8")

# gpt-oss, as OpenAI's loader unpacks it: even columns from the low nibbles, odd ones from the high.
blocks = rng.integers(0, 256, (3, N, K // 32, 16)).astype(np.uint8)
exponents = rng.integers(100, 140, (3, N, K // 32)).astype(np.uint8)
wanted = np.empty((3, N, K // 32, 32), dtype=np.float32)
wanted[..., 0::2] = e2m1[blocks & 15]
wanted[..., 1::2] = e2m1[blocks >> 4]
wanted = np.ldexp(wanted, exponents.astype(int)[..., None] - 127)
check("gpt-oss, three experts", {"l_blocks": blocks, "l_scales": exponents}, wanted)

nf4 = np.array([-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
                -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
                0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1], dtype=np.float32)
fp4 = np.array([0, 0.0625, 8, 12, 4, 6, 2, 3], dtype=np.float32) / np.float32(12)
fp4 = np.concatenate([fp4, -fp4])
# The map as NumPy computes it in fp32, which differs from PyTorch's here and there: the reader must not mind.
positive = []
for i in range(7):
    bounds = np.linspace(0.1, 1, 2**i + 1, dtype=np.float32)
    positive += list((bounds[1:] + bounds[:-1]) / np.float32(2) * np.float32(10.0 ** (i - 6)))
dynamic = np.sort(np.array([-x for x in positive] + [0.0] + positive + [1.0], dtype=np.float32))
for rows, cols in ((N, K), (37, 100), (5, 33)):
    for kind, table in (("nf4", nf4), ("fp4", fp4)):
        for nested in (False, True):
            count = rows * cols
            q = rng.integers(0, 16, count)
            even = np.append(q, 0)[: count + count % 2]
            blocks = -(-count // 64)
            state = {"quant_type": kind, "blocksize": 64, "dtype": "bfloat16", "shape": [rows, cols]}
            tensors = {"l.weight": (even[0::2] << 4 | even[1::2]).astype(np.uint8)[:, None], "l.weight.quant_map": table}
            if nested:
                codes = rng.integers(0, 256, blocks).astype(np.uint8)
                outer = rng.uniform(0.01, 0.02, -(-blocks // 256)).astype(np.float32)
                offset = np.float32(0.0371246338)
                absmax = dynamic[codes] * outer[np.arange(blocks) // 256] + offset
                state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": float(offset)}
                tensors |= {"l.weight.absmax": codes, "l.weight.nested_absmax": outer, "l.weight.nested_quant_map": dynamic}
            else:
                absmax = rng.uniform(0.01, 0.1, blocks).astype(np.float32)
                tensors["l.weight.absmax"] = absmax
            tensors[f"l.weight.quant_state.bitsandbytes__{kind}"] = np.frombuffer(json.dumps(state).encode(), dtype=np.uint8)
            check(f"bitsandbytes {kind}, {rows} x {cols}, nested {nested}", tensors, table[q] * absmax[np.arange(count) // 64],
                  same=not nested, skip=(f"l.weight.quant_state.bitsandbytes__{kind}",))

# The same weights under every quant_storage: packed.view(dtype) of PyTorch.
q = rng.integers(0, 16, N * K)
absmax = rng.uniform(0.01, 0.1, N * K // 64).astype(np.float32)
packed = (q[0::2] << 4 | q[1::2]).astype(np.uint8)
state = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [N, K]}
for kind, size in (("BF16", 2), ("F16", 2), ("F32", 4), ("U8", 1)):
    check(f"bitsandbytes, quant_storage {kind}",
          {"l.weight": (kind, [packed.size // size, 1], packed.tobytes()), "l.weight.quant_map": ("F32", [16], nf4.tobytes()),
           "l.weight.absmax": ("F32", absmax.shape, absmax.tobytes()),
           "l.weight.quant_state.bitsandbytes__nf4": ("U8", [len(json.dumps(state))], json.dumps(state).encode())},
          nf4[q] * absmax[np.arange(N * K) // 64], same=False)

# LLM.int8: CB x (SCB x (1 / 127)), in fp32.
codes = rng.integers(-127, 128, (N, K)).astype(np.int8)
absmax = rng.uniform(0.01, 10, N).astype(np.float32)
check("bitsandbytes LLM.int8", {"l.weight": codes, "l.SCB": absmax, "l.weight_format": ("U8", [], b"\0")},
      codes.astype(np.float32) * (absmax * np.float32(1 / 127))[:, None])

print(f"safetensors {opener.__version__}, NumPy {np.__version__}: {layers} layers, {faults} differences")
sys.exit(1 if faults else 0)
