"""Times llama.cpp or ik_llama.cpp through their own batch interface. Runs in the peer's venv.

    worker_llama.py MODEL THREADS LOAD-FLAGS

See workers.py for what is asked and answered. What `autoglm bench` does is done here in the same way: the same token ids, one
step before the clock starts, no sampling, logits for the rows that need them and no others.
"""
import ctypes
import os
import time

import workers

os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # a failed assertion would call a debugger

try:
    import llama_cpp
    from llama_cpp import llama_cpp as api
    IK = False
except ImportError:
    import ik_llama_cpp as llama_cpp
    from ik_llama_cpp import _ctypes_api as api
    IK = True

CHUNK = 2048  # tokens handed over at once; `ubatch` is what is computed at once
KV_TYPES = {"f16": 1, "q8_0": 8}


def bind(name, args, result):
    """A function of the library that ik-llama-cpp-python does not declare."""
    function = getattr(api._lib, name)
    function.argtypes, function.restype = args, result
    return function


class Peer:
    def __init__(self, path, threads, load):
        api.llama_backend_init()
        if IK:
            silent = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
            self.quiet = silent(lambda level, text, data: None)
            bind("llama_log_set", [silent, ctypes.c_void_p], None)(self.quiet, None)
            self.kv_remove = bind("llama_kv_cache_seq_rm", [ctypes.c_void_p] + [ctypes.c_int32] * 3, ctypes.c_bool)
            self.wait = bind("llama_synchronize", [ctypes.c_void_p], None)
            self.about_cpu = bind("llama_print_system_info", [], ctypes.c_char_p)
        else:
            self.quiet = api.llama_log_callback(lambda level, text, data: None)
            api.llama_log_set(self.quiet, ctypes.c_void_p(0))
            self.wait, self.about_cpu = api.llama_synchronize, api.llama_print_system_info
        params = api.llama_model_default_params()
        params.n_gpu_layers = 0
        if IK:
            params.repack_tensors = bool(load.get("repack"))
            params.use_mmap = not load.get("repack")  # as its own program does: repacking needs memory of its own
            params.flash_attn = True
        self.model = api.llama_model_load_from_file(path.encode(), params)
        if not self.model:
            raise RuntimeError(f"{path}: cannot be loaded")
        self.vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))
        self.threads, self.contexts = threads, {}
        self.batch = api.llama_batch_init(CHUNK, 0, 1)

    def about(self):
        return {"version": llama_cpp.__version__, "features": self.about_cpu().decode()}

    def open(self, use, sequences, length, flags):
        """The context for so many sequences of so many tokens, kept with what was filled in for the next time."""
        key = (use, sequences, length, *sorted(flags.items()))
        if key not in self.contexts:
            p = api.llama_context_default_params()
            p.n_seq_max, p.n_ctx = sequences, sequences * length
            p.n_batch, p.n_ubatch = CHUNK, flags["ubatch"]
            p.n_threads = p.n_threads_batch = min(self.threads, flags["threads"])
            p.type_k = p.type_v = KV_TYPES[flags["kv"]]
            p.offload_kqv = False
            if IK:
                p.flash_attn = flags["flash"]
            else:
                p.flash_attn_type = 1 if flags["flash"] else 0
                p.kv_unified = flags["unified"]
                p.op_offload = False
                p.no_perf = True
            context = api.llama_init_from_model(self.model, p)
            if not context:
                raise RuntimeError(f"no context for {key}")
            self.contexts[key] = {"context": context, "filled": 0}
        return self.contexts[key]

    def forget(self, context, sequence, start):
        if IK:
            self.kv_remove(context, sequence, start, -1)
        else:
            api.llama_memory_seq_rm(api.llama_get_memory(context), sequence, start, -1)

    def decode(self, context, rows):
        """rows: (token, position, sequence, wants logits)"""
        b = self.batch
        b.n_tokens = len(rows)
        for i, (token, position, sequence, logits) in enumerate(rows):
            b.token[i], b.pos[i], b.n_seq_id[i], b.logits[i] = token, position, 1, logits
            b.seq_id[i][0] = sequence
        code = api.llama_decode(context, b)
        if code != 0:
            raise RuntimeError(f"llama_decode says {code}")

    def token(self, i):
        return workers.token(i, self.vocab)

    def fill(self, context, sequences, n, last):
        """Position after position of all sequences, so that their cells lie as they do when sequences run together."""
        rows = [(self.token(i), i, s, last and i == n - 1) for i in range(n) for s in range(sequences)]
        for at in range(0, len(rows), CHUNK):
            self.decode(context, rows[at:at + CHUNK])

    def prefill(self, tokens, flags):
        kept = self.open("prefill", 1, workers.round_up(tokens + 1, 256), flags)
        self.forget(kept["context"], 0, 0)
        began = time.perf_counter()
        self.fill(kept["context"], 1, tokens, True)
        self.wait(kept["context"])
        return tokens / (time.perf_counter() - began)

    def generate(self, batch, context, steps, flags):
        kept = self.open(f"decode at {context}", batch, workers.round_up(context + steps + 1, 256), flags)
        it = kept["context"]
        if not kept["filled"]:
            self.fill(it, batch, context, False)
            kept["filled"] = True
        for s in range(batch):
            self.forget(it, s, context)
        for step in range(steps + 1):  # the first warms up
            if step == 1:
                began = time.perf_counter()
            self.decode(it, [(self.token(step * batch + s), context + step, s, True) for s in range(batch)])
            self.wait(it)
        return batch * steps / (time.perf_counter() - began)

    def drop(self, flags):
        """What was tried and not taken gives its memory back."""
        for key in [k for k in self.contexts if k[3:] == tuple(sorted(flags.items()))]:
            api.llama_free(self.contexts.pop(key)["context"])


workers.serve(Peer)
