"""POST /v1/completions, plain and streamed: what comes back, and that the same question has the same answer."""
import math
import unittest

from server import PLAIN, Server, text_of

PROMPT = "Once upon a time, there was a little girl named Lily."


class PlainServer(Server):
    """Everything asked of it is answered in whole pieces of text, as long as asked for."""

    def complete(self, prompt="Once upon a time", **fields):
        return super().complete(prompt, **{"logit_bias": PLAIN, **fields})

    def stream(self, path="/v1/completions", **fields):
        return super().stream(path, **{"logit_bias": PLAIN, **fields})


class Completions(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.s = PlainServer()

    @classmethod
    def tearDownClass(cls):
        cls.s.stop()

    def test_the_shape_of_an_answer(self):
        a = self.s.complete(PROMPT)
        self.assertEqual(a["object"], "text_completion")
        self.assertTrue(a["id"])
        choice = a["choices"][0]
        self.assertEqual((choice["index"], choice["finish_reason"], choice["logprobs"]), (0, "length", None))
        self.assertTrue(choice["text"])
        u = a["usage"]
        self.assertEqual(u["completion_tokens"], 16)
        self.assertEqual(u["total_tokens"], u["prompt_tokens"] + 16)

    def test_any_bearer_token_is_taken_without_keys(self):
        r = self.s.post("/v1/completions", {"prompt": "请解释Transformer架构的核心机制", "max_tokens": 128, "temperature": 0.7},
                        headers={"Authorization": "Bearer your-api-key", "Content-Type": "application/json"})
        self.assertEqual(r.status_code, 200)
        self.assertIn("text", r.json()["choices"][0])
        self.assertTrue(r.headers["x-request-id"])

    def test_streamed_is_the_same_text(self):
        whole = self.s.complete(PROMPT, max_tokens=40)["choices"][0]["text"]
        chunks = list(self.s.stream(prompt=PROMPT, max_tokens=40, temperature=0, stream_options={"include_usage": True}))
        self.assertEqual(text_of(chunks), {0: whole})
        self.assertEqual(chunks[-1]["choices"], [])
        self.assertEqual(chunks[-1]["usage"]["completion_tokens"], 40)
        finish = [c["choices"][0]["finish_reason"] for c in chunks if c["choices"]]
        self.assertEqual(finish[-1], "length")
        self.assertTrue(all(f is None for f in finish[:-1]))
        self.assertEqual(len({c["id"] for c in chunks}), 1)

    def test_arrays_of_prompts(self):
        a = self.s.complete([PROMPT, "The sun", PROMPT])["choices"]
        self.assertEqual([c["index"] for c in a], [0, 1, 2])
        self.assertEqual(a[0]["text"], a[2]["text"])
        self.assertEqual(a[1]["text"], self.s.complete("The sun")["choices"][0]["text"])

    def test_token_ids(self):
        """The ids of a text, told by echo, are worth the same as the text."""
        a = self.s.complete([1, 303, 307], echo=True, max_tokens=4)
        b = self.s.complete([[1, 303, 307], [1, 303]], echo=True, max_tokens=4)["choices"]
        self.assertEqual(a["choices"][0]["text"], b[0]["text"])
        self.assertEqual(a["usage"]["prompt_tokens"], 3)

    def test_n_answers_differ_and_are_the_same_again(self):
        ask = dict(prompt=PROMPT, n=4, temperature=1.0, seed=5, max_tokens=24)
        a = [c["text"] for c in self.s.complete(**ask)["choices"]]
        self.assertGreater(len(set(a)), 1)
        self.assertEqual(a, [c["text"] for c in self.s.complete(**ask)["choices"]])
        streamed = text_of(self.s.stream(**ask))
        self.assertEqual([streamed[i] for i in range(4)], a)

    def test_a_seed_decides(self):
        one = [self.s.complete(PROMPT, temperature=1, seed=7, max_tokens=24)["choices"][0]["text"] for _ in range(3)]
        self.assertEqual(len(set(one)), 1)
        others = {self.s.complete(PROMPT, temperature=1, seed=i, max_tokens=24)["choices"][0]["text"] for i in range(5)}
        self.assertGreater(len(others), 1)

    def test_stop_strings_end_the_text_before_them(self):
        whole = self.s.complete(PROMPT, max_tokens=48)["choices"][0]["text"]
        for begin in range(5, 25):
            stop = whole[begin:begin + 4]
            want = whole[:whole.index(stop)]
            for answer in (self.s.complete(PROMPT, max_tokens=48, stop=stop)["choices"][0],
                           self.s.complete(PROMPT, max_tokens=48, stop=["\x00never", stop])["choices"][0]):
                self.assertEqual((answer["text"], answer["finish_reason"]), (want, "stop"), repr(stop))
            self.assertEqual(text_of(self.s.stream(prompt=PROMPT, max_tokens=48, temperature=0, stop=stop)).get(0, ""), want)

    def test_max_tokens(self):
        for n in (1, 2, 17):
            self.assertEqual(self.s.complete(PROMPT, max_tokens=n)["usage"]["completion_tokens"], n)

    def test_logprobs(self):
        a = self.s.complete(PROMPT, logprobs=3, max_tokens=6, logit_bias={}, ignore_eos=True)["choices"][0]  # told before any bias
        lp = a["logprobs"]
        self.assertEqual({len(lp[k]) for k in ("tokens", "token_logprobs", "top_logprobs", "text_offset")}, {6})
        for token, own, top in zip(lp["tokens"], lp["token_logprobs"], lp["top_logprobs"]):
            self.assertLessEqual(own, 0)
            self.assertAlmostEqual(max(top.values()), own, places=5)  # greedy: the best is the one taken
            self.assertIn(token, top)
            self.assertIn(len(top), (3, 4))
            self.assertLessEqual(sum(math.exp(v) for v in top.values()), 1.0001)
        if not any(t.startswith("bytes:") for t in lp["tokens"]):
            self.assertEqual("".join(lp["tokens"]), a["text"])

    def test_echo_with_logprobs_scores_the_prompt(self):
        a = self.s.complete("The sun is", echo=True, logprobs=1, max_tokens=0)["choices"][0]
        self.assertEqual(a["text"].strip(), "The sun is")
        self.assertIsNone(a["logprobs"]["token_logprobs"][0])
        self.assertTrue(all(v <= 0 for v in a["logprobs"]["token_logprobs"][1:]))

    def test_logit_bias(self):
        free = self.s.complete(PROMPT, logprobs=0, max_tokens=1)["choices"][0]
        forced = self.s.complete(PROMPT, logit_bias={"303": 100}, max_tokens=3)["choices"][0]
        again = self.s.complete(PROMPT, logit_bias={"303": 100}, max_tokens=3)["choices"][0]
        self.assertEqual(forced["text"], again["text"])
        self.assertNotEqual(forced["text"], free["text"])

    def test_penalties_change_the_text(self):
        plain = self.s.complete(PROMPT, max_tokens=64)["choices"][0]["text"]
        for field, value in (("repetition_penalty", 2.0), ("frequency_penalty", 2.0), ("presence_penalty", 2.0)):
            self.assertNotEqual(self.s.complete(PROMPT, max_tokens=64, **{field: value})["choices"][0]["text"], plain, field)

    def test_every_filter_leaves_the_best_token(self):
        """With only one token let through, any temperature is greedy."""
        greedy = self.s.complete(PROMPT, max_tokens=12)["choices"][0]["text"]
        for field in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
            self.assertEqual(self.s.complete(PROMPT, max_tokens=12, temperature=1.5, seed=1, **field)["choices"][0]["text"], greedy)

    def test_ignore_eos_and_min_tokens(self):
        a = self.s.complete(PROMPT, max_tokens=200, ignore_eos=True)
        self.assertEqual(a["usage"]["completion_tokens"], 200)
        text = self.s.complete(PROMPT, max_tokens=40)["choices"][0]["text"]
        late = self.s.complete(PROMPT, max_tokens=40, stop=text[:3], min_tokens=20)
        self.assertGreaterEqual(late["usage"]["completion_tokens"], 20)

    def test_alone_and_in_a_batch_are_the_same(self):
        prompts = [PROMPT[:n] for n in range(5, 50, 3)] + ["word " * n for n in range(1, 60, 7)]
        alone = [self.s.complete(p, max_tokens=20)["choices"][0]["text"] for p in prompts]
        together = [c["text"] for c in self.s.complete(prompts, max_tokens=20)["choices"]]
        for p, a, t in zip(prompts, alone, together):
            self.assertEqual(a, t, p)


class Chat(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.s = PlainServer()

    @classmethod
    def tearDownClass(cls):
        cls.s.stop()

    def ask(self, **fields):
        body = {"messages": [{"role": "user", "content": "Tell me a story"}], "temperature": 0, "max_tokens": 12,
                "logit_bias": PLAIN, **fields}
        r = self.s.post("/v1/chat/completions", body)
        self.assertEqual(r.status_code, 200, r.text)
        return r.json()

    def test_the_shape_of_an_answer(self):
        a = self.ask()
        self.assertEqual(a["object"], "chat.completion")
        m = a["choices"][0]["message"]
        self.assertEqual(m["role"], "assistant")
        self.assertTrue(m["content"])
        self.assertEqual(self.ask(max_completion_tokens=5, max_tokens=9)["usage"]["completion_tokens"], 5)

    def test_streamed_is_the_same_text(self):
        chunks = list(self.s.stream("/v1/chat/completions", messages=[{"role": "user", "content": "Tell me a story"}],
                                    temperature=0, max_tokens=12))
        self.assertEqual(chunks[0]["choices"][0]["delta"]["role"], "assistant")
        self.assertEqual(chunks[0]["object"], "chat.completion.chunk")
        self.assertEqual(text_of(chunks)[0], self.ask()["choices"][0]["message"]["content"])

    def test_content_in_parts(self):
        parts = [{"type": "text", "text": "Tell me a story"}]
        self.assertEqual(self.ask(messages=[{"role": "user", "content": parts}])["choices"][0]["message"],
                         self.ask()["choices"][0]["message"])

    def test_logprobs(self):
        content = self.ask(logprobs=True, top_logprobs=2, max_tokens=4)["choices"][0]["logprobs"]["content"]
        self.assertEqual(len(content), 4)
        for t in content:
            self.assertEqual(len(t["top_logprobs"]), 2)
            self.assertEqual(bytes(t["bytes"]).decode(errors="replace"), t["token"])

    def test_control_tokens_in_messages_are_text(self):
        counts = []
        for parse in (False, True):
            chat = self.ask(messages=[{"role": "user", "content": "a</s><s>b"}], parse_special=parse)["usage"]
            direct = self.s.complete("user: a</s><s>bassistant:", add_special_tokens=False, parse_special=parse)["usage"]
            self.assertEqual(chat["prompt_tokens"], direct["prompt_tokens"])
            counts.append(chat["prompt_tokens"])
        self.assertGreater(*counts)
        self.assertEqual(self.ask(messages=[{"role": "user", "content": "a</s><s>b"}])["usage"]["prompt_tokens"], counts[0])

    def test_the_template_is_the_prompt(self):
        direct = self.s.complete("user: Tell me a storyassistant:", max_tokens=12, add_special_tokens=False)
        answer = self.ask()
        self.assertEqual(answer["usage"]["prompt_tokens"], direct["usage"]["prompt_tokens"])
        self.assertEqual(answer["choices"][0]["message"]["content"].strip(), direct["choices"][0]["text"].strip())
