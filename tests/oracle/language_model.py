"""The forward pass of examples/13_language_model against NumPy, on small random models of every architecture, in GGUF
and as a Hugging Face folder.

  language_model.py PROGRAM
Exit code 77: NumPy, gguf or safetensors is not installed.
"""
import json
import os
import subprocess
import sys
import tempfile

sys.path.pop(0)  # gguf.py beside this file is not the package

try:
    import gguf
    import numpy as np
    from safetensors.numpy import save_file
except ImportError as missing:
    print("SKIPPED:", missing)
    sys.exit(77)

HIDDEN, FEED_FORWARD, VOCABULARY, LAYERS, WINDOW = 64, 96, 80, 7, 6
EPSILON, TOKENS = 1e-6, 40
EXPERTS, EXPERTS_OF_TOKEN, EXPERT_FEED_FORWARD = 5, 2, 32


def make(architecture, random):
    """Weights under GGUF's names, and the sizes of heads."""
    heads, key_heads, size = (4, 2, 16) if architecture == "llama" else (4, 1, 24)
    def matrix(rows, cols):
        return (random.standard_normal((rows, cols)) / np.sqrt(cols)).astype(np.float32)
    def vector(count, mean=1.0):
        return (mean + 0.3 * random.standard_normal(count)).astype(np.float32)
    w = {"token_embd.weight": matrix(VOCABULARY, HIDDEN) * 4, "output_norm.weight": vector(HIDDEN)}
    if architecture == "qwen2":
        w["output.weight"] = matrix(VOCABULARY, HIDDEN)
    for i in range(LAYERS):
        b = f"blk.{i}."
        w[b + "attn_norm.weight"] = vector(HIDDEN)
        w[b + "ffn_norm.weight"] = vector(HIDDEN)
        w[b + "attn_q.weight"] = matrix(heads * size, HIDDEN)
        w[b + "attn_k.weight"] = matrix(key_heads * size, HIDDEN)
        w[b + "attn_v.weight"] = matrix(key_heads * size, HIDDEN)
        w[b + "attn_output.weight"] = matrix(HIDDEN, heads * size)
        if architecture == "qwen3moe":
            w[b + "ffn_gate_inp.weight"] = matrix(EXPERTS, HIDDEN)
            for name, rows, cols in (("gate", EXPERT_FEED_FORWARD, HIDDEN), ("up", EXPERT_FEED_FORWARD, HIDDEN),
                                     ("down", HIDDEN, EXPERT_FEED_FORWARD)):
                w[b + f"ffn_{name}_exps.weight"] = np.stack([matrix(rows, cols) for _ in range(EXPERTS)])
        else:
            w[b + "ffn_gate.weight"] = matrix(FEED_FORWARD, HIDDEN)
            w[b + "ffn_up.weight"] = matrix(FEED_FORWARD, HIDDEN)
            w[b + "ffn_down.weight"] = matrix(HIDDEN, FEED_FORWARD)
        if architecture == "qwen2":
            for name, rows in (("q", heads * size), ("k", key_heads * size), ("v", key_heads * size)):
                w[b + f"attn_{name}.bias"] = vector(rows, 0.0)
        if architecture in ("qwen3", "qwen3moe", "gemma3"):
            w[b + "attn_q_norm.weight"] = vector(size)
            w[b + "attn_k_norm.weight"] = vector(size)
        if architecture == "gemma3":
            w[b + "post_attention_norm.weight"] = vector(HIDDEN)
            w[b + "post_ffw_norm.weight"] = vector(HIDDEN)
    return w, heads, key_heads, size


def write(path, architecture, weights, heads, key_heads, size, base, used=EXPERTS_OF_TOKEN):
    file = gguf.GGUFWriter(path, architecture)
    file.add_block_count(LAYERS)
    file.add_context_length(256)
    file.add_embedding_length(HIDDEN)
    file.add_feed_forward_length(FEED_FORWARD)
    file.add_head_count(heads)
    file.add_head_count_kv(key_heads)
    file.add_key_length(size)
    file.add_value_length(size)
    file.add_layer_norm_rms_eps(EPSILON)
    file.add_rope_freq_base(base)
    if architecture == "qwen3moe":
        file.add_expert_count(EXPERTS)
        file.add_expert_used_count(used)
        file.add_expert_feed_forward_length(EXPERT_FEED_FORWARD)
    if architecture == "gemma3":
        file.add_sliding_window(WINDOW)
        file.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        file.add_rope_scaling_factor(8.0)
    for name, values in weights.items():
        file.add_tensor(name, values)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


