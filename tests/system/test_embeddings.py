"""Embeddings: numbers against the float64 reference in tests/lib/ref_model.py, and the same ones however they are asked for.

Where the tolerance comes from: see test_families.py. How far rounding K and V to float16, and what meets quantized weights to
int8, moves the reference's own vector is measured for each, and the engine may be half as far again from the exact one.
"""
import base64
import concurrent.futures
import math
import os
import pathlib
import subprocess
import tempfile
import unittest

import numpy as np
import openai
import requests

import ref_model
import tiny_models
from server import LIMIT_S, Server, binary, wait_for

MODEL = os.environ.get("AUTOGLM_TEST_MODEL", "")
POOLING = {"mean": 1, "cls": 2, "last": 3}
TEXTS = [1, 5, 63, 130]  # tokens: less than a page of the cache, and more than two


def sequence(n, seed=5):
    return [int(t) for t in np.random.default_rng(seed).integers(3, 250, n)]


def plain():
    """Flags for the best instruction set that rounds nothing to bfloat16."""
    said = subprocess.run([binary(), "--version"], capture_output=True, text=True, timeout=LIMIT_S).stdout
    return ["--isa", "avx512"] if "instruction set: avx512bf16" in said else []


def floats(item):
    return np.frombuffer(base64.b64decode(item["embedding"]), "<f4")


class Served(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="autoglm-embeddings-")
        self.addCleanup(folder.cleanup)
        self.dir = pathlib.Path(folder.name)

    def write(self, name, kind="F32", pooling=None):
        w = tiny_models.build(name, kind)
        if pooling:
            w.add(f"{tiny_models.VARIANTS[name]['family']}.pooling_type", POOLING[pooling])
        return w.write(str(self.dir / f"{name}-{kind}-{pooling}.gguf"))

    def ask(self, s, status=200, **body):
        r = s.post("/v1/embeddings", body)
        self.assertEqual(r.status_code, status, r.text)
        return r.json()

    def vectors(self, s, inputs, **more):
        data = self.ask(s, input=inputs, encoding_format="base64", **more)["data"]
        self.assertEqual([d["index"] for d in data], list(range(len(data))))
        return [floats(d) for d in data]


class Numbers(Served):
    """One test a family and a type (added below), each with both poolings."""

    def check(self, name, kind):
        for pooling, said in (("mean", None), ("mean", "mean"), ("last", "last")):
            path = self.write(name, kind, said)
            exact, rounded = ref_model.Model(path), ref_model.Model(path, rounded=True)
            inputs = [sequence(n, n) for n in TEXTS]
            with Server("--ctx", "4096", *plain(), model=path) as s:
                got = self.vectors(s, inputs)
            for tokens, vector in zip(inputs, got):
                want = exact.embedding(tokens, pooling)
                near = np.abs(rounded.embedding(tokens, pooling) - want).max() * 1.5 + 2e-6
                self.assertEqual(vector.shape, want.shape)
                self.assertLess(abs(np.linalg.norm(vector.astype(np.float64)) - 1), 1e-6)
                self.assertLess(np.abs(vector - want).max(), near, (name, kind, pooling, len(tokens)))
                other = exact.embedding(tokens, "mean" if pooling == "last" else "last")
                if len(tokens) > 1:  # else the two are one
                    self.assertGreater(np.abs(other - want).max(), 5 * near, "the tolerance tells nothing")


def add_tests():
    def number(name, kind):
        def test(self):
            self.check(name, kind)
        return test
    for name, kind in (("llama", "F32"), ("llama", "Q4_K"), ("qwen3", "Q8_0"), ("gemma3", "F32"), ("glm4", "Q4_0"), ("phi3-window", "F32")):
        setattr(Numbers, f"test_{name}_{kind}".replace("-", "_"), number(name, kind))


add_tests()


