"""Tokens both ways, in the words of llama.cpp's clients and of vLLM's; more names for the model; fields that nobody knows."""
import unittest

import openai

from server import LIMIT_S, Server

MESSAGES = [{"role": "user", "content": "Once upon a time"}]


class Tokens(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.s = Server("--alias", "gpt-4o", "--alias", "claude-haiku")

    @classmethod
    def tearDownClass(cls):
        cls.s.stop()

    def ask(self, path, status=200, **body):
        r = self.s.post(path, body)
        self.assertEqual(r.status_code, status, r.text)
        return r.json()

    def test_as_llama_cpp_asks(self):
        text = "Once upon a time, größer 🙂"
        tokens = self.ask("/tokenize", content=text)["tokens"]
        self.assertEqual(self.ask("/detokenize", tokens=tokens)["content"], text)
        pieces = self.ask("/tokenize", content=text, with_pieces=True)["tokens"]
        self.assertEqual([p["id"] for p in pieces], tokens)
        raw = b"".join(bytes(p["piece"]) if isinstance(p["piece"], list) else p["piece"].encode() for p in pieces)
        self.assertEqual(raw.decode().lstrip(), text)
        special = self.ask("/tokenize", content=text, add_special=True)["tokens"]
        self.assertEqual(special[1:], tokens)

    def test_as_vllm_asks(self):
        a = self.ask("/tokenize", model="gpt-4o", prompt="Once upon a time", return_token_strs=True)
        self.assertEqual(a["count"], len(a["tokens"]))
        self.assertEqual(len(a["token_strs"]), a["count"])
        self.assertEqual(a["max_model_len"], self.s.get("/v1/models").json()["data"][0]["max_model_len"])
        plain = self.ask("/tokenize", prompt="Once upon a time", add_special_tokens=False)["tokens"]
        self.assertEqual(a["tokens"][1:], plain)
        self.assertIn("Once upon a time", self.ask("/detokenize", model="gpt-4o", tokens=a["tokens"])["prompt"])

    def test_what_is_counted_is_what_is_computed(self):
        used = self.s.complete("Once upon a time", max_tokens=1)["usage"]["prompt_tokens"]
        self.assertEqual(self.ask("/tokenize", prompt="Once upon a time")["count"], used)
        used = self.ask("/v1/chat/completions", messages=MESSAGES, max_tokens=1)["usage"]["prompt_tokens"]
        self.assertEqual(self.ask("/tokenize", messages=MESSAGES)["count"], used)

    def test_a_long_text_is_counted_elsewhere(self):
        text = "Once upon a time. " * 20000
        a = self.ask("/tokenize", content=text)
        self.assertEqual(self.ask("/detokenize", tokens=a["tokens"])["content"], text)

    def test_mistakes(self):
        self.assertEqual(self.ask("/tokenize", 400)["error"]["param"], "content")
        self.assertEqual(self.ask("/tokenize", 404, content="x", model="other")["error"]["code"], "model_not_found")
        self.assertEqual(self.ask("/detokenize", 400, tokens=[1 << 30])["error"]["param"], "tokens")
        self.assertEqual(self.ask("/detokenize", 400, tokens=["x"])["error"]["param"], "tokens")

    def test_aliases(self):
        with openai.OpenAI(base_url=self.s.url + "/v1", api_key="x", timeout=LIMIT_S, max_retries=0) as client:
            names = [m.id for m in client.models.list()]
            self.assertEqual(names[1:], ["gpt-4o", "claude-haiku"])
            for name in names:
                self.assertEqual(client.models.retrieve(name).id, name)
                self.assertTrue(client.completions.create(model=name, prompt="x", max_tokens=1).id)


class Unknown(unittest.TestCase):
    def test_fields_are_listed(self):
        with Server() as s:
            r = s.post("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 1, "store": False, "verbosity": "low"})
            self.assertEqual((r.status_code, r.headers.get("x-autoglm-ignored-fields")), (200, "store, verbosity"))
            r = s.post("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 1})
            self.assertNotIn("x-autoglm-ignored-fields", r.headers)

    def test_fields_are_refused(self):
        with Server("--strict") as s:
            r = s.post("/v1/chat/completions", {"messages": MESSAGES, "max_tokns": 1})
            self.assertEqual((r.status_code, r.json()["error"]["param"]), (400, "max_tokns"))
            self.assertEqual(s.post("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 1}).status_code, 200)


if __name__ == "__main__":
    unittest.main()
