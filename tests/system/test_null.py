"""The model without weights, served: a fixed text by position, and the same service around it as for any other."""
import time
import unittest

import openai

from server import LIMIT_S, Server, text_of

TEXT = "The quick brown fox jumps over the lazy dog. "


def said(n_prompt, n):
    return (TEXT * (n // len(TEXT) + 2))[(n_prompt - 1) % len(TEXT):][:n]


class Null(unittest.TestCase):
    def test_it_is_a_model_like_any_other(self):
        with Server(model="null") as s:
            self.assertEqual(s.get("/v1/models").json()["data"][0]["id"], "null")
            a = s.complete("Hello, Zoë!", max_tokens=60, n=2, temperature=2)
            self.assertEqual([c["text"] for c in a["choices"]], [said(12, 60)] * 2)
            self.assertEqual((a["usage"]["prompt_tokens"], a["usage"]["completion_tokens"]), (12, 120))
            self.assertEqual(text_of(s.stream(prompt="Hello", max_tokens=40, stop=["fox"]))[0], said(5, 40).split("fox")[0])
            with openai.OpenAI(base_url=s.url + "/v1", api_key="x", timeout=LIMIT_S, max_retries=0) as client:
                c = client.chat.completions.create(model="null", messages=[{"role": "user", "content": "Hi"}], max_tokens=20)
            self.assertEqual(c.choices[0].message.content, said(len("user: Hi\nassistant: "), 20))
            self.assertTrue(s.idle())

    def test_its_pace(self):
        with Server(model="null:rate=100") as s:
            began = time.monotonic()
            a = s.complete("x", max_tokens=20, n=8)
            self.assertGreaterEqual(time.monotonic() - began, 20 / 100)
            self.assertEqual(a["usage"]["completion_tokens"], 160)
