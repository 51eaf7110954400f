#!/usr/bin/env python3
"""Writes a Llama-shaped GGUF file as a folder that vLLM and transformers read: the same weights, in bf16, int8 or int4.

    python3 bench/hf_folder.py MODEL.gguf --out FOLDER [--as bf16|int8|int4]

int8: each row of a matrix has one scale and activations are quantized as they come (compressed-tensors' W8A8). int4: groups of
32 with one scale each (pack-quantized), which for Q4_0 files are the file's own numbers. Embeddings and norms stay bf16. The
tokenizer is the file's own where it is byte-level BPE.
"""
import argparse
import json
import math
import os
import struct
import sys

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/lib"))
from gguf_writer import dequantize, row_bytes  # noqa: E402
from ref_model import Gguf  # noqa: E402

CHUNK = 1 << 22  # weights expanded at once: float64 of a whole embedding would take gigabytes
GROUP = 32
LAYER = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
         "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
DTYPES = {np.uint16: "BF16", np.int8: "I8", np.int32: "I32", np.int64: "I64"}
# What splits text before BPE, by the name that GGUF gives it. Speed does not depend on it; answers do.
DIGITS = {"type": "Digits", "individual_digits": True}
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def bf16(x):
    """Rounded to nearest, ties to even, as uint16."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def rows_of(g, name):
    """The rows of a tensor, some at a time, as float64."""
    kind, shape, data = g.index[name]
    width, rows = shape[0], math.prod(shape[1:])
    size, step = row_bytes(kind, width), max(1, CHUNK // width)
    for at in range(0, rows, step):
        n = min(step, rows - at)
        yield dequantize(kind, data[at * size:(at + n) * size]).reshape(n, width)


def half_order(rows, heads):
    """GGUF pairs element 2i with 2i+1 of a head of q and k, transformers i with i + half: the order of rows that undoes it."""
    head = rows // heads
    return np.arange(rows).reshape(heads, head // 2, 2).transpose(0, 2, 1).reshape(-1)


def as_bf16(parts, name):
    return {name + ".weight": np.concatenate([bf16(p) for p in parts])}


def as_int8(parts, name):
    values, scales = [], []
    for p in parts:
        s = np.maximum(np.abs(p).max(axis=1, keepdims=True) / 127, 1e-12)
        values.append(np.rint(p / s).astype(np.int8))
        scales.append(bf16(s))
    return {name + ".weight": np.concatenate(values), name + ".weight_scale": np.concatenate(scales)}


def as_int4(parts, name):
    """-8 to 7 of each group's scale, eight in a word, the first in the low bits."""
    words, scales, width = [], [], 0
    for p in parts:
        groups = p.reshape(len(p), -1, GROUP)
        at = np.abs(groups).argmax(axis=2)[..., None]
        s = np.take_along_axis(groups, at, 2) / -8  # the greatest becomes -8, as in Q4_0
        q = np.clip(np.rint(groups / np.where(s == 0, 1, s)), -8, 7) + 8
        q = q.reshape(len(p), -1, 8).astype(np.uint32)
        words.append((q << (4 * np.arange(8, dtype=np.uint32))).sum(axis=2, dtype=np.uint32).view(np.int32))
        scales.append(bf16(s[..., 0]))
        width = p.shape[1]
    rows = sum(len(w) for w in words)
    return {name + ".weight_packed": np.concatenate(words), name + ".weight_scale": np.concatenate(scales),
            name + ".weight_shape": np.array([rows, width], dtype=np.int64)}


def tensors(g, form):
    heads = {"attn_q": g.keys["llama.attention.head_count"], "attn_k": g.keys["llama.attention.head_count_kv"]}
    out = {}
    for full in g.index:
        name = full.removesuffix(".weight")
        if name in WHOLE:
            done = as_bf16(rows_of(g, full), WHOLE[name])
            if g.index[full][1][1:] == ():
                done = {k: v.reshape(-1) for k, v in done.items()}
        else:
            _, layer, part = name.split(".")
            to = f"model.layers.{layer}.{LAYER[part]}"
            parts = list(rows_of(g, full))
            if part.endswith("norm"):
                done = {k: v.reshape(-1) for k, v in as_bf16(parts, to).items()}
            else:
                if part in heads:
                    whole = np.concatenate(parts)
                    parts = [whole[half_order(len(whole), heads[part])]]
                done = {"bf16": as_bf16, "int8": as_int8, "int4": as_int4}[form](parts, to)
        out.update(done)
    return out


