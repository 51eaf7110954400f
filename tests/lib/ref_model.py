"""A plain float64 forward pass over a GGUF file, one whole sequence at a time: what the engine's numbers are held against.

Written from the definitions of the model families, with no regard for speed, and with its own reader of the file. Every
family is the same text with a few switches; `Hparams` says where each switch comes from.
"""

import argparse
import math
import mmap
import os
import re
import struct
import sys

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import gguf_writer  # noqa: E402


# ---- the file -------------------------------------------------------------------------------------------------------

class Gguf:
    """Keys as Python values in `keys`; tensors by name as float64 arrays, rows first, from `weight`."""

    def __init__(self, path):
        self.keys, self.index = {}, {}
        parts = [path]
        split = re.fullmatch(r"(.*)-00001-of-(\d{5})\.gguf", path)
        if split:
            parts = [f"{split[1]}-{i + 1:05d}-of-{split[2]}.gguf" for i in range(int(split[2]))]
        for part in parts:
            self._read(part)

    def _read(self, path):
        with open(path, "rb") as f:  # mapped: tensors are views, and a big file costs nothing until it is looked at
            self.raw = memoryview(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ))
        if self.raw[:4] != b"GGUF":
            raise ValueError(f"{path}: not a GGUF file")
        self.at = 4
        version, n_tensors, n_keys = self._unpack("IQQ")
        if version not in (2, 3):
            raise ValueError(f"{path}: version {version}")
        keys = {}
        for _ in range(n_keys):
            key = self._string()
            keys[key] = self._value(self._unpack("I")[0])
        infos = []
        for _ in range(n_tensors):
            name = self._string()
            shape = self._unpack(f"{self._unpack('I')[0]}Q")
            infos.append((name, shape, *self._unpack("IQ")))
        align = keys.get("general.alignment", 32)
        base = self.at + -self.at % align
        for name, shape, number, offset in infos:
            kind = gguf_writer.TYPE_NAMES[number]
            size = gguf_writer.row_bytes(kind, shape[0]) * math.prod(shape[1:])
            self.index[name] = (kind, shape, self.raw[base + offset:base + offset + size])
        self.keys.update(keys)

    def _unpack(self, form):
        values = struct.unpack_from("<" + form, self.raw, self.at)
        self.at += struct.calcsize("<" + form)
        return values

    def _string(self):
        n = self._unpack("Q")[0]
        self.at += n
        return bytes(self.raw[self.at - n:self.at]).decode("utf-8", "surrogateescape")

    def _value(self, kind):
        if kind == gguf_writer.STRING:
            return self._string()
        if kind == gguf_writer.ARRAY:
            item, n = self._unpack("IQ")
            return [self._value(item) for _ in range(n)]
        return self._unpack(gguf_writer._PACK[kind])[0]

    def has(self, name):
        return name in self.index

    def weight(self, name):
        kind, shape, data = self.index[name]
        return gguf_writer.dequantize(kind, data).reshape(tuple(reversed(shape)))

    def optional(self, name):
        return self.weight(name) if self.has(name) else None


# ---- what a family does ---------------------------------------------------------------------------------------------

INTERLEAVED = ("llama", "chatglm", "glm4")  # the others rotate element i with i + n_rot/2
FUSED_FFN = ("chatglm", "glm4", "phi3")
FAMILIES = ("llama", "qwen2", "qwen3", "chatglm", "glm4", "gemma3", "phi3")


class Hparams:
    def __init__(self, g, n_ctx=None):
        self.family = g.keys["general.architecture"]
        if self.family not in FAMILIES:
            raise ValueError(f"family {self.family} is not known")

        def key(name, default=None):
            value = g.keys.get(f"{self.family}.{name}", default)
            if value is None:
                raise KeyError(f"{self.family}.{name}")
            return value

        self.hidden, self.layers, self.ffn = key("embedding_length"), key("block_count"), key("feed_forward_length")
        self.heads = key("attention.head_count")
        self.kv_heads = key("attention.head_count_kv", self.heads)
        self.head_dim = key("attention.key_length", self.hidden // self.heads)
        self.context = key("context_length")
        self.eps = key("attention.layer_norm_rms_epsilon")
        self.n_rot = key("rope.dimension_count", self.head_dim)
        self.base = key("rope.freq_base", 10000.0)
        self.scaling = key("rope.scaling.type", "linear")
        factor = key("rope.scaling.factor", 0.0) or key("rope.scale_linear", 0.0) or 1.0
        self.freq_scale = 1.0 if self.scaling == "none" else 1.0 / factor
        self.original = key("rope.scaling.original_context_length", self.context)
        self.attn_factor = key("rope.scaling.attn_factor", 1.0)
        self.ext_factor = key("rope.scaling.yarn_ext_factor", 1.0 if self.scaling == "yarn" else 0.0)
        self.beta_fast = key("rope.scaling.yarn_beta_fast", 32.0)
        self.beta_slow = key("rope.scaling.yarn_beta_slow", 1.0)
        self.window = key("attention.sliding_window", 0)
        self.softcap = key("final_logit_softcapping", 0.0) if self.family == "gemma3" else 0.0
        self.base_sliding = key("rope.freq_base_swa", 10000.0)

        self.freq_factors = g.optional("rope_freqs.weight")
        if g.has("rope_factors_long.weight"):
            long = (n_ctx or self.context) > self.original
            self.freq_factors = g.weight(f"rope_factors_{'long' if long else 'short'}.weight")

        period = key("attention.sliding_window_pattern", 6 if self.family == "gemma3" else 0)
        if not self.window:
            self.sliding = [False] * self.layers
        elif isinstance(period, list):
            self.sliding = [bool(v) for v in period]
        elif self.family == "gemma3":
            self.sliding = [i % period < period - 1 for i in range(self.layers)]
        else:
            self.sliding = [True] * self.layers

        self.embed_scale = math.sqrt(self.hidden) if self.family == "gemma3" else 1.0
        per_head = self.hidden // self.heads if self.family == "gemma3" and self.layers == 62 else self.head_dim
        self.attn_scale = 1.0 / math.sqrt(per_head)


# ---- the steps ------------------------------------------------------------------------------------------------------

def rms_norm(x, w, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * w


def silu(x):
    return x / (1 + np.exp(-x))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))


