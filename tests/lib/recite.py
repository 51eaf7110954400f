"""A model that recites: whatever it is asked, its answer is the same text, token by token, and then the end. So a real server
gives real clients whatever a large model might say.

Each token has a place of its own in the residual stream and all layers are zero, so that the output matrix alone says what
follows what: a new line (the last token of the prompt) is followed by the text's first token.
"""
import re

import numpy as np

from gguf_writer import I32, STRING, Writer, quantize
from tiny_models import byte_letters

END = "<|im_end|>"
# A conversation with tools, as plain as can be; prompts end with a new line.
TURNS = ("{%- for m in messages -%}{{ m.role }}: {{ m.content }}{% for c in m.tool_calls or [] %} calls {{ c.id }} {{ c.function.name }}"
         " {{ c.function.arguments | tojson }}{% endfor %}{% if m.tool_call_id %} for {{ m.tool_call_id }}{% endif %}\n{%- endfor -%}"
         "{% for t in tools or [] %}{{ t.function.name }}: {{ t.function.description }}\n{% endfor %}"
         "{%- if add_generation_prompt -%}assistant:{{ '\\n' }}{%- endif -%}")


def pieces(text, control):
    """The text as tokens that are all different: control tokens, and pieces of two bytes and more."""
    found, seen = [], set()
    for part in re.split("(" + "|".join(map(re.escape, control)) + ")" if control else "(?!)", text):
        data = part.encode()
        while data:
            n = len(data) if part in control else 2
            while data[:n] in seen or len(data) - n == 1:
                n += 1
            assert n <= len(data) > 1, "no two tokens may be the same, and those of one byte are the alphabet"
            seen.add(data[:n])
            found.append((data[:n], part in control))
            data = data[n:]
    return found


def write(path, text, template, control=()):
    """`control`: what in the text is a control token. The template must end its prompts with a new line."""
    letters = byte_letters()
    said = pieces(text, control)
    tokens = [letters[b] for b in range(256)] + [END] + [p.decode() if c else "".join(letters[b] for b in p) for p, c in said]
    kinds = [1] * 256 + [3] + [3 if c else 1 for _, c in said]
    width = (len(tokens) + 63) // 64 * 64
    follows = {ord("\n"): 257}
    for i in range(len(said)):
        follows[257 + i] = 257 + i + 1 if i + 1 < len(said) else 256
    output = np.zeros((len(tokens), width))
    for before, after in follows.items():
        output[after, before] = 4
    w = Writer()
    w.add("general.architecture", "llama")
    for key, value in {"context_length": 4096, "embedding_length": width, "block_count": 1, "feed_forward_length": 32,
                       "attention.head_count": width // 64, "attention.head_count_kv": 1,
                       "attention.layer_norm_rms_epsilon": 1e-5, "rope.dimension_count": 64}.items():
        w.add(f"llama.{key}", value)
    w.add("tokenizer.ggml.model", "gpt2")
    w.add("tokenizer.ggml.pre", "gpt-2")
    w.add("tokenizer.ggml.tokens", tokens)
    w.add("tokenizer.ggml.token_type", kinds, I32)
    w.add("tokenizer.ggml.merges", [], STRING)
    w.add("tokenizer.ggml.bos_token_id", 256)
    w.add("tokenizer.ggml.eos_token_id", 256)
    w.add("tokenizer.ggml.add_bos_token", False)
    w.add("tokenizer.chat_template", template)
    for name, rows, columns in (("attn_q", width, width), ("attn_k", 64, width), ("attn_v", 64, width), ("attn_output", width, width),
                                ("ffn_gate", 32, width), ("ffn_up", 32, width), ("ffn_down", width, 32)):
        w.tensor(f"blk.0.{name}.weight", (columns, rows), "F32", quantize("F32", np.zeros(rows * columns)))
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        w.tensor(f"{name}.weight", (width,), "F32", quantize("F32", np.ones(width)))
    w.tensor("token_embd.weight", (width, len(tokens)), "F32", quantize("F32", np.eye(len(tokens), width).reshape(-1)))
    w.tensor("output.weight", (width, len(tokens)), "F32", quantize("F32", output.reshape(-1)))
    w.write(path)
    return path
