"""Perplexity by llama.cpp, as `autoglm perplexity` defines it: windows of so many tokens, each the beginning of a text, the
second half of each predicted from what stands before. Runs in the peer's venv.

    worker_quality.py MODEL TEXT WINDOW THREADS     one JSON object
"""
import json
import sys

import numpy as np
from llama_cpp import Llama


def main():
    model, text, window, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    llm = Llama(model, n_ctx=window, n_batch=window, n_threads=threads, n_threads_batch=threads, logits_all=True,
                verbose=False, n_gpu_layers=0)
    with open(text, "rb") as f:
        ids = llm.tokenize(f.read(), add_bos=True, special=False)  # where the model wants one
    begins = [llm.token_bos()] if llm._model.add_bos_token() else []
    total, count = 0.0, 0
    for at in range(0, len(ids) - window + 1, window):
        part = begins + ids[at + len(begins):at + window]
        llm.reset()
        llm.eval(part)
        logits = llm.scores[window // 2:window - 1].astype(np.float64)
        wanted = np.array(part[window // 2 + 1:])
        top = logits.max(axis=1)
        nll = top + np.log(np.exp(logits - top[:, None]).sum(axis=1)) - logits[np.arange(len(wanted)), wanted]
        total += nll.sum()
        count += len(wanted)
    print(json.dumps({"perplexity": float(np.exp(total / count)), "tokens": count}))


main()
