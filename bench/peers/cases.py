"""What is measured: models, cases, and how each peer may be set.

A case is one thing that every engine does: so many tokens of prefill, or steps of so many sequences. `rows.py` turns
the samples of cases into the rows of the table. Lengths are chosen so that a whole run takes about half an hour on two
cores.
"""
BIG = {False: "llama-1b", True: "smollm2-135m"}  # True: of a quick run
TYPES = ("Q8_0", "Q4_0", "Q4_K")
SMALL = "SmolLM2-135M"


def prefill(model, tokens, **more):
    return {"id": f"{model} prefill {tokens}", "model": model, "do": "prefill", "tokens": tokens, "repeats": 2, **more}


def decode(model, batch, context, steps, **more):
    return {"id": f"{model} decode {batch} at {context}", "model": model, "do": "decode", "batch": batch,
            "context": context, "steps": steps, "repeats": 2, **more}


def cases(quick):
    """In the order of measuring: all cases of a model together, since its workers hold it in memory."""
    short, long, deep, steps = (32, 96, 256, 4) if quick else (512, 6000, 8192, 24)
    found = [decode(SMALL, 1, 128, 4 * steps), decode(SMALL, 32, 128, steps // 2), prefill(SMALL, short),
             # Tens of seconds at the slowest peer: once is enough. What is best for 512 tokens need not be best here.
             prefill(SMALL, long, repeats=1, probe=("flash", "kv", "ubatch"))]
    for kind in TYPES:
        model, like = f"{BIG[quick]}-{kind}", {}
        for case in decode(model, 1, 128, steps), decode(model, 16, 128, steps // 4), prefill(model, short):
            if kind != TYPES[0]:  # flags are tried in one type: what is best hangs on the shape
                like = {"like": case["id"].replace(model, f"{BIG[quick]}-{TYPES[0]}")}
            found.append({**case, **like})
        # The goal is a share of our own rate; filling 8,192 tokens takes the peers a minute each.
        found.append(decode(model, 1, deep, steps, like=f"{model} decode 1 at 128", peers=False))
    found.append(decode(SMALL, 1, deep - 8 * steps, steps, like=f"{SMALL} decode 1 at 128", peers=False))
    return found


def starts(quick):
    """First token of a cold process, and its memory after a prompt of so many tokens."""
    return {"model": f"{BIG[quick]}-{TYPES[0]}", "prompt": 16, "tokens": 64 if quick else 2048}


# What each peer may be given. The first of each is tried first; then one change at a time, kept where it is faster.
# Load flags need a new process each; call flags do not.
LLAMA_CALL = {"flash": [True, False], "unified": [True, False], "ubatch": [512, 2048], "kv": ["f16", "q8_0"]}
OPENVINO = {"batch_tokens": 8192}


def openvino(words, **properties):
    return {"words": words, **OPENVINO, "properties": properties}


VLLM = {"dtype": "bfloat16", "max_num_batched_tokens": 8192}


def vllm(words, form, eager):
    return {"words": words, "form": form, "options": {**VLLM, "enforce_eager": eager},
            "environment": {"VLLM_CPU_KVCACHE_SPACE": "2"}}


LOADS = {
    "llama.cpp": [{"words": ""}],
    "ik_llama.cpp": [{"words": ""}, {"words": "run-time repacking", "repack": True}],
    "OpenVINO": [openvino("default"), openvino("f16 KV", KV_CACHE_PRECISION="f16")],
    "vLLM": [vllm("bf16, compiled", "bf16", False), vllm("int8 W8A8, compiled", "int8", False)],
}


def loads(peer, few):
    return LOADS[peer][:1] if few and peer != "ik_llama.cpp" else LOADS[peer]


def call_flags(peer, case, threads, few=False):
    """{flag: values to try} for one case; few: those alone that change the way of computing."""
    if peer not in ("llama.cpp", "ik_llama.cpp"):
        return {}
    flags = {**LLAMA_CALL, "threads": [threads, *([1] if threads > 1 else [])]}
    if peer == "ik_llama.cpp" or case["do"] == "prefill" or case["batch"] == 1:
        flags["unified"] = [True]
    if case["do"] != "prefill" or case["tokens"] <= 512:
        flags["ubatch"] = [512]
    if case["do"] == "prefill" or case["batch"] > 1:
        flags["threads"] = [threads]
    if few:
        flags = {k: v if k in ("flash", "unified") else v[:1] for k, v in flags.items()}
    if "probe" in case:
        flags = {k: v if k in case["probe"] else v[:1] for k, v in flags.items()}
    return flags


def words(load, call):
    found = [load["words"]] if load.get("words") else []
    if "flash" in call:
        found.append("flash attention" if call["flash"] else "no flash attention")
        found += ["own KV buffers"] if not call["unified"] else []
        found += [f"ubatch {call['ubatch']}"] if call["ubatch"] != 512 else []
        found += [f"KV {call['kv']}"] if call["kv"] != "f16" else []
        found += [f"{call['threads']} thread{'s' if call['threads'] > 1 else ''}"]
    return ", ".join(found)
