"""The openai package against the server, as its users call it."""
import asyncio
import struct
import unittest

import openai

from server import LIMIT_S, Server, strictly


class OpenAI(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.s = Server()
        cls.model = cls.s.get("/v1/models").json()["data"][0]["id"]
        cls.client = openai.OpenAI(base_url=cls.s.url + "/v1", api_key="your-api-key", timeout=LIMIT_S, max_retries=0)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.s.stop()

    def test_completions(self):
        a = strictly(self.client.completions.create(model=self.model, prompt="Once upon a time", max_tokens=12, temperature=0, logprobs=2))
        self.assertTrue(a.choices[0].text)
        self.assertEqual(a.usage.completion_tokens, 12)
        self.assertEqual(a.choices[0].finish_reason, "length")

    def test_completions_streamed(self):
        ask = dict(model=self.model, prompt="Once upon a time", max_tokens=12, temperature=0)
        whole = self.client.completions.create(**ask).choices[0].text
        parts = list(self.client.completions.create(stream=True, stream_options={"include_usage": True}, **ask))
        for p in parts:  # its model does not know that finish_reason is null until the end, as OpenAI sends it
            if not p.choices or p.choices[0].finish_reason:
                strictly(p)
        self.assertEqual("".join(c.choices[0].text for c in parts if c.choices), whole)
        self.assertEqual(parts[-1].usage.completion_tokens, 12)

    def test_chat(self):
        messages = [{"role": "system", "content": "You tell stories."}, {"role": "user", "content": "Begin."}]
        ask = dict(model=self.model, messages=messages, max_tokens=12, temperature=0)
        a = strictly(self.client.chat.completions.create(**ask))
        strictly(a.choices[0].message)
        self.assertEqual(a.choices[0].message.role, "assistant")
        whole = a.choices[0].message.content
        self.assertTrue(whole)
        parts = [strictly(p) for p in self.client.chat.completions.create(stream=True, **ask)]
        self.assertEqual("".join(c.choices[0].delta.content or "" for c in parts if c.choices), whole)
        self.assertEqual(parts[-1].choices[0].finish_reason, "length")

    def test_n_logprobs_stop_and_seed(self):
        messages = [{"role": "user", "content": "Begin."}]
        ask = dict(model=self.model, messages=messages, max_completion_tokens=10, temperature=1, seed=4, n=3, logprobs=True, top_logprobs=2)
        a, b = self.client.chat.completions.create(**ask), self.client.chat.completions.create(**ask)
        self.assertEqual([c.message.content for c in a.choices], [c.message.content for c in b.choices])
        self.assertEqual([c.index for c in a.choices], [0, 1, 2])
        for c in a.choices:
            self.assertTrue(all(len(t.top_logprobs) == 2 for t in c.logprobs.content))
        text = self.client.completions.create(model=self.model, prompt="Once upon a time", max_tokens=30, temperature=0).choices[0].text
        stop = text[6:9]
        c = self.client.completions.create(model=self.model, prompt="Once upon a time", max_tokens=30, temperature=0, stop=[stop]).choices[0]
        self.assertEqual((c.text, c.finish_reason), (text[:text.index(stop)], "stop"))

    def test_embeddings(self):
        """Its default is base64, which it decodes by itself."""
        ask = dict(model=self.model, input=["Once upon a time", "there was a cat"])
        a, b = self.client.embeddings.create(**ask), self.client.embeddings.create(encoding_format="float", **ask)
        strictly(b)
        self.assertEqual([d.index for d in a.data], [0, 1])
        self.assertEqual(a.usage.prompt_tokens, a.usage.total_tokens)
        width = len(a.data[0].embedding)
        for x, y in zip(a.data, b.data):
            self.assertEqual([struct.pack("<f", v) for v in x.embedding], [struct.pack("<f", v) for v in y.embedding])
            self.assertAlmostEqual(sum(v * v for v in x.embedding), 1, 5)
        c = self.client.embeddings.create(dimensions=width // 2, user="somebody", extra_body={"priority": 1, "timeout_ms": 60000}, **ask)
        for x, y in zip(a.data, c.data):
            size = sum(v * v for v in x.embedding[:width // 2]) ** 0.5
            self.assertEqual(len(y.embedding), width // 2)
            for v, w in zip(x.embedding, y.embedding):
                self.assertAlmostEqual(v / size, w, 5)
        one = self.client.embeddings.create(model=self.model, input=[1, 5, 9])
        self.assertEqual(len(one.data), 1)
        raw = self.client.embeddings.with_raw_response.create(model=self.model, input=[[1, 5, 9]])
        self.assertEqual(raw.parse().data, one.data)
        self.assertTrue(raw.headers["x-request-id"])
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client.embeddings.create(dimensions=width + 1, **ask)
        self.assertEqual(caught.exception.param, "dimensions")

    def test_extra_fields(self):
        a = self.client.chat.completions.create(model=self.model, messages=[{"role": "user", "content": "x"}], max_tokens=3,
                                                extra_body={"top_k": 5, "min_p": 0.1, "chat_template_kwargs": {"enable_thinking": False}})
        self.assertTrue(a.id)

    def test_models(self):
        self.assertEqual([strictly(m, ["max_model_len"]).id for m in self.client.models.list()], [self.model])
        self.assertEqual(self.client.models.retrieve(self.model).id, self.model)

    def test_raw_answers(self):
        raw = self.client.chat.completions.with_raw_response.create(model=self.model, messages=[{"role": "user", "content": "x"}],
                                                                    max_tokens=3, logprobs=True, top_logprobs=1)
        self.assertEqual(raw.headers["content-type"], "application/json")
        strictly(raw.parse())
        with self.client.completions.with_streaming_response.create(model=self.model, prompt="x", max_tokens=3, stream=True) as r:
            lines = [line for line in r.iter_lines() if line]
        self.assertTrue(all(line.startswith("data: ") for line in lines))
        self.assertEqual(lines[-1], "data: [DONE]")

    def test_errors_are_of_its_classes(self):
        with self.assertRaises(openai.NotFoundError):
            self.client.completions.create(model="other", prompt="x")
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client.completions.create(model=self.model, prompt="x", temperature=99)
        self.assertEqual(caught.exception.param, "temperature")
        self.assertTrue(caught.exception.request_id)

    def test_many_at_once(self):
        async def main():
            async with openai.AsyncOpenAI(base_url=self.s.url + "/v1", api_key="x", timeout=LIMIT_S, max_retries=0) as client:
                async def one(i):
                    stream = await client.completions.create(model=self.model, prompt=f"Number {i}", max_tokens=20, temperature=1, seed=i,
                                                             stream=True)
                    return "".join([c.choices[0].text async for c in stream if c.choices])
                return await asyncio.gather(*(one(i) for i in range(12)))
        together = asyncio.run(main())
        alone = [self.s.complete(f"Number {i}", max_tokens=20, temperature=1, seed=i)["choices"][0]["text"] for i in range(12)]
        self.assertEqual(together, alone)
