"""The anthropic package against the server, as its users call it: answers and events go through its own models."""
import asyncio
import unittest

import anthropic

from server import LIMIT_S, Server, strictly

MESSAGES = [{"role": "user", "content": "Begin."}]


class Anthropic(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.s = Server("--ctx", "1024", "--alias", "claude", env={"AUTOGLM_API_KEY": "s3cret"})
        cls.client = anthropic.Anthropic(base_url=cls.s.url, api_key="s3cret", timeout=LIMIT_S, max_retries=0)
        cls.ask = dict(model="claude", max_tokens=12, messages=MESSAGES, extra_body={"temperature": 0})

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.s.stop()

    def chat(self, **more):
        body = {"messages": MESSAGES, "max_tokens": 12, "temperature": 0, **more}
        r = self.s.post("/v1/chat/completions", body, headers={"Authorization": "Bearer s3cret"})
        self.assertEqual(r.status_code, 200, r.text)
        return r.json()["choices"][0]["message"]["content"]

    def test_messages(self):
        a = self.client.messages.create(**self.ask)
        strictly(a)
        self.assertEqual((a.type, a.role, a.stop_reason, a.stop_sequence), ("message", "assistant", "max_tokens", None))
        self.assertEqual([b.type for b in a.content], ["text"])
        self.assertEqual(a.content[0].text, self.chat())
        self.assertEqual(a.usage.output_tokens, 12)
        self.assertTrue(a._request_id)
        counted = self.client.messages.count_tokens(model="claude", messages=MESSAGES)
        strictly(counted)
        self.assertEqual(a.usage.input_tokens + a.usage.cache_read_input_tokens, counted.input_tokens)

    def test_system_and_blocks(self):
        a = self.client.messages.create(**{**self.ask, "system": [{"type": "text", "text": "You tell stories."}],
                                           "messages": [{"role": "user", "content": [{"type": "text", "text": "Begin."}]}]})
        self.assertEqual(a.content[0].text, self.chat(messages=[{"role": "system", "content": "You tell stories."}, *MESSAGES]))

    def test_stop_sequences(self):
        text = self.client.messages.create(**{**self.ask, "max_tokens": 30}).content[0].text
        stop = text[6:9]
        ask = {**self.ask, "max_tokens": 30, "stop_sequences": ["never said", stop]}
        a = self.client.messages.create(**ask)
        self.assertEqual((a.content[0].text, a.stop_reason, a.stop_sequence), (text[:text.index(stop)], "stop_sequence", stop))
        with self.client.messages.stream(**ask) as stream:
            b = stream.get_final_message()
        self.assertEqual((b.content[0].text, b.stop_reason, b.stop_sequence), (a.content[0].text, a.stop_reason, stop))

    def test_an_answer_that_was_begun(self):
        a = self.client.messages.create(**{**self.ask, "messages": [*MESSAGES, {"role": "assistant", "content": " Once upon"}]})
        prompt = "user: Begin.\nassistant: Once upon"
        r = self.s.post("/v1/completions", {"prompt": prompt, "add_special_tokens": False, "max_tokens": 12, "temperature": 0},
                        headers={"x-api-key": "s3cret"})
        self.assertEqual(a.content[0].text, r.json()["choices"][0]["text"])

    def test_streams(self):
        whole = self.client.messages.create(**self.ask)
        events = list(self.client.messages.create(stream=True, **self.ask))
        for event in events:
            strictly(event)
        kinds = [e.type for e in events if e.type != "content_block_delta"]
        self.assertEqual(kinds, ["message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop"])
        self.assertEqual("".join(e.delta.text for e in events if e.type == "content_block_delta"), whole.content[0].text)
        with self.client.messages.stream(**self.ask) as stream:
            self.assertEqual("".join(stream.text_stream), whole.content[0].text)
            last = stream.get_final_message()
        self.assertEqual((last.stop_reason, last.usage.output_tokens), (whole.stop_reason, 12))
        self.assertEqual([b.text for b in last.content], [b.text for b in whole.content])

    def test_raw_events_have_names(self):
        with self.client.messages.with_streaming_response.create(stream=True, **self.ask) as r:
            lines = [line for line in r.iter_lines() if line]
        self.assertEqual(lines[0], "event: message_start")
        self.assertIn('data: {"type":"ping"}', lines)
        self.assertEqual(lines[-2:], ["event: message_stop", 'data: {"type":"message_stop"}'])

    def test_many_at_once(self):
        async def main():
            async with anthropic.AsyncAnthropic(base_url=self.s.url, api_key="s3cret", timeout=LIMIT_S, max_retries=0) as client:
                async def one(i):
                    async with client.messages.stream(**{**self.ask, "messages": [{"role": "user", "content": f"Number {i}"}]}) as s:
                        return "".join([t async for t in s.text_stream])
                return await asyncio.gather(*(one(i) for i in range(8)))
        together = asyncio.run(main())
        self.assertEqual(together, [self.chat(messages=[{"role": "user", "content": f"Number {i}"}]) for i in range(8)])

    def test_errors_are_of_its_classes(self):
        for error, change in ((anthropic.NotFoundError, {"model": "other"}), (anthropic.BadRequestError, {"extra_body": {"temperature": 99}}),
                              (anthropic.BadRequestError, {"max_tokens": 100000}),
                              (anthropic.BadRequestError, {"messages": [{"role": "user", "content": [{"type": "image"}]}]})):
            with self.subTest(change=change), self.assertRaises(error) as caught:
                self.client.messages.create(**{**self.ask, **change})
            self.assertTrue(caught.exception.request_id)
            self.assertEqual(caught.exception.body["type"], "error")
        with self.assertRaises(anthropic.AuthenticationError) as caught:
            self.client.with_options(api_key="other").messages.create(**self.ask)
        self.assertEqual(caught.exception.body["error"]["type"], "authentication_error")
        bearer = anthropic.Anthropic(base_url=self.s.url, auth_token="s3cret", timeout=LIMIT_S, max_retries=0)
        self.assertTrue(bearer.messages.create(**self.ask).id)
        bearer.close()


if __name__ == "__main__":
    unittest.main()