HUGGING_FACE = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
                "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
                "attn_k_norm": "self_attn.k_norm", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
                "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "ffn_gate_inp": "mlp.gate"}
GEMMA = HUGGING_FACE | {"post_attention_norm": "post_attention_layernorm", "ffn_norm": "pre_feedforward_layernorm",
                        "post_ffw_norm": "post_feedforward_layernorm"}


def quantize(values):
    """4 bits in groups of 32 with a zero point: codes and zeros as integers, scales in fp16, and what they stand for."""
    x = values.reshape(len(values), -1, 32)
    low, high = np.minimum(x.min(axis=2), 0), np.maximum(x.max(axis=2), 0)
    scales = ((high - low) / 15).astype(np.float16)
    zeros = np.clip(np.rint(-low / scales), 1, 15)
    codes = np.clip(np.rint(x / scales[..., None]) + zeros[..., None], 0, 15)
    back = (codes - zeros[..., None]) * scales[..., None].astype(np.float32)
    return codes.reshape(values.shape), zeros, scales, back.reshape(values.shape).astype(np.float32)


def gptq_tensors(name, values):
    """As AutoGPTQ packs them: eight codes of an output, or zeros less 1 of a group, in 32 bits."""
    codes, zeros, scales, _ = quantize(values)
    def pack(x):
        parts = x.astype(np.uint32).reshape(-1, 8, x.shape[1])
        return np.bitwise_or.reduce(parts << (4 * np.arange(8, dtype=np.uint32))[None, :, None], axis=1).view(np.int32)
    return {name + ".qweight": pack(codes.T), name + ".scales": scales.T, name + ".qzeros": pack(zeros - 1).T}


def write_folder(path, architecture, weights, heads, key_heads, size, base, gptq=False):
    """The same model as Hugging Face has it: two shards, an index, queries and keys of llama not permuted."""
    os.mkdir(path)
    gemma = architecture == "gemma3"
    names = GEMMA if gemma else HUGGING_FACE
    shards, index = ({}, {}), {}
    alone = []  # an expert's matrix has a name of its own there: "blk.0.ffn_up_exps.weight" is "mlp.experts.3.up_proj"
    for name, values in weights.items():
        together = name.replace("_exps", "")
        alone += [(name, values, "")] if together == name else [(together, one, f"experts.{i}.")
                                                                for i, one in enumerate(values)]
    for name, values, expert in alone:
        parts = name.split(".")
        if parts[0] == "blk":
            there = f"model.layers.{parts[1]}.{names[parts[2]].replace('mlp.', 'mlp.' + expert)}.{parts[3]}"
        else:
            there = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}[parts[0]]
            there += ".weight"
        if gemma and values.ndim == 1:
            values = values - np.float32(1)
        if architecture == "llama" and parts[2:3] in (["attn_q"], ["attn_k"]):  # pairs (2i, 2i + 1) to (i, i + half)
            values = values.reshape(-1, size // 2, 2, HIDDEN).swapaxes(1, 2).reshape(-1, HIDDEN)
        if gptq and values.ndim == 2 and parts[0] == "blk":  # tensors of a layer may lie in different files
            tensors = gptq_tensors(there.removesuffix(".weight"), values)
        else:
            tensors = {there: values}
        for one, stored in tensors.items():
            shard = len(index) % 2
            shards[shard][one] = np.ascontiguousarray(stored)
            index[one] = f"part-{shard}.safetensors"
    for i, tensors in enumerate(shards):
        save_file(tensors, os.path.join(path, f"part-{i}.safetensors"))
    kind = {"gemma3": "gemma3_text", "qwen3moe": "qwen3_moe"}.get(architecture, architecture)
    config = {"model_type": kind, "num_hidden_layers": LAYERS,
              "hidden_size": HIDDEN, "num_attention_heads": heads, "num_key_value_heads": key_heads, "head_dim": size,
              "intermediate_size": FEED_FORWARD, "max_position_embeddings": 256, "rms_norm_eps": EPSILON,
              "rope_theta": base}
    if architecture == "qwen3moe":
        config |= {"num_experts": EXPERTS, "num_experts_per_tok": EXPERTS_OF_TOKEN, "norm_topk_prob": True,
                   "moe_intermediate_size": EXPERT_FEED_FORWARD, "decoder_sparse_step": 1, "mlp_only_layers": []}
    if gptq:
        config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False,
                                         "checkpoint_format": "gptq"}
    if gemma:
        config |= {"sliding_window": WINDOW, "rope_local_base_freq": 10000.0, "query_pre_attn_scalar": size,
                   "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    if architecture in ("qwen3", "qwen3moe", "gemma3"):  # as newer files say it
        full = config.pop("rope_scaling", {"rope_type": "default"}) | {"rope_theta": config.pop("rope_theta")}
        local = {"rope_type": "default", "rope_theta": config.pop("rope_local_base_freq", 0)}
        config["rope_parameters"] = {"full_attention": full, "sliding_attention": local} if gemma else full
    for name, content in (("config.json", config), ("model.safetensors.index.json", {"weight_map": index})):
        with open(os.path.join(path, name), "w") as file:
            json.dump(content, file)


def norm(x, weight):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + EPSILON) * weight


