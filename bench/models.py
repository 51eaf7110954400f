#!/usr/bin/env python3
"""Models of real shapes with random weights, for measuring speed where the real files are not at hand.

    python3 bench/models.py --out DIR --shape llama-1b --type Q4_K

Its vocabulary is one of bytes, so a word is several tokens; with --vocabulary FILE.gguf it is that model's.

The same shape and type give the same bytes. Weights repeat after a few million: that changes no speed, and a model is written
about as fast as the disk takes it. What such a model says is noise.
"""

import argparse
import os
import struct
import sys

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/lib"))
import tiny_models  # noqa: E402
from gguf_reader import Reader  # noqa: E402
from gguf_writer import I32, STRING, TYPES, Writer, quantize, random_blocks, row_bytes  # noqa: E402

# family, width, layers, heads, KV heads, head length, feed-forward, vocabulary, RoPE base, pre-tokenizer
SHAPES = {
    "smollm2-135m": ("llama", 576, 30, 9, 3, 64, 1536, 49152, 100000.0, "smollm"),
    "qwen3-0.6b": ("qwen3", 1024, 28, 16, 8, 128, 3072, 151936, 1e6, "qwen2"),
    "llama-1b": ("llama", 2048, 16, 32, 8, 64, 8192, 128256, 500000.0, "llama-bpe"),
    "llama-8b": ("llama", 4096, 32, 32, 8, 128, 14336, 128256, 500000.0, "llama-bpe"),
    "glm4-9b": ("glm4", 4096, 40, 32, 2, 128, 13696, 151552, 10000.0, "glm4"),
}
# Rows that are not whole blocks of 256 take the nearest type with blocks of 32, as quantizers do.
FALLBACK = {"Q2_K": "IQ4_NL", "Q3_K": "IQ4_NL", "IQ4_XS": "IQ4_NL", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
# Under general.file_type, which OpenVINO wants to know; other readers look at the tensors.
FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K": 12, "Q4_K": 15,
              "Q5_K": 17, "Q6_K": 18, "IQ4_NL": 25, "IQ4_XS": 30, "BF16": 32}
POOL = 256 * 16381  # a prime number of blocks, so that rows do not fall on each other


class Pool:
    """Random weights of each type, handed out round and round."""

    def __init__(self):
        self.bytes, self.at = {}, {}

    def take(self, kind, n):
        if kind not in self.bytes:
            rng = np.random.default_rng(7)
            raw = quantize(kind, rng.normal(0, 0.02, POOL)) if TYPES[kind][1] == 1 else random_blocks(kind, POOL, rng, 0.02)
            self.bytes[kind], self.at[kind] = raw, 0
        raw, at, want = self.bytes[kind], self.at[kind], row_bytes(kind, n)
        self.at[kind] = (at + want) % len(raw)
        turns = (at + want) // len(raw) + 1
        return memoryview(raw * turns)[at:at + want] if turns > 1 else memoryview(raw)[at:at + want]


def put_vocabulary(w, pre, size):
    """Bytes, and names that no text holds: speed does not depend on what a token says."""
    letters = tiny_models.byte_letters()
    tokens = [letters[b] for b in range(256)]
    tokens += [f"[PAD{i}]" for i in range(size - len(tokens) - 2)] + ["<|im_start|>", "<|im_end|>"]
    w.add("tokenizer.ggml.model", "gpt2")
    w.add("tokenizer.ggml.pre", pre)
    w.add("tokenizer.ggml.tokens", tokens)
    w.add("tokenizer.ggml.token_type", [1] * 256 + [5] * (size - 258) + [3, 3], I32)
    w.add("tokenizer.ggml.merges", [], STRING)
    w.add("tokenizer.ggml.eos_token_id", size - 1)
    w.add("tokenizer.ggml.add_bos_token", False)
    w.add("tokenizer.chat_template", tiny_models.TEMPLATE)


def take_vocabulary(w, path):
    """Another model's, as it stands there; how many tokens it has."""
    keys = {key: value for key, value in Reader(path).keys.items() if key.startswith("tokenizer.")}
    w.keys.update(keys)
    return struct.unpack_from("<IIQ", keys["tokenizer.ggml.tokens"])[2]


def build(shape, kind, vocabulary=None):
    family, width, layers, heads, kv_heads, head, ffn, vocab, base, pre = SHAPES[shape]
    w, pool = Writer(), Pool()
    w.add("general.architecture", family)
    w.add("general.name", f"{shape} {kind}, random weights")
    w.add("general.file_type", FILE_TYPES[kind])
    rot = head // 2 if family == "glm4" else head
    for key, value in {"context_length": 32768, "embedding_length": width, "block_count": layers, "feed_forward_length": ffn,
                       "attention.head_count": heads, "attention.head_count_kv": kv_heads, "attention.key_length": head,
                       "attention.value_length": head, "attention.layer_norm_rms_epsilon": 1e-5, "rope.dimension_count": rot,
                       "rope.freq_base": base}.items():
        w.add(f"{family}.{key}", value)
    if vocabulary:
        vocab = take_vocabulary(w, vocabulary)
    else:
        put_vocabulary(w, pre, vocab)

    def matrix(name, n_in, n_out):
        fits = kind if n_in % TYPES[kind][1] == 0 else FALLBACK[kind]
        w.tensor(name, (n_in, n_out), fits, pool.take(fits, n_in * n_out))

    def ones(name, n):
        w.tensor(name, (n,), "F32", quantize("F32", np.ones(n)))

    matrix("token_embd.weight", width, vocab)
    ones("output_norm.weight", width)
    for i in range(layers):
        b = f"blk.{i}"
        for name, n_in, n_out in (("attn_q", width, heads * head), ("attn_k", width, kv_heads * head),
                                  ("attn_v", width, kv_heads * head), ("attn_output", heads * head, width),
                                  ("ffn_down", ffn, width)):
            matrix(f"{b}.{name}.weight", n_in, n_out)
        if family == "glm4":
            matrix(f"{b}.ffn_up.weight", width, 2 * ffn)
        else:
            matrix(f"{b}.ffn_gate.weight", width, ffn)
            matrix(f"{b}.ffn_up.weight", width, ffn)
        norms = {"qwen3": ["attn_q_norm", "attn_k_norm"], "glm4": ["post_attention_norm", "post_ffw_norm"]}.get(family, [])
        for name in ["attn_norm", "ffn_norm"] + norms:
            ones(f"{b}.{name}.weight", head if name.endswith(("q_norm", "k_norm")) else width)
    return w


def main():
    p = argparse.ArgumentParser(description="Writes a model of a real shape with random weights.")
    p.add_argument("--out", required=True, help="folder, made if missing")
    p.add_argument("--shape", action="append", required=True, choices=sorted(SHAPES), help="may be repeated")
    p.add_argument("--type", default="Q4_K", choices=sorted(TYPES))
    p.add_argument("--vocabulary", metavar="FILE.gguf", help="a model whose vocabulary it has")
    args = p.parse_args()
    os.makedirs(args.out, exist_ok=True)
    for shape in args.shape:
        path = build(shape, args.type, args.vocabulary).write(os.path.join(args.out, f"{shape}-{args.type}.gguf"))
        print(f"{path} {os.path.getsize(path)}")


if __name__ == "__main__":
    main()
