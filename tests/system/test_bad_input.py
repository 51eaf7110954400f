"""Every way to ask wrongly gets its own 4xx sentence, in OpenAI's form, and never a 500."""
import json
import tempfile
import unittest

import requests

from server import LIMIT_S, Server

OK = {"prompt": "Once", "max_tokens": 2}
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
WRONG = [None, True, "x", -1, 1.5, 1e300, [], {}, [1], {"a": 1}, "", "\u0000", 2**70]

BODIES = [b"", b"{", b"null", b"[]", b'"x"', b"{}", b'{"prompt":}', b'{"prompt": "a"', b'{"prompt": "a"} x', b"\xff\xfe", b"{'prompt': 1}",
          b'{"prompt": "\xff"}', b'{"prompt": "\\ud800"}', b'{"prompt": "a", "prompt": "b", "max_tokens": "x"}', b'{"prompt": NaN}',
          b'{"prompt": "a", "temperature": 1e999}', b"[" * 5000, b'{"a":' * 5000, b'{"prompt": "a\nb"}', b"\x00", b'{"prompt": 01}']


class BadInput(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.s = Server("--ctx", "1024")

    @classmethod
    def tearDownClass(cls):
        cls.s.stop()

    def send(self, data, path="/v1/completions"):
        return self.s.session.post(self.s.url + path, data=data, headers={"Content-Type": "application/json"}, timeout=LIMIT_S)

    def assertRefused(self, r, status=None, say="", param=None):
        self.assertTrue(400 <= r.status_code < 500, (r.status_code, r.text))
        if status:
            self.assertEqual(r.status_code, status, r.text)
        error = r.json()["error"]
        self.assertEqual(set(error) & {"message", "type", "param", "code"}, {"message", "type", "param", "code"})
        self.assertTrue(error["message"] and error["type"], error)
        self.assertIn(say, error["message"])
        if param:
            self.assertEqual(error["param"], param, error)
        self.assertTrue(r.headers["x-request-id"])
        return error

    def test_bodies_that_are_no_request(self):
        for path in ("/v1/completions", "/v1/chat/completions", "/v1/embeddings"):
            for body in BODIES:
                with self.subTest(path=path, body=body[:40]):
                    self.assertRefused(self.send(body, path), 400)

    def test_broken_utf8_and_broken_json_are_told_apart(self):
        self.assertEqual(self.assertRefused(self.send(b'{"prompt": "\xff"}'))["code"], "invalid_utf8")
        self.assertEqual(self.assertRefused(self.send(b'{"prompt": '))["code"], "invalid_json")

    def test_missing_fields(self):
        self.assertEqual(self.assertRefused(self.s.post("/v1/completions", {"max_tokens": 1}), 400, param="prompt")["code"],
                         "missing_required_parameter")
        self.assertRefused(self.s.post("/v1/chat/completions", {"max_tokens": 1}), 400, param="messages")

    def test_every_field_with_every_wrong_type_is_no_500(self):
        numbers = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "n", "seed", "frequency_penalty", "presence_penalty",
                   "repetition_penalty", "typical_p", "min_tokens", "logprobs", "best_of", "max_completion_tokens", "top_logprobs", "dimensions")
        others = ("prompt", "messages", "stop", "stop_token_ids", "logit_bias", "stream", "stream_options", "echo", "model", "user",
                  "ignore_eos", "suffix", "tools", "tool_choice", "chat_template_kwargs", "response_format", "add_special_tokens", "input",
                  "encoding_format")
        for path, base in (("/v1/completions", OK), ("/v1/chat/completions", CHAT), ("/v1/embeddings", {"input": "Once"})):
            for field in numbers + others:
                for value in WRONG:
                    body = {**base, field: value}
                    if field in ("max_tokens", "max_completion_tokens", "n") and isinstance(value, (int, float)) and value > 100:
                        continue  # JSON has no such integers; covered by the ranges below
                    r = self.send(json.dumps(body), path)
                    self.assertLess(r.status_code, 500, (body, r.text))
                    if r.status_code != 200:
                        self.assertRefused(r)

    def test_ranges(self):
        cases = [
            ({"temperature": -0.1}, "temperature"), ({"temperature": 10.1}, "temperature"), ({"top_p": 0}, "top_p"), ({"top_p": 1.1}, "top_p"),
            ({"n": 0}, "n"), ({"n": 129}, "n"), ({"max_tokens": -1}, "max_tokens"), ({"max_tokens": 2**40}, "max_tokens"),
            ({"logprobs": 21}, "logprobs"), ({"presence_penalty": 2.1}, "presence_penalty"), ({"frequency_penalty": -3}, "frequency_penalty"),
            ({"repetition_penalty": 0}, "repetition_penalty"), ({"min_p": 2}, "min_p"), ({"top_k": -2}, "top_k"), ({"seed": 1.5}, "seed"),
            ({"stop": ["x"] * 17}, "stop"), ({"stop": "x" * 1025}, "stop"), ({"stop": [1]}, "stop"), ({"stop_token_ids": ["x"]}, "stop_token_ids"),
            ({"logit_bias": {"x": 1}}, "logit_bias"), ({"logit_bias": {"1": 101}}, "logit_bias"), ({"logit_bias": {"999999": 1}}, "logit_bias"),
            ({"temperature": "hot"}, "temperature"), ({"stream": "yes"}, "stream"), ({"stream_options": {}}, None), ({"suffix": "x"}, "suffix"),
            ({"prompt": []}, "prompt"), ({"prompt": [[]]}, None), ({"prompt": ["a", 1]}, None), ({"prompt": [99999]}, None),
            ({"prompt": [-1]}, None), ({"prompt": ["x"] * 129}, None), ({"best_of": 3}, None),
        ]
        for fields, param in cases:
            with self.subTest(fields=str(fields)[:60]):
                error = self.assertRefused(self.s.post("/v1/completions", {**OK, **fields}), 400)
                if param:
                    self.assertEqual(error["param"], param, error)

    def test_messages(self):
        for messages in ([], "x", [1], [{}], [{"role": "user"}], [{"role": 1, "content": "x"}], [{"content": "x"}],
                         [{"role": "user", "content": 1}], [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
                         [{"role": "user", "content": [{"type": "text"}]}]):
            with self.subTest(messages=messages):
                self.assertRefused(self.s.post("/v1/chat/completions", {"messages": messages}), 400)

    def test_unknown_models(self):
        for path, base in (("/v1/completions", OK), ("/v1/chat/completions", CHAT)):
            error = self.assertRefused(self.s.post(path, {**base, "model": "gpt-99"}), 404, say="gpt-99")
            self.assertEqual(error["code"], "model_not_found")

    def test_prompts_that_are_too_long(self):
        error = self.assertRefused(self.s.post("/v1/completions", {"prompt": "word " * 5000, "max_tokens": 1}), 400)
        self.assertEqual(error["code"], "context_length_exceeded")
        long_chat = [{"role": "user", "content": "word " * 5000}]
        self.assertEqual(self.assertRefused(self.s.post("/v1/chat/completions", {"messages": long_chat}), 400)["code"], "context_length_exceeded")
        self.assertRefused(self.s.post("/v1/completions", {"prompt": "a", "max_tokens": 100000}), 400)

    def test_a_model_without_a_template_cannot_chat(self):
        with Server(chat=False) as s:
            r = s.post("/v1/chat/completions", CHAT)
            if r.status_code == 200:
                self.skipTest("this tiny model has a template of its own")
            self.assertRefused(r, 400, say="template")

    def test_templates_that_refuse(self):
        with tempfile.NamedTemporaryFile("w", suffix=".jinja") as f:
            f.write("{% if messages[0].role != 'user' %}{{ raise_exception('The first must be the user.') }}{% endif %}x")
            f.flush()
            with Server("--chat-template", f.name, chat=False) as strict:
                r = strict.post("/v1/chat/completions", {"messages": [{"role": "system", "content": "x"}]})
                self.assertRefused(r, 400, say="The first must be the user.")
                self.assertEqual(strict.post("/v1/chat/completions", CHAT).status_code, 200)

    def test_the_server_is_still_well(self):
        """After all that: last by name, as the runner sorts."""
        self.assertEqual(self.s.complete("Once")["usage"]["completion_tokens"], 16)
        self.assertEqual(self.s.metric("autoglm_errors_total", code="internal_error"), 0)
        r = requests.post(self.s.url + "/v1/completions", json=OK, timeout=LIMIT_S)
        self.assertEqual(r.status_code, 200)
