"""The default model in the release build: what the README promises, with real numbers."""
import os
import subprocess
import unittest

import requests

from server import LIMIT_S, Server, binary

MODEL = os.environ.get("AUTOGLM_TEST_MODEL", "")


@unittest.skipUnless(MODEL, "the default model is not there")
class DefaultModel(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.s = Server("--ctx", "8192", model=MODEL, kind="_RELEASE")

    @classmethod
    def tearDownClass(cls):
        cls.s.stop()

    def test_the_capital_of_france(self):
        self.assertIn("Paris", self.s.complete("The capital of France is", max_tokens=8)["choices"][0]["text"])

    def test_the_example_of_the_readme(self):
        r = requests.post(self.s.url + "/v1/completions",
                          json={"prompt": "请解释Transformer架构的核心机制", "max_tokens": 128, "temperature": 0.7},
                          headers={"Authorization": "Bearer your-api-key", "Content-Type": "application/json"}, timeout=LIMIT_S)
        answer = r.json()
        self.assertEqual(r.status_code, 200)
        self.assertTrue(answer["choices"][0]["text"].strip())
        self.assertGreater(answer["usage"]["completion_tokens"], 0)

    def test_chat(self):
        body = {"messages": [{"role": "user", "content": "Which city is the capital of France? Answer with one word."}], "temperature": 0, "max_tokens": 40}
        a = self.s.post("/v1/chat/completions", body).json()
        self.assertIn("Paris", a["choices"][0]["message"]["content"])
        self.assertEqual(a["choices"][0]["finish_reason"], "stop")  # the template and its end token are in order

    def test_curl(self):
        done = subprocess.run(["curl", "-sS", "-N", self.s.url + "/v1/chat/completions", "-H", "Content-Type: application/json", "-d",
                               '{"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 10, "stream": true}'],
                              stdout=subprocess.PIPE, text=True, timeout=LIMIT_S)
        self.assertTrue(done.stdout.rstrip().endswith("data: [DONE]"), done.stdout)

    def test_run(self):
        done = subprocess.run([binary("_RELEASE"), "run", MODEL, "Which city is the capital of France? Answer with one word.", "-t", "0", "-n", "40", "--ctx", "2048"],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=LIMIT_S)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("Paris", done.stdout)

    def test_long_prompts_in_chunks_beside_a_stream(self):
        text = "The quick brown fox jumps over the lazy dog. " * 60
        alone = self.s.complete(text, max_tokens=12)["choices"][0]["text"]
        body = {"prompt": "Once", "max_tokens": 400, "ignore_eos": True, "stream": True}
        with requests.post(self.s.url + "/v1/completions", json=body, stream=True, timeout=LIMIT_S) as r:
            next(r.iter_lines())  # from here on someone decodes
            self.assertEqual(self.s.complete(text, max_tokens=12)["choices"][0]["text"], alone)
