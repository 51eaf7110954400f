"""Small random models of every family, with a tokenizer and a chat template, so that they can be served as well.

The same name and type give the same bytes everywhere. Weights are scaled so that the numbers matter: scores differ enough
for attention to choose, positions rotate visibly, and every layer changes the answer.

    python3 tests/lib/tiny_models.py --out DIR [--family NAME ...] [--type TYPE]
"""

import argparse
import os
import sys
import zlib

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from gguf_writer import F32, I32, STRING, TYPES, Writer, quantize, random_blocks  # noqa: E402

# ---- tokenizers -----------------------------------------------------------------------------------------------------

SAMPLE = ("once upon a time there was a little house in the forest and the people of the house went to the river every "
          "day to fetch water . the water was cold and clear , and the little ones played there until the sun went "
          "down . then they all came home and told each other what they had seen on the way to the river .")
NAMES = {"end": "<|im_end|>", "begin": "<|im_start|>"}
TEMPLATE = ("{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
            "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def byte_letters():
    """GPT-2's way to write bytes as letters: printable ones are themselves, the rest move up from U+0100."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters, extra = {b: chr(b) for b in plain}, 0
    for b in range(256):
        if b not in letters:
            letters[b] = chr(0x100 + extra)
            extra += 1
    return letters


def learn_merges(words, count):
    """The most frequent neighbours, joined again and again; ties go to the smaller pair."""
    merges = []
    for _ in range(count):
        seen = {}
        for w in words:
            for pair in zip(w, w[1:]):
                seen[pair] = seen.get(pair, 0) + 1
        if not seen:
            break
        best = min(seen, key=lambda p: (-seen[p], p))
        merges.append(best)
        for w in words:
            i = 0
            while i + 1 < len(w):
                if (w[i], w[i + 1]) == best:
                    w[i:i + 2] = [w[i] + w[i + 1]]
                i += 1
    return merges


def put_bpe(w, pre):
    letters = byte_letters()
    words = [[letters[b] for b in (" " + word).encode()] for word in SAMPLE.split()]
    merges = learn_merges(words, 60)
    tokens = [letters[b] for b in range(256)] + [a + b for a, b in merges]
    kinds = [1] * len(tokens) + [3] * 3
    tokens += ["<|endoftext|>", NAMES["begin"], NAMES["end"]]
    w.add("tokenizer.ggml.model", "gpt2")
    w.add("tokenizer.ggml.pre", pre)
    w.add("tokenizer.ggml.tokens", tokens)
    w.add("tokenizer.ggml.token_type", kinds, I32)
    w.add("tokenizer.ggml.merges", [f"{a} {b}" for a, b in merges])
    w.add("tokenizer.ggml.bos_token_id", tokens.index("<|endoftext|>"))
    w.add("tokenizer.ggml.eos_token_id", tokens.index(NAMES["end"]))
    w.add("tokenizer.ggml.add_bos_token", False)
    return len(tokens)


def put_spm(w, space_prefix):
    words = [list("\u2581" + word) for word in SAMPLE.split()]
    letters = sorted({c for word in words for c in word})
    merges = learn_merges(words, 60)
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    kinds, scores = [2, 3, 3] + [6] * 256, [0.0] * 259
    for rank, (a, b) in enumerate(merges):
        tokens.append(a + b)
        scores.append(-1.0 - rank)
    for rank, letter in enumerate(letters):
        tokens.append(letter)
        scores.append(-1.0 - len(merges) - rank)
    kinds += [1] * (len(tokens) - len(kinds)) + [3] * 2
    tokens += [NAMES["begin"], NAMES["end"]]
    scores += [0.0] * 2
    w.add("tokenizer.ggml.model", "llama")
    w.add("tokenizer.ggml.pre", "default")
    w.add("tokenizer.ggml.tokens", tokens)
    w.add("tokenizer.ggml.scores", scores, F32)
    w.add("tokenizer.ggml.token_type", kinds, I32)
    w.add("tokenizer.ggml.bos_token_id", 1)
    w.add("tokenizer.ggml.eos_token_id", tokens.index(NAMES["end"]))
    w.add("tokenizer.ggml.unknown_token_id", 0)
    w.add("tokenizer.ggml.add_bos_token", True)
    w.add("tokenizer.ggml.add_space_prefix", space_prefix)
    return len(tokens)


# ---- the variants ---------------------------------------------------------------------------------------------------

def llama3_factors(pairs, base, factor=8.0, low=1.0, high=4.0, original=64):
    """What the converter puts into rope_freqs.weight: 1 for fast pairs, `factor` for slow ones, smooth between."""
    wave = 2 * np.pi * base ** (np.arange(pairs) / pairs)
    smooth = (original / wave - low) / (high - low)
    out = 1 / ((1 - smooth) / factor + smooth)
    out[wave < original / high] = 1
    out[wave > original / low] = factor
    return out


SPM, SPM_BARE = ("spm", True), ("spm", False)
BASE = dict(hidden=64, layers=3, heads=4, kv_heads=2, head_dim=None, ffn=160, context=512, tied=False, bias="", fused=False,
            tokenizer=("bpe", "gpt-2"), rope_dims=None, keys={}, factors=None)


def variant(family, **changes):
    return {**BASE, "family": family, **changes}


YARN = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 2048}
QWEN = ("bpe", "qwen2")
GEMMA = dict(layers=7, head_dim=32, tied=True, tokenizer=SPM_BARE, keys={"attention.sliding_window": 8, "rope.freq_base": 1e6})
PHI = dict(fused=True, tokenizer=SPM)
LONGROPE = {"rope.scaling.original_context_length": 256, "rope.scaling.attn_factor": 1.19}

VARIANTS = {
    "llama": variant("llama", tokenizer=SPM),
    "llama-tied": variant("llama", tied=True, kv_heads=4, ffn=172, tokenizer=("bpe", "smollm")),
    "llama-headdim": variant("llama", head_dim=32, kv_heads=1),
    "llama-bias": variant("llama", bias="qkv output ffn"),
    "llama-fused": variant("llama", fused=True),
    "llama-rope3": variant("llama", head_dim=32, keys={"rope.freq_base": 500000.0}, tokenizer=("bpe", "llama-bpe"),
                           factors={"rope_freqs": llama3_factors(16, 500000.0)}),
    "llama-linear": variant("llama", keys={"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}),
    "llama-yarn": variant("llama", head_dim=32, keys=YARN, context=8192),
    "llama-window": variant("llama", keys={"attention.sliding_window": 8}, tokenizer=SPM),
    "qwen2": variant("qwen2", bias="qkv", tokenizer=QWEN, keys={"rope.freq_base": 1e6}),
    "qwen2-yarn": variant("qwen2", bias="qkv", heads=2, kv_heads=1, tokenizer=QWEN, context=8192, keys={
        **YARN, "rope.scaling.yarn_beta_fast": 16.0, "rope.scaling.yarn_beta_slow": 2.0, "rope.scaling.attn_factor": 0.9}),
    "qwen3": variant("qwen3", head_dim=32, tied=True, tokenizer=QWEN, keys={"rope.freq_base": 1e6}),
    "chatglm": variant("chatglm", bias="qkv", fused=True, rope_dims=8, tokenizer=("bpe", "chatglm-bpe")),
    "glm4": variant("glm4", bias="qkv", rope_dims=8, tokenizer=("bpe", "glm4")),
    "glm4-yarn": variant("glm4", head_dim=32, rope_dims=16, keys=YARN, context=8192, tokenizer=("bpe", "glm4")),
    "gemma3": variant("gemma3", **{**GEMMA, "keys": {
        **GEMMA["keys"], "rope.scaling.type": "linear", "rope.scaling.factor": 8.0}}),
    "gemma3-full": variant("gemma3", **{**GEMMA, "layers": 3, "keys": {"rope.freq_base": 1e6}}),
    "gemma3-softcap": variant("gemma3", **{**GEMMA, "layers": 4, "keys": {
        **GEMMA["keys"], "attention.sliding_window_pattern": 2, "rope.freq_base_swa": 500.0, "final_logit_softcapping": 3.0}}),
    "gemma3-27b": variant("gemma3", **{**GEMMA, "hidden": 32, "layers": 62, "heads": 4, "head_dim": 16, "ffn": 32}),
    "phi3": variant("phi3", **PHI),
    "phi3-window": variant("phi3", **PHI, keys={"attention.sliding_window": 8}),
    "phi3-partial": variant("phi3", **{**PHI, "head_dim": 16, "rope_dims": 12, "tied": True, "tokenizer": ("bpe", "gpt-2")}),
    "phi3-longrope": variant("phi3", **PHI, context=1024, keys=LONGROPE, factors={
        "rope_factors_long": np.linspace(1.5, 6, 8), "rope_factors_short": np.linspace(1, 1.6, 8)}),
    "phi3-shortrope": variant("phi3", **PHI, context=256, keys=LONGROPE, factors={
        "rope_factors_long": np.linspace(1.5, 6, 8), "rope_factors_short": np.linspace(1, 1.6, 8)}),
}


def variants(kind):
    """Names of the variants that make sense in a type: 62 layers of whole 256-weight blocks would not be tiny."""
    return [n for n, v in VARIANTS.items() if TYPES[kind][1] < 256 or v["layers"] < 10]


# ---- writing --------------------------------------------------------------------------------------------------------

def widen(v):
    """The same variant with rows of whole 256-weight blocks, for the K types."""
    wide = {**v, "hidden": 256, "head_dim": 64, "ffn": 512}
    wide["heads"], wide["kv_heads"] = 4, 2
    if v["rope_dims"]:
        wide["rope_dims"] = v["rope_dims"] * 64 // (v["head_dim"] or v["hidden"] // v["heads"])
    if v["factors"]:
        wide["factors"] = {n: np.interp(np.linspace(0, 1, 32), np.linspace(0, 1, len(f)), f) for n, f in v["factors"].items()}
    return wide


class Builder:
    def __init__(self, name, kind):
        self.kind = kind
        self.v = widen(VARIANTS[name]) if TYPES[kind][1] == 256 else VARIANTS[name]
        self.rng = np.random.default_rng(zlib.crc32(f"{name} {kind}".encode()))
        self.w = Writer()
        self.hd = self.v["head_dim"] or self.v["hidden"] // self.v["heads"]

    def matrix(self, name, n_in, n_out, gain=1.0):
        """Rows of n_in weights; `gain` is the size of the output for an input of size one."""
        kind, std = self.kind, gain / np.sqrt(n_in)
        if n_in % TYPES[kind][1]:
            kind = "F16"
        if TYPES[kind][1] == 256 or kind == "IQ4_NL":
            data = random_blocks(kind, n_in * n_out, self.rng, std)
        else:
            data = quantize(kind, self.rng.normal(0, std, n_in * n_out))
        self.w.tensor(name, (n_in, n_out), kind, data)

    def vector(self, name, n, mean, std):
        self.w.tensor(name, (n,), "F32", quantize("F32", self.rng.normal(mean, std, n)))

    def product(self, name, n_in, n_out, gain=1.0, bias=False):
        self.matrix(f"{name}.weight", n_in, n_out, gain)
        if bias:
            self.vector(f"{name}.bias", n_out, 0, 0.3)

    def layer(self, b):
        v, h = self.v, self.v["hidden"]
        q, kv = v["heads"] * self.hd, v["kv_heads"] * self.hd
        self.vector(f"{b}.attn_norm.weight", h, 1, 0.1)
        if v["fused"]:
            self.product(f"{b}.attn_qkv", h, q + 2 * kv, 1.2, "qkv" in v["bias"])
        else:
            for part, n in (("q", q), ("k", kv), ("v", kv)):
                self.product(f"{b}.attn_{part}", h, n, 1.2, "qkv" in v["bias"])
        self.product(f"{b}.attn_output", q, h, 0.8, "output" in v["bias"])
        if v["family"] in ("qwen3", "gemma3"):
            self.vector(f"{b}.attn_q_norm.weight", self.hd, 1.2, 0.1)
            self.vector(f"{b}.attn_k_norm.weight", self.hd, 1.2, 0.1)
        if v["family"] in ("glm4", "gemma3"):
            self.vector(f"{b}.post_attention_norm.weight", h, 0.7, 0.1)
            self.vector(f"{b}.post_ffw_norm.weight", h, 0.7, 0.1)
        self.vector(f"{b}.ffn_norm.weight", h, 1, 0.1)
        ffn_bias = "ffn" in v["bias"]
        if v["family"] in ("chatglm", "glm4", "phi3"):
            self.product(f"{b}.ffn_up", h, 2 * v["ffn"], 1.2, ffn_bias)
        else:
            self.product(f"{b}.ffn_gate", h, v["ffn"], 1.2, ffn_bias)
            self.product(f"{b}.ffn_up", h, v["ffn"], 1.2, ffn_bias)
        self.product(f"{b}.ffn_down", v["ffn"], h, 1.2, ffn_bias)

    def build(self, name):
        v, w = self.v, self.w
        family = v["family"]
        w.add("general.architecture", family)
        # A name with "phi3" in it makes llama.cpp look for that model's own special tokens.
        w.add("general.name", f"tiny-{name.replace('phi3', 'phi')}-{self.kind}")
        keys = {"context_length": v["context"], "embedding_length": v["hidden"], "block_count": v["layers"],
                "feed_forward_length": v["ffn"], "attention.head_count": v["heads"],
                "attention.head_count_kv": v["kv_heads"], "attention.layer_norm_rms_epsilon": 1e-5,
                "rope.dimension_count": v["rope_dims"] or self.hd}
        if self.hd * v["heads"] != v["hidden"]:
            keys.update({"attention.key_length": self.hd, "attention.value_length": self.hd})
        for key, value in {**keys, **v["keys"]}.items():
            w.add(f"{family}.{key}", value)
        style, how = v["tokenizer"]
        vocab = put_spm(w, how) if style == "spm" else put_bpe(w, how)
        w.add("tokenizer.chat_template", TEMPLATE)

        h = v["hidden"]
        self.matrix("token_embd.weight", h, vocab, 0.3 * np.sqrt(h) if family != "gemma3" else 0.5)
        if not v["tied"]:
            self.matrix("output.weight", h, vocab, 2.0)
        self.vector("output_norm.weight", h, 3 if family == "gemma3" else 1, 0.1)
        for tensor, factors in (v["factors"] or {}).items():
            w.tensor(f"{tensor}.weight", (len(factors),), "F32", quantize("F32", factors))
        for i in range(v["layers"]):
            self.layer(f"blk.{i}")
        return w


def build(name, kind="F32"):
    """A Writer that holds the model; write() or write_split() puts it on disk."""
    return Builder(name, kind).build(name)


def write(folder, name, kind="F32"):
    path = os.path.join(folder, f"tiny-{name}-{kind}.gguf")
    return build(name, kind).write(path)


def pad_heads(w, heads, have, want):
    """Rows of a matrix or bias, head by head, with zeros up to a longer head."""
    w = w.reshape(heads, have, -1)
    return np.concatenate([w, np.zeros((heads, want - have, w.shape[2]))], axis=1).reshape(heads * want, -1)


def write_glm4_layer(data, path):
    """A GGUF of the one GLM-4 layer in glm4_model.data, and its cases [(tokens so far, rows expected)].

    The vocabulary is padded to the width so that the output matrix can be the identity: logits are the final norm's rows.
    Heads of 4 are padded to 8, since the engine takes multiples of 8; q makes up for the other length in the scale.
    """
    raw, at = np.fromfile(data, "<f4").astype(np.float64), 0

    def take(*shape):
        nonlocal at
        at += int(np.prod(shape))
        return raw[at - int(np.prod(shape)):at].reshape(shape)

    h, ffn, heads, kv_heads, have, hd = 32, 48, 8, 2, 4, 8

    def pad_qkv(w):
        q, k, v = np.split(w, [heads * have, (heads + kv_heads) * have])
        parts = (q * np.sqrt(hd / have), heads), (k, kv_heads), (v, kv_heads)
        return np.concatenate([pad_heads(part, n, have, hd) for part, n in parts])

    tensors = {"token_embd.weight": np.concatenate([take(5, h), np.zeros((h - 5, h))]), "output.weight": np.eye(h)}
    tensors["blk.0.attn_norm.weight"] = take(h)
    tensors["blk.0.attn_qkv.weight"] = pad_qkv(take((heads + 2 * kv_heads) * have, h))
    tensors["blk.0.attn_qkv.bias"] = pad_qkv(take((heads + 2 * kv_heads) * have)).reshape(-1)
    tensors["blk.0.attn_output.weight"] = pad_heads(take(h, h).T, heads, have, hd).T
    tensors["blk.0.ffn_norm.weight"] = take(h)
    gate, up = take(ffn, h), take(ffn, h)
    tensors["blk.0.ffn_up.weight"] = np.concatenate([gate, up])
    tensors["blk.0.ffn_down.weight"] = take(h, ffn)
    tensors["output_norm.weight"] = take(h)
    w = Writer()
    w.add("general.architecture", "chatglm")
    for key, value in {"context_length": 64, "embedding_length": h, "block_count": 1, "feed_forward_length": ffn,
                       "attention.head_count": heads, "attention.head_count_kv": kv_heads, "attention.key_length": hd,
                       "attention.value_length": hd, "attention.layer_norm_rms_epsilon": 1.5625e-07,
                       "rope.dimension_count": have // 2}.items():
        w.add(f"chatglm.{key}", value)
    letters = byte_letters()
    w.add("tokenizer.ggml.model", "gpt2")
    w.add("tokenizer.ggml.pre", "chatglm-bpe")
    w.add("tokenizer.ggml.tokens", [letters[b] for b in range(h)])
    w.add("tokenizer.ggml.token_type", [1] * h, I32)
    w.add("tokenizer.ggml.merges", [], STRING)
    w.add("tokenizer.ggml.eos_token_id", h - 1)
    w.add("tokenizer.ggml.add_bos_token", False)
    for name, value in tensors.items():
        w.tensor(name, tuple(reversed(value.shape)), "F32", quantize("F32", value.reshape(-1)))
    w.write(path)
    raw, tokens, cases = np.fromfile(data, "<f4"), [], []
    for n in (3, 1, 1):
        tokens = tokens + [int(t) for t in take(n).view("<i4")]
        cases.append((tokens, take(n, h).astype(np.float64)))
    return cases


def main():
    p = argparse.ArgumentParser(description="Writes small random models.")
    p.add_argument("--out", required=True, help="folder, made if missing")
    p.add_argument("--family", action="append", choices=sorted(VARIANTS), help="a variant; may be repeated; default all")
    p.add_argument("--type", default="F32", choices=sorted(TYPES))
    args = p.parse_args()
    os.makedirs(args.out, exist_ok=True)
    for name in args.family or variants(args.type):
        path = write(args.out, name, args.type)
        print(f"{path} {os.path.getsize(path)}")


if __name__ == "__main__":
    main()