def write_safetensors(path, arrays):
    head, at = {"__metadata__": {"format": "pt"}}, 0
    for name, a in arrays.items():
        head[name] = {"dtype": DTYPES[a.dtype.type], "shape": list(a.shape), "data_offsets": [at, at + a.nbytes]}
        at += a.nbytes
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for a in arrays.values():
            f.write(np.ascontiguousarray(a).data)


def config(g, form):
    def key(name, default=None):
        return g.keys.get("llama." + name, default)
    heads = key("attention.head_count")
    c = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", "hidden_act": "silu",
         "hidden_size": key("embedding_length"), "num_hidden_layers": key("block_count"), "num_attention_heads": heads,
         "num_key_value_heads": key("attention.head_count_kv", heads), "intermediate_size": key("feed_forward_length"),
         "head_dim": key("attention.key_length", key("embedding_length") // heads), "max_position_embeddings": key("context_length"),
         "rms_norm_eps": key("attention.layer_norm_rms_epsilon"), "rope_theta": key("rope.freq_base", 10000.0),
         "vocab_size": g.index["token_embd.weight"][1][1], "tie_word_embeddings": not g.has("output.weight"),
         "attention_bias": False, "mlp_bias": False,
         "bos_token_id": g.keys.get("tokenizer.ggml.bos_token_id"), "eos_token_id": g.keys.get("tokenizer.ggml.eos_token_id")}
    if form == "bf16":
        return c
    weights = {"num_bits": int(form[3:]), "type": "int", "symmetric": True, "dynamic": False,
               **({"strategy": "channel"} if form == "int8" else {"strategy": "group", "group_size": GROUP})}
    inputs = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": True, "strategy": "token"} if form == "int8" else None
    name = "int-quantized" if form == "int8" else "pack-quantized"
    c["quantization_config"] = {"quant_method": "compressed-tensors", "format": name, "quantization_status": "compressed",
                                "ignore": ["lm_head"], "config_groups": {"group_0": {
                                    "targets": ["Linear"], "weights": weights, "input_activations": inputs,
                                    "output_activations": None}}}
    return c


def tokenizer(g):
    """tokenizer.json and tokenizer_config.json."""
    keys = g.keys
    if keys["tokenizer.ggml.model"] != "gpt2":
        raise SystemExit(f"only byte-level BPE is written; this file's tokenizer is {keys['tokenizer.ggml.model']}")
    words, kinds = keys["tokenizer.ggml.tokens"], keys.get("tokenizer.ggml.token_type", [])
    special = [i for i, kind in enumerate(kinds) if kind in (3, 4)]
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    if keys.get("tokenizer.ggml.pre") in ("llama-bpe", "llama3"):
        split = [{"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated", "invert": False}, {**bytes_, "use_regex": False}]
    else:
        split = [DIGITS, bytes_]
    added = [{"id": i, "content": words[i], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for i in special]
    main = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": split}, "post_processor": None, "decoder": bytes_,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": {word: i for i, word in enumerate(words)}, "merges": keys.get("tokenizer.ggml.merges", [])}}
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": keys["llama.context_length"],
             "clean_up_tokenization_spaces": False, "chat_template": keys.get("tokenizer.chat_template")}
    for name in ("bos", "eos"):
        if f"tokenizer.ggml.{name}_token_id" in keys:
            about[f"{name}_token"] = words[keys[f"tokenizer.ggml.{name}_token_id"]]
    return main, about


def write(model, folder, form):
    g = Gguf(model)
    if g.keys["general.architecture"] != "llama":
        raise SystemExit(f"{model}: family {g.keys['general.architecture']}; only llama is written")
    os.makedirs(folder, exist_ok=True)
    main, about = tokenizer(g)
    write_safetensors(os.path.join(folder, "model.safetensors"), tensors(g, form))
    generation = {k: g.keys[f"tokenizer.ggml.{k}"] for k in ("bos_token_id", "eos_token_id") if f"tokenizer.ggml.{k}" in g.keys}
    for name, thing in (("tokenizer", main), ("tokenizer_config", about), ("generation_config", generation), ("config", config(g, form))):
        with open(os.path.join(folder, name + ".json"), "w", encoding="utf-8") as f:
            json.dump(thing, f, ensure_ascii=False)  # the config last: a folder that has it is whole


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("--out", required=True, help="folder, made if missing")
    p.add_argument("--as", dest="form", choices=("bf16", "int8", "int4"), default="bf16")
    args = p.parse_args()
    write(args.model, args.out, args.form)


if __name__ == "__main__":
    main()