class Same(Served):
    def test_alone_in_lists_and_beside_answers(self):
        """To the last bit, whatever else is computed in the same steps."""
        for pooling in ("mean", "last"):
            path = self.write("gemma3", "Q8_0", pooling)
            inputs = [sequence(1 + i * 29 % 150, i) for i in range(24)]
            with Server("--ctx", "8192", "--step-rows-min", "1", "--max-running", "5", model=path) as s:
                alone = [self.vectors(s, i)[0] for i in inputs]
                self.assertEqual(len({v.tobytes() for v in alone}), len(alone))
                with concurrent.futures.ThreadPoolExecutor(4) as pool:
                    answers = [pool.submit(s.complete, "Once", max_tokens=120, ignore_eos=True, seed=i) for i in range(3)]
                    together = pool.submit(self.vectors, s, inputs).result()
                    for a in answers:
                        self.assertEqual(a.result()["usage"]["completion_tokens"], 120)
                for a, b in zip(alone, together):
                    self.assertEqual(a.tobytes(), b.tobytes())
                self.assertTrue(s.idle())

    def test_forms(self):
        path = self.write("llama")
        with Server("--ctx", "4096", model=path) as s:
            text = "the little river"
            ids = s.post("/tokenize", {"prompt": text}).json()["tokens"]
            whole = self.ask(s, input=text)
            self.assertEqual(whole["usage"], {"prompt_tokens": len(ids), "total_tokens": len(ids)})
            self.assertEqual((whole["object"], whole["model"]), ("list", s.get("/v1/models").json()["data"][0]["id"]))
            numbers = whole["data"][0]["embedding"]
            for form in (ids, [ids], [text], [text, ids]):
                for vector in self.vectors(s, form):
                    self.assertEqual(vector.tobytes(), np.array(numbers, "<f4").tobytes())
            short = np.array(self.ask(s, input=text, dimensions=10)["data"][0]["embedding"])
            want = np.array(numbers[:10]) / np.linalg.norm(numbers[:10])
            self.assertLess(np.abs(short - want).max(), 1e-6)
            self.assertEqual(self.vectors(s, text, dimensions=len(numbers))[0].tobytes(), np.array(numbers, "<f4").tobytes())

    def test_thousands_of_inputs(self):
        """More than may wait, and an answer that is written aside."""
        with Server("--queue-max", "8", "--max-generations", "16", model="null") as s:
            texts = [f"input number {i}" for i in range(2048)]
            got = self.vectors(s, texts)
            for text, vector in zip(texts, got):
                counts = np.bincount(np.frombuffer(text.encode(), np.uint8), minlength=256)
                self.assertLess(np.abs(vector - counts / np.linalg.norm(counts)).max(), 1e-6)
            self.assertTrue(s.idle())
            self.ask(s, 400, input=texts + ["one more"])


