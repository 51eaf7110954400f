"""Times llama.cpp through its own batch interface. Runs in the peer's venv; JSON lines in, JSON lines out.

    llama_worker.py MODEL THREADS
    {"kind": "prefill", "tokens": 512, "repeats": 3, "flash": true, "unified": true}             -> {"tok_s": ...}
    {"kind": "decode", "batch": 8, "context": 128, "steps": 32, "repeats": 3, "flash": ..., ...} -> {"tok_s": ...}

What `autoglm bench` does is done here in the same way: the same token ids, one step before the clock starts, no sampling,
logits for the rows that need them and no others.
"""
import ctypes
import json
import statistics
import sys
import time

import llama_cpp
from llama_cpp import llama_cpp as api

CHUNK = 512  # tokens handed over at once: llama.cpp's own default


class Peer:
    def __init__(self, path, threads):
        self.quiet = api.llama_log_callback(lambda level, text, data: None)
        api.llama_log_set(self.quiet, ctypes.c_void_p(0))
        api.llama_backend_init()
        params = api.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = api.llama_model_load_from_file(path.encode(), params)
        if not self.model:
            raise RuntimeError(f"{path}: llama.cpp cannot load it")
        vocab = api.llama_model_get_vocab(self.model)
        self.vocab = api.llama_vocab_n_tokens(vocab)
        self.ends = sorted({t for t in range(self.vocab) if api.llama_vocab_is_eog(vocab, t)})
        self.threads, self.key, self.context = threads, None, None
        self.batch = api.llama_batch_init(CHUNK, 0, 1)

    def open(self, sequences, length, flash, unified):
        """A context for so many sequences of so many tokens; the last one is kept."""
        key = (sequences, length, flash, unified)
        if self.key != key:
            if self.context:
                api.llama_free(self.context)
            p = api.llama_context_default_params()
            p.n_seq_max, p.n_ctx = sequences, sequences * length
            p.n_batch = p.n_ubatch = CHUNK
            p.n_threads = p.n_threads_batch = self.threads
            p.flash_attn_type = 1 if flash else 0
            p.kv_unified = unified
            p.offload_kqv = p.op_offload = False
            p.no_perf = True
            self.context, self.key = api.llama_init_from_model(self.model, p), key
            if not self.context:
                raise RuntimeError(f"llama.cpp gives no context for {key}")
        self.memory = api.llama_get_memory(self.context)
        api.llama_memory_clear(self.memory, True)

    def decode(self, rows):
        """rows: (token, position, sequence, wants logits)"""
        b = self.batch
        b.n_tokens = len(rows)
        for i, (token, position, sequence, logits) in enumerate(rows):
            b.token[i], b.pos[i], b.n_seq_id[i], b.logits[i] = token, position, 1, logits
            b.seq_id[i][0] = sequence
        code = api.llama_decode(self.context, b)
        if code != 0:
            raise RuntimeError(f"llama_decode says {code}")

    def token(self, i):
        return (i * 7919 + 13) % self.vocab

    def fill(self, sequence, n, last):
        for at in range(0, n, CHUNK):
            self.decode([(self.token(i), i, sequence, last and i == n - 1) for i in range(at, min(n, at + CHUNK))])

    def prefill(self, tokens, repeats, flash, unified):
        self.open(1, -(-(tokens + 1) // 256) * 256, flash, unified)
        rates = []
        for turn in range(repeats + 1):  # the first warms up
            api.llama_memory_clear(self.memory, False)
            began = time.perf_counter()
            self.fill(0, tokens, True)
            api.llama_synchronize(self.context)
            if turn:
                rates.append(tokens / (time.perf_counter() - began))
        return statistics.median(rates)

    def generate(self, batch, context, steps, repeats, flash, unified):
        self.open(batch, -(-(context + steps + 1) // 256) * 256, flash, unified)
        for s in range(batch):
            self.fill(s, context, False)
        rates = []
        for _ in range(repeats):
            for s in range(batch):
                api.llama_memory_seq_rm(self.memory, s, context, -1)
            for step in range(steps + 1):  # the first warms up
                if step == 1:
                    began = time.perf_counter()
                self.decode([(self.token(step * batch + s), context + step, s, True) for s in range(batch)])
                api.llama_synchronize(self.context)
            rates.append(batch * steps / (time.perf_counter() - began))
        return statistics.median(rates)


def main():
    peer = Peer(sys.argv[1], int(sys.argv[2]))
    out = lambda thing: print(json.dumps(thing), flush=True)  # noqa: E731
    out({"version": llama_cpp.__version__, "features": api.llama_print_system_info().decode(), "ends": peer.ends})
    for line in sys.stdin:
        ask = json.loads(line)
        how = {k: ask[k] for k in ("repeats", "flash", "unified")}
        if ask["kind"] == "prefill":
            out({"tok_s": peer.prefill(ask["tokens"], **how)})
        else:
            out({"tok_s": peer.generate(ask["batch"], ask["context"], ask["steps"], **how)})


main()