def rotate(x, base, divisor, interleaved):
    """x: tokens x heads x channels."""
    size = x.shape[-1]
    angle = np.arange(len(x))[:, None] * base ** (-np.arange(0, size, 2) / size) / divisor
    c, s = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]
    a, b = (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :size // 2], x[..., size // 2:])
    out = np.empty_like(x)
    first, second = (out[..., 0::2], out[..., 1::2]) if interleaved else (out[..., :size // 2], out[..., size // 2:])
    first[...], second[...] = a * c - b * s, b * c + a * s
    return out


def forward(architecture, weights, heads, key_heads, size, base, tokens, used=EXPERTS_OF_TOKEN):
    w = {name: values.astype(np.float64) for name, values in weights.items()}
    gemma = architecture == "gemma3"
    x = w["token_embd.weight"][tokens] * (np.sqrt(HIDDEN) if gemma else 1.0)
    count = len(tokens)
    distance = np.arange(count)[:, None] - np.arange(count)[None, :]
    for i in range(LAYERS):
        def layer(name):
            return w[f"blk.{i}.{name}"]
        local = gemma and (i + 1) % 6 != 0
        h = norm(x, layer("attn_norm.weight"))
        parts = {}
        for name, n in (("q", heads), ("k", key_heads), ("v", key_heads)):
            y = h @ layer(f"attn_{name}.weight").T
            if architecture == "qwen2":
                y = y + layer(f"attn_{name}.bias")
            y = y.reshape(count, n, size)
            if name != "v":
                if architecture in ("qwen3", "qwen3moe", "gemma3"):
                    y = norm(y, layer(f"attn_{name}_norm.weight"))
                y = rotate(y, 10000.0 if local else base, 8.0 if gemma and not local else 1.0, architecture == "llama")
            parts[name] = y
        k, v = (np.repeat(parts[name], heads // key_heads, axis=1) for name in "kv")
        scores = np.einsum("qhc,khc->hqk", parts["q"], k) / np.sqrt(size)
        seen = (distance >= 0) & ((distance < WINDOW) | (not local))
        scores = np.where(seen, scores, -np.inf)
        p = np.exp(scores - scores.max(axis=-1, keepdims=True))
        p /= p.sum(axis=-1, keepdims=True)
        y = np.einsum("hqk,khc->qhc", p, v).reshape(count, -1) @ layer("attn_output.weight").T
        x = x + (norm(y, layer("post_attention_norm.weight")) if gemma else y)
        h = norm(x, layer("ffn_norm.weight"))
        def gated(gate, up, down):
            g = h @ gate.T
            g = (0.5 * g * (1 + np.tanh(np.sqrt(2 / np.pi) * (g + 0.044715 * g ** 3))) if gemma
                 else g / (1 + np.exp(-g)))
            return (g * (h @ up.T)) @ down.T
        if architecture == "qwen3moe":
            p = np.exp(h @ layer("ffn_gate_inp.weight").T)
            p = np.where(p >= np.sort(p, axis=1)[:, -used, None], p, 0)
            p /= p.sum(axis=1, keepdims=True)
            y = sum(p[:, e, None] * gated(*(layer(f"ffn_{name}_exps.weight")[e] for name in ("gate", "up", "down")))
                    for e in range(EXPERTS))
        else:
            y = gated(*(layer(f"ffn_{name}.weight") for name in ("gate", "up", "down")))
        x = x + (norm(y, layer("post_ffw_norm.weight")) if gemma else y)
    return norm(x, w["output_norm.weight"]) @ w.get("output.weight", w["token_embd.weight"]).T


def check(program, path, options, exact, losses, ids, out, bound, bits=None, same=None):
    """The program's logits and loss against the exact ones, or against the bits of logits; 1 if they are wrong."""
    text = subprocess.run(
        [program, "--model", path, "--evaluate", ids, "--window", str(TOKENS), "--cache", "f32", "--threads", "2",
         "--logits", out, "--quiet"] + options, check=True, capture_output=True, text=True).stdout.split()
    logits = np.fromfile(out, "<f4").reshape(TOKENS, VOCABULARY)
    error = np.abs(logits - exact).max() / np.abs(exact).max()
    loss = abs(float(text[1]) - losses.mean())
    right = (error < bound and loss < bound and same in (None, logits.tobytes()) and
             bits in (None, float(text[text.index("bits_per_weight") + 1])))
    print(f"{os.path.basename(path)} {' '.join(options)}: logits within {error:.1e} of the largest, loss within "
          f"{loss:.1e}: {'ok' if right else 'WRONG'}")
    return 0 if right else 1


def main(program):
    random = np.random.default_rng(1)
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        for architecture in ("llama", "qwen2", "gemma3", "qwen3moe", "qwen3"):
            base = 500000.0
            weights, heads, key_heads, size = make(architecture, random)
            model, ids, out, hugging_face = (os.path.join(folder, architecture + end)
                                             for end in (".gguf", ".u16", ".f32", ""))
            write(model, architecture, weights, heads, key_heads, size, base)
            write_folder(hugging_face, architecture, weights, heads, key_heads, size, base)
            tokens = random.integers(0, VOCABULARY, TOKENS + 1)
            tokens.astype("<u2").tofile(ids)
            exact = forward(architecture, weights, heads, key_heads, size, base, tokens[:-1])
            losses = np.log(np.exp(exact).sum(axis=1)) - exact[np.arange(TOKENS), tokens[1:]]
            failures += check(program, model, [], exact, losses, ids, out, 2e-5)
            whole = open(out, "rb").read()
            for options in (["--chunk", "7"], ["--threads", "1"]):
                failures += check(program, model, options, exact, losses, ids, out, 2e-5, same=whole)
            failures += check(program, hugging_face, [], exact, losses, ids, out, 2e-5)
            # Experts of integers: weights and activations of 8 bits, as below. A token takes all experts, as rounding
            # would let it take others than the exact ones.
            if architecture == "qwen3moe":
                write(model, architecture, weights, heads, key_heads, size, base, EXPERTS)
                exact = forward(architecture, weights, heads, key_heads, size, base, tokens[:-1], EXPERTS)
                losses = np.log(np.exp(exact).sum(axis=1)) - exact[np.arange(TOKENS), tokens[1:]]
                for options, same in ([], None), (["--chunk", "7", "--threads", "1"], out):
                    failures += check(program, model, ["--weights", "q8_0"] + options, exact, losses, ids, out,
                                      2 * 14 / 254, bits=8.5, same=same and open(same, "rb").read())
        # A quantized checkpoint: its weights in fp32 are exact; as they are stored they meet activations of 8 bits,
        # whose products are within 1/254 of the largest number each, over the 14 halves of the layers.
        kept = {name: quantize(values)[3] if name.startswith("blk.") and values.ndim == 2 else values
                for name, values in weights.items()}
        exact = forward(architecture, kept, heads, key_heads, size, base, tokens[:-1])
        losses = np.log(np.exp(exact).sum(axis=1)) - exact[np.arange(TOKENS), tokens[1:]]
        path = hugging_face + "-gptq"
        write_folder(path, architecture, weights, heads, key_heads, size, base, gptq=True)
        failures += check(program, path, ["--weights", "f32"], exact, losses, ids, out, 2e-5)
        failures += check(program, path, [], exact, losses, ids, out, 14 / 254, bits=4.75)
    return 1 if failures else 0


sys.exit(main(sys.argv[1]))