class Ends(Served):
    def test_a_model_that_wants_something_else(self):
        with Server(model=self.write("llama", pooling="cls")) as s:
            error = self.ask(s, 400, input="x")["error"]
            self.assertIn("pooling_type 2", error["message"])
            self.assertTrue(s.complete("Once", max_tokens=2)["choices"])

    def test_each_mistake_has_its_sentence(self):
        with Server("--ctx", "128", model=self.write("llama")) as s:
            for body, param, say in (({}, "input", "missing"), ({"input": ""}, "input", "empty"), ({"input": []}, "input", "empty"),
                                     ({"input": ["a", ""]}, "input", "'input[1]' is empty"), ({"input": {"text": "x"}}, "input", "an object"),
                                     ({"input": [1, "a"]}, "input", "input[1]"), ({"input": [99999]}, "input", "vocabulary"),
                                     ({"input": [5] * 129}, "input", "129 tokens; the cache of this server (--ctx) holds 128"),
                                     ({"input": "x", "dimensions": 0}, "dimensions", "between"), ({"input": "x", "dimensions": 10**5}, "dimensions", "have"),
                                     ({"input": "x", "encoding_format": "int8"}, "encoding_format", "float"),
                                     ({"input": "x", "model": "text-embedding-3-small"}, "model", "no model"),
                                     ({"input": "x", "timeout_ms": 0}, "timeout_ms", "between")):
                r = s.post("/v1/embeddings", body)
                self.assertTrue(400 <= r.status_code < 500, (body, r.text))
                self.assertEqual(r.json()["error"]["param"], param, r.text)
                self.assertIn(say, r.json()["error"]["message"])
            self.assertTrue(self.ask(s, input=[5] * 128)["data"])  # the whole context, as nothing is answered

    def test_deadlines(self):
        with Server("--max-running", "1", "--ctx", "4096", "--refuse-late=no", model="null:rate=50") as s:
            self.ask(s, input="x")
            chunks = s.stream(prompt="x", max_tokens=2000, ignore_eos=True)
            next(chunks)
            error = self.ask(s, 504, input=["x", "y"], timeout_ms=3000)["error"]
            self.assertIn("0 of its 2 inputs were done", error["message"])
            chunks.close()
            wait_for("the stream to end", s.idle)
            self.ask(s, input=["x", "y"], timeout_ms=60000)

    def test_a_client_that_leaves(self):
        path = self.write("llama")
        with Server("--ctx", "4096", model=path) as s:
            before = s.metric("autoglm_prompt_tokens_total")
            with self.assertRaises(requests.exceptions.RequestException):
                requests.post(s.url + "/v1/embeddings", json={"input": [sequence(200, i) for i in range(2000)]}, timeout=(LIMIT_S, 0.2))
            wait_for("it to be forgotten", s.idle)
            self.assertLess(s.metric("autoglm_prompt_tokens_total") - before, 400000)
            self.assertTrue(self.ask(s, input="x")["data"])


@unittest.skipUnless(MODEL, "the default model is not there")
class Real(Served):
    """SmolLM2-135M-Instruct: no model for embeddings, yet what belongs together is nearer."""

    def test_what_is_alike_is_near(self):
        pairs = [("A man is playing a guitar on the stage.", "Someone plays guitar at a concert."),
                 ("The stock market fell sharply on Monday.", "Shares dropped a lot at the start of the week."),
                 ("Preheat the oven and bake the bread for an hour.", "Put the dough into a hot oven and let it bake.")]
        with Server("--ctx", "4096", model=MODEL, kind="_RELEASE") as s:
            v = [v.astype(np.float64) for v in self.vectors(s, [text for pair in pairs for text in pair])]
        for i in range(0, 6, 2):
            strangers = [v[i] @ v[k] for k in range(6) if k // 2 != i // 2]
            self.assertGreater(v[i] @ v[i + 1], max(strangers))

    def test_numbers(self):
        text = "The capital of France is Paris, and the capital of Germany is Berlin."
        with Server("--ctx", "4096", *plain(), model=MODEL, kind="_RELEASE") as s:
            ids = s.post("/tokenize", {"prompt": text}).json()["tokens"]
            got = self.vectors(s, text)[0]
        exact, rounded = (ref_model.Model(MODEL, rounded=r).embedding(ids, "mean") for r in (False, True))
        self.assertLess(math.dist(got, exact), 1.5 * math.dist(rounded, exact) + 2e-6)


class Clients(Served):
    def test_many_at_once(self):
        with Server("--ctx", "8192", model=self.write("llama")) as s, openai.OpenAI(base_url=s.url + "/v1", api_key="x", timeout=LIMIT_S,
                                                                                    max_retries=0) as client:
            name = client.models.list().data[0].id

            def ask(i):
                return [d.embedding for d in client.embeddings.create(model=name, input=[f"text {i}", f"more of {i}"]).data]
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                together = list(pool.map(ask, range(16)))
            self.assertEqual(together, [ask(i) for i in range(16)])


if __name__ == "__main__":
    unittest.main()
