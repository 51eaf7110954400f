"""Answers that are one whole JSON object, whatever the model would rather say, through the openai package."""
import json
import pathlib
import tempfile
import unittest

import openai

import recite
from server import LIMIT_S, TEMPLATE, Server

MESSAGES = [{"role": "user", "content": "Tell me as JSON."}]
JSON = {"type": "json_object"}


class Json(unittest.TestCase):
    def client(self, s):
        client = openai.OpenAI(base_url=s.url + "/v1", api_key="x", timeout=LIMIT_S, max_retries=0)
        self.addCleanup(client.close)
        return client

    def test_every_answer_is_an_object(self):
        with Server() as s:
            client = self.client(s)
            ask = dict(model="stories260K-F32", messages=MESSAGES, response_format=JSON)
            ask["model"] = client.models.list().data[0].id
            for n, seed in ((2, 1), (3, 2), (7, 3), (20, 4), (60, 5), (120, 6)):
                for temperature in (0, 1, 2):
                    more = dict(max_tokens=n, seed=seed, temperature=temperature, logit_bias={"1": 50, "2": 50})
                    c = client.chat.completions.create(**ask, **more).choices[0]
                    with self.subTest(n=n, temperature=temperature, text=c.message.content):
                        self.assertIsInstance(json.loads(c.message.content), dict)
                        self.assertIn(c.finish_reason, ("stop", "length"))
                        parts = list(client.chat.completions.create(stream=True, **ask, **more))
                        self.assertEqual("".join(p.choices[0].delta.content or "" for p in parts), c.message.content)
                        self.assertEqual(parts[-1].choices[0].finish_reason, c.finish_reason)
            many = client.chat.completions.create(**ask, max_tokens=30, n=8, seed=9)
            for c in many.choices:
                self.assertIsInstance(json.loads(c.message.content), dict)
            text = client.completions.create(model=ask["model"], prompt="x", max_tokens=30, extra_body={"response_format": JSON})
            self.assertIsInstance(json.loads(text.choices[0].text), dict)

    def test_an_object_that_the_model_means_is_left_as_it_is(self):
        with tempfile.TemporaryDirectory() as folder:
            said = ' {\n  "city": "Köln \\"a\\" 🙂",\n  "days": [1, 2.5, -3e2, true, null], "x": {}}'
            path = recite.write(str(pathlib.Path(folder, "means.gguf")), said + " And more, which nobody asked for.",
                                TEMPLATE.replace("assistant:", "assistant:{{ '\\n' }}"))
            with Server(model=path) as s:
                client = self.client(s)
                c = client.chat.completions.create(model="means", messages=MESSAGES, response_format=JSON, max_tokens=200).choices[0]
                self.assertEqual((json.loads(c.message.content), c.finish_reason), (json.loads(said), "stop"))
                c = client.chat.completions.create(model="means", messages=MESSAGES, response_format=JSON, max_tokens=12).choices[0]
                self.assertEqual(c.finish_reason, "length")
                self.assertTrue(set(json.loads(c.message.content)) <= {"city", ""})

    def test_reasoning_is_not_begun(self):
        with tempfile.TemporaryDirectory() as folder:
            path = recite.write(str(pathlib.Path(folder, "thinks.gguf")), '{"answer": 42}',
                                TEMPLATE.replace("assistant:", "assistant:{{ '<think>\\n' }}") + "{# </think> #}")
            with Server(model=path) as s:
                c = self.client(s).chat.completions.create(model="thinks", messages=MESSAGES, response_format=JSON).choices[0]
                self.assertEqual((json.loads(c.message.content), c.finish_reason), ({"answer": 42}, "stop"))
                self.assertFalse(hasattr(c.message, "reasoning_content"))

    def test_what_is_refused(self):
        with Server() as s:
            client = self.client(s)
            model = client.models.list().data[0].id
            schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}
            for param, more in (("response_format", {"response_format": schema}), ("max_tokens", {"response_format": JSON, "max_tokens": 1}),
                                ("response_format", {"response_format": JSON, "stop": ["}"]}),
                                ("response_format", {"response_format": JSON, "tools": [{"type": "function", "function": {"name": "f"}}]})):
                with self.assertRaises(openai.BadRequestError) as caught:
                    client.chat.completions.create(model=model, messages=MESSAGES, **more)
                self.assertEqual(caught.exception.param, param)


if __name__ == "__main__":
    unittest.main()