def rope_angles(hp, positions, local):
    """Angle of each pair at each position, and the factor on sine and cosine."""
    pair = np.arange(hp.n_rot // 2)
    base, scale, ext, factor = hp.base, hp.freq_scale, hp.ext_factor, hp.attn_factor
    if local:
        base, scale = hp.base_sliding, 1.0
    plain = positions[:, None] * base ** (-2.0 * pair / hp.n_rot)[None, :]
    if hp.freq_factors is not None:
        plain = plain / hp.freq_factors
    if not ext:
        return plain * scale, factor

    def turns(n):  # the pair that makes n full turns over the original context
        return hp.n_rot * math.log(hp.original / (n * 2 * math.pi)) / (2 * math.log(base))

    low = max(0, math.floor(turns(hp.beta_fast)))
    high = min(hp.n_rot - 1, math.ceil(turns(hp.beta_slow)))
    keep = ext * (1 - np.clip((pair - low) / max(0.001, high - low), 0, 1))
    return plain * scale * (1 - keep) + plain * keep, factor * (1 + 0.1 * math.log(1 / scale))


def rope(hp, x, positions, local):
    """x: [token, head, element]."""
    theta, factor = rope_angles(hp, positions, local)
    c, s = (np.cos(theta) * factor)[:, None, :], (np.sin(theta) * factor)[:, None, :]
    y = x.copy()
    if hp.family in INTERLEAVED:
        first, second = slice(0, hp.n_rot, 2), slice(1, hp.n_rot, 2)
    else:
        first, second = slice(0, hp.n_rot // 2), slice(hp.n_rot // 2, hp.n_rot)
    a, b = x[..., first], x[..., second]
    y[..., first], y[..., second] = a * c - b * s, a * s + b * c
    return y


def attention(hp, q, k, v, sliding, pairs=False):
    n = q.shape[0]
    back = np.arange(n)[:, None] - np.arange(n)[None, :]
    seen = back >= 0
    if sliding:
        seen &= back < hp.window
    out = np.empty_like(q)
    near = bf16 if pairs else lambda x: x
    q, k, v = near(q * hp.attn_scale), near(k), near(v)
    for h in range(hp.heads):
        kv = h // (hp.heads // hp.kv_heads)
        score = np.where(seen, q[:, h] @ k[:, kv].T, -np.inf)
        p = near(np.exp(score - score.max(axis=1, keepdims=True)))
        out[:, h] = p / p.sum(axis=1, keepdims=True) @ v[:, kv]
    return out


def bf16(x):
    u = x.astype(np.float32).view(np.uint32)
    return ((u + 0x7FFF + (u >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(np.float64)


def int8_blocks(x):
    """x as products with quantized weights see it: blocks of 32, int8 and a scale."""
    b = x.reshape(-1, 32)
    d = np.abs(b).max(axis=1, keepdims=True) / 127
    return (np.rint(b / np.where(d == 0, 1, d)) * d).reshape(x.shape)


class Model:
    """n_ctx: tokens that a sequence may have, where that differs from the file's context length (longrope asks).

    rounded: round where an engine does for speed (K and V to float16, the other factor of quantized weights to int8).
    pairs: as it does where the processor multiplies pairs of bfloat16: all that attention multiplies, and the other factor of
    BF16 weights.
    The distance between a rounded and an exact run says how much of an engine's error rounding explains.
    """

    def __init__(self, path, n_ctx=None, rounded=False, pairs=False):
        self.g, self.rounded, self.pairs = Gguf(path), rounded, pairs
        self.hp = Hparams(self.g, n_ctx)
        self.embed = self.g.weight("token_embd.weight")
        self.out = self.g.weight("output.weight") if self.g.has("output.weight") else self.embed

    def _times(self, name, w, x):
        quantized = self.g.index[name][0] not in ("F32", "F16", "BF16")
        if self.pairs and self.g.index[name][0] == "BF16":
            x = bf16(x)
        return (int8_blocks(x) if self.rounded and quantized else x) @ w.T

    def _product(self, layer, name, x):
        name_w = f"blk.{layer}.{name}.weight"
        y = self._times(name_w, self.g.weight(name_w), x)
        bias = self.g.optional(f"blk.{layer}.{name}.bias")
        return y if bias is None else y + bias

    def _norm(self, layer, name, x):
        """Norms that a family does not have leave x as it is."""
        w = self.g.optional(f"blk.{layer}.{name}.weight")
        return x if w is None else rms_norm(x, w, self.hp.eps)

    def _qkv(self, i, x):
        hp, n = self.hp, x.shape[0]
        if self.g.has(f"blk.{i}.attn_qkv.weight"):
            rows = hp.heads * hp.head_dim, (hp.heads + hp.kv_heads) * hp.head_dim
            q, k, v = np.split(self._product(i, "attn_qkv", x), rows, axis=1)
        else:
            q, k, v = (self._product(i, f"attn_{name}", x) for name in "qkv")
        return (t.reshape(n, heads, hp.head_dim) for t, heads in ((q, hp.heads), (k, hp.kv_heads), (v, hp.kv_heads)))

    def _attention(self, i, x):
        hp, positions = self.hp, np.arange(x.shape[0], dtype=np.float64)
        q, k, v = self._qkv(i, x)
        q, k = self._norm(i, "attn_q_norm", q), self._norm(i, "attn_k_norm", k)
        local = hp.family == "gemma3" and hp.sliding[i]
        q, k = rope(hp, q, positions, local), rope(hp, k, positions, local)
        if self.rounded:
            k, v = k.astype(np.float16).astype(np.float64), v.astype(np.float16).astype(np.float64)
        return self._product(i, "attn_output", attention(hp, q, k, v, hp.sliding[i], self.pairs).reshape(x.shape[0], -1))

    def _ffn(self, i, x):
        act = gelu_tanh if self.hp.family == "gemma3" else silu
        if self.hp.family in FUSED_FFN:
            gate, up = np.split(self._product(i, "ffn_up", x), 2, axis=1)
        else:
            gate, up = self._product(i, "ffn_gate", x), self._product(i, "ffn_up", x)
        return self._product(i, "ffn_down", act(gate) * up)

    def layer(self, i, x):
        x = x + self._norm(i, "post_attention_norm", self._attention(i, self._norm(i, "attn_norm", x)))
        return x + self._norm(i, "post_ffw_norm", self._ffn(i, self._norm(i, "ffn_norm", x)))

    def hidden(self, tokens):
        """After the final norm: one row per position."""
        x = self.embed[np.asarray(tokens)] * self.hp.embed_scale
        for i in range(self.hp.layers):
            x = self.layer(i, x)
        return rms_norm(x, self.g.weight("output_norm.weight"), self.hp.eps)

    def embedding(self, tokens, pooling):
        """The mean of what is there after the final norm, or the last position's, as a vector of length 1."""
        x = self.hidden(tokens)
        x = x[-1] if pooling == "last" else x.mean(axis=0)
        return x / np.linalg.norm(x)

    def logits(self, tokens):
        name = "output.weight" if self.g.has("output.weight") else "token_embd.weight"
        y = self._times(name, self.out, self.hidden(tokens))
        return self.hp.softcap * np.tanh(y / self.hp.softcap) if self.hp.softcap else y

    def greedy(self, tokens, count):
        """The `count` tokens that follow at temperature 0."""
        tokens = list(tokens)
        for _ in range(count):
            tokens.append(int(self.logits(tokens)[-1].argmax()))
        return tokens[len(tokens) - count:]


def main():
    p = argparse.ArgumentParser(description="Logits of a GGUF file in float64, as float32 rows.")
    p.add_argument("-m", "--model", required=True)
    p.add_argument("--tokens", required=True, help="1,2,3")
    p.add_argument("--ctx", type=int, help="context of a sequence, when it is not the file's (longrope)")
    p.add_argument("--raw", help="write float32 rows here instead of printing the best of each")
    args = p.parse_args()
    y = Model(args.model, args.ctx).logits([int(t) for t in args.tokens.split(",")])
    if args.raw:
        y.astype("<f4").tofile(args.raw)
    else:
        for row in y:
            best = row.argsort()[::-1][:10]
            print(" ".join(f"{i}:{row[i]:.4f}" for i in best))


if __name__ == "__main__":
    main()
