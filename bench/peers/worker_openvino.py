"""Times OpenVINO GenAI's continuous batching, step by step, or its plain pipeline. Runs in the peer's venv.

    worker_openvino.py MODEL.gguf THREADS LOAD-FLAGS

See workers.py for what is asked and answered. A step includes its greedy sampling, which cannot be left out. Prompts that were
seen before come from the prefix cache, so that a context of 8,192 tokens is computed once; timed prompts are never repeated.
"""
import time

import numpy as np
import openvino as ov
import openvino_genai as genai

import workers


class Peer:
    def __init__(self, path, threads, load):
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = load.get("cache_gb", 1)
        scheduler.max_num_seqs = 64
        scheduler.max_num_batched_tokens = load["batch_tokens"]
        scheduler.enable_prefix_caching = True
        properties = {"INFERENCE_NUM_THREADS": threads, **load.get("properties", {})}
        self.pipe = genai.ContinuousBatchingPipeline(path, scheduler, "CPU", properties)
        self.vocab, self.requests = load["vocab"], 0

    def about(self):
        return {"version": genai.__version__, "features": ov.Core().get_property("CPU", "FULL_DEVICE_NAME") + ", "
                + " ".join(ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))}

    def add(self, first, n, most):
        c = genai.GenerationConfig()
        c.max_new_tokens, c.ignore_eos, c.do_sample = most, True, False
        ids = np.array([[workers.token(first + i, self.vocab) for i in range(n)]], dtype=np.int64)
        self.requests += 1
        return self.pipe.add_request(self.requests, ov.Tensor(ids), c)

    def finish(self):
        while self.pipe.has_non_finished_requests():
            self.pipe.step()

    def prefill(self, tokens, flags):
        began = time.perf_counter()
        handle = self.add(10**6 + self.requests, tokens, 1)  # another first token each time: nothing is cached
        self.finish()
        took = time.perf_counter() - began
        if not handle.can_read():  # a handle that is let go takes its request with it
            raise RuntimeError("the prompt was not computed")
        return tokens / took

    def generate(self, batch, context, steps, flags):
        handles = [self.add(s, max(context, 1), steps + 1000) for s in range(batch)]
        got = [0] * batch

        def read():
            for i, h in enumerate(handles):
                while h.can_read():
                    got[i] += sum(len(o.generated_ids) for o in h.read().values())
            return sum(got)
        while min(got) == 0:
            self.pipe.step()
            read()
        self.pipe.step()
        before, began = read(), time.perf_counter()
        for _ in range(steps):
            self.pipe.step()
        took = time.perf_counter() - began
        made = read() - before
        for h in handles:
            h.cancel()
        self.finish()
        if made != batch * steps:
            raise RuntimeError(f"{steps} steps of {batch} sequences made {made} tokens")
        return made / took

    def drop(self, flags):
        pass


workers.serve(Peer)
