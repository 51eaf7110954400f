"""Times vLLM on the CPU, step by step, in one process. Runs in the peer's venv.

    worker_vllm.py HF-FOLDER THREADS LOAD-FLAGS

See workers.py for what is asked and answered. A step includes its scheduler and greedy sampling, which cannot be left out. Prompts
that were seen before come from the prefix cache, so that a context of 8,192 tokens is computed once; timed prompts never are.
"""
import json
import os
import sys
import time

os.environ.update({"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1",
                   "VLLM_LOGGING_LEVEL": "ERROR", "OMP_NUM_THREADS": sys.argv[2],
                   "VLLM_CPU_OMP_THREADS_BIND": f"0-{int(sys.argv[2]) - 1}" if int(sys.argv[2]) > 1 else "0", "CUDA_VISIBLE_DEVICES": "",
                   **json.loads(sys.argv[3]).get("environment", {})})
import vllm  # noqa: E402
import workers  # noqa: E402


class Peer:
    def __init__(self, path, threads, load):
        self.llm = vllm.LLM(path, skip_tokenizer_init=True, disable_log_stats=True, max_num_seqs=64,
                            enable_prefix_caching=True, **load["options"])
        self.engine, self.vocab, self.requests = self.llm.llm_engine, load["vocab"], 0

    def about(self):
        import torch
        return {"version": vllm.__version__, "features": f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"}

    def add(self, first, n, most):
        self.requests += 1
        prompt = {"prompt_token_ids": [workers.token(first + i, self.vocab) for i in range(n)]}
        params = vllm.SamplingParams(temperature=0, max_tokens=most, ignore_eos=True, detokenize=False)
        self.engine.add_request(str(self.requests), prompt, params)
        return str(self.requests)

    def prefill(self, tokens, flags):
        began = time.perf_counter()
        self.add(10**6 + self.requests, tokens, 1)  # another first token each time: nothing is cached
        while self.engine.has_unfinished_requests():
            self.engine.step()
        return tokens / (time.perf_counter() - began)

    def generate(self, batch, context, steps, flags):
        names = [self.add(s, max(context, 1), steps + 1000) for s in range(batch)]
        got = dict.fromkeys(names, 0)

        def step():
            for o in self.engine.step():
                got[o.request_id] = len(o.outputs[0].token_ids)
        while min(got.values()) == 0:
            step()
        step()
        before, began = sum(got.values()), time.perf_counter()
        for _ in range(steps):
            step()
        took = time.perf_counter() - began
        made = sum(got.values()) - before
        self.engine.abort_request(names)
        while self.engine.has_unfinished_requests():
            self.engine.step()
        if made != batch * steps:
            raise RuntimeError(f"{steps} steps of {batch} sequences made {made} tokens")
        return made / took

    def drop(self, flags):
        pass


workers.serve(Peer)
