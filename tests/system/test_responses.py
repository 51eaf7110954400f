"""OpenAI's responses API, with its own package: answers and events go through its models, strictly."""
import json
import pathlib
import signal
import tempfile
import unittest

import openai

import h2_raw
import recite
from server import LIMIT_S, PLAIN, Keyed, Server, long_model, strictly, wait_for

ASK = {"model": "gpt-4o", "input": "Begin.", "max_output_tokens": 12, "temperature": 0, "extra_body": {"logit_bias": PLAIN}}
BUSY = ("queued", "in_progress")


def client_of(s, **more):
    return openai.OpenAI(base_url=s.url + "/v1", api_key="x", timeout=LIMIT_S, max_retries=0, **more)


class Responses(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.s = Server("--ctx", "1024", "--alias", "gpt-4o")
        cls.client = client_of(cls.s)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.s.stop()

    def chat(self, *messages):
        body = {"messages": [{"role": role, "content": text} for role, text in messages], "max_tokens": 12, "temperature": 0, "logit_bias": PLAIN}
        r = self.s.post("/v1/chat/completions", body)
        self.assertEqual(r.status_code, 200, r.text)
        return r.json()["choices"][0]["message"]["content"]

    def test_an_answer(self):
        r = strictly(self.client.responses.create(**ASK, metadata={"a": "b"}, user="u", instructions="Tell."))
        self.assertEqual(r.output_text, self.chat(("system", "Tell."), ("user", "Begin.")))
        self.assertEqual((r.status, r.incomplete_details.reason, r.background, r.error), ("incomplete", "max_output_tokens", False, None))
        self.assertEqual((r.metadata, r.user, r.instructions, r.temperature, r.max_output_tokens), ({"a": "b"}, "u", "Tell.", 0, 12))
        self.assertEqual((r.usage.output_tokens, r.usage.output_tokens_details.reasoning_tokens), (12, 0))
        self.assertEqual(r.usage.total_tokens, r.usage.input_tokens + 12)
        self.assertTrue(r._request_id)
        self.assertEqual(strictly(self.client.responses.retrieve(r.id)), r)

    def test_streams(self):
        whole = self.client.responses.create(**ASK)
        events = [strictly(e) for e in self.client.responses.create(stream=True, **ASK)]
        self.assertEqual([e.sequence_number for e in events], list(range(len(events))))
        kinds = [e.type.removeprefix("response.") for e in events if e.type != "response.output_text.delta"]
        self.assertEqual(kinds, ["created", "in_progress", "output_item.added", "content_part.added", "output_text.done",
                                 "content_part.done", "output_item.done", "incomplete"])
        self.assertEqual("".join(e.delta for e in events if e.type == "response.output_text.delta"), whole.output_text)
        self.assertEqual(events[-1].response.output_text, whole.output_text)
        self.assertEqual(strictly(self.client.responses.retrieve(events[0].response.id)), events[-1].response)

    def test_its_own_stream(self):
        ask = {**ASK, "text": {"format": {"type": "json_object"}}, "max_output_tokens": 200, "extra_body": {"seed": 3}, "temperature": 1}
        with self.client.responses.stream(**ask) as stream:
            kinds = [e.type for e in stream]
            self.assertIn(kinds[-1], ("response.completed", "response.incomplete"))
            if kinds[-1] == "response.completed":
                self.assertEqual(stream.get_final_response().output_text, self.client.responses.create(**ask).output_text)

    def test_conversations_go_on(self):
        first = self.client.responses.create(**ASK)
        second = strictly(self.client.responses.create(**{**ASK, "input": "And then?"}, previous_response_id=first.id))
        self.assertEqual(second.output_text, self.chat(("user", "Begin."), ("assistant", first.output_text), ("user", "And then?")))
        self.assertEqual(second.previous_response_id, first.id)
        by_hand = [{"role": "user", "content": "Begin."}, *first.output, {"role": "user", "content": [{"type": "input_text", "text": "And then?"}]}]
        self.assertEqual(self.client.responses.create(**{**ASK, "input": by_hand}).output_text, second.output_text)
        items = self.client.responses.input_items.list(second.id, order="asc", limit=2)
        for item in items.data:
            strictly(item)
        self.assertTrue(items.has_more)
        listed = list(items)  # which asks for the rest by itself
        self.assertEqual([(i.role, i.content[0].text) for i in listed],
                         [("user", "Begin."), ("assistant", first.output_text), ("user", "And then?")])
        self.assertEqual([i.id for i in self.client.responses.input_items.list(second.id)], [i.id for i in reversed(listed)])
        self.client.responses.delete(first.id)
        self.assertRaises(openai.NotFoundError, self.client.responses.retrieve, first.id)
        third = self.client.responses.create(**{**ASK, "input": "More."}, previous_response_id=second.id)
        self.assertEqual(len(list(self.client.responses.input_items.list(third.id))), 5)
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client.responses.create(**ASK, previous_response_id=first.id)
        self.assertEqual((caught.exception.code, caught.exception.param), ("previous_response_not_found", "previous_response_id"))

    def test_not_kept(self):
        r = self.client.responses.create(**ASK, store=False)
        self.assertRaises(openai.NotFoundError, self.client.responses.retrieve, r.id)

    def test_background(self):
        r = strictly(self.client.responses.create(**ASK, background=True))
        self.assertEqual((r.status, r.output, r.usage), ("queued", [], None))
        done = wait_for("the answer", lambda: (lambda x: x if x.status not in BUSY else None)(self.client.responses.retrieve(r.id)))
        strictly(done)
        self.assertEqual((done.status, done.output_text), ("incomplete", self.client.responses.create(**ASK).output_text))
        self.assertEqual(self.client.responses.cancel(r.id).status, "incomplete")
        events = [strictly(e) for e in self.client.responses.create(**ASK, background=True, stream=True)]
        self.assertEqual([e.type for e in events[:3]], ["response.created", "response.queued", "response.in_progress"])
        self.assertEqual(events[-1].response.output_text, done.output_text)

    def test_errors_are_of_its_classes(self):
        for error, param, change in ((openai.NotFoundError, None, {"model": "other"}),
                                     (openai.BadRequestError, "temperature", {"temperature": 99}),
                                     (openai.BadRequestError, "input", {"input": []}),
                                     (openai.BadRequestError, "tools[0]", {"tools": [{"type": "web_search"}]}),
                                     (openai.BadRequestError, "text.format", {"text": {"format": {"type": "json_schema", "name": "x", "schema": {}}}}),
                                     (openai.BadRequestError, "background", {"background": True, "store": False}),
                                     (openai.BadRequestError, "conversation", {"conversation": "conv_1"})):
            with self.subTest(change=change), self.assertRaises(error) as caught:
                self.client.responses.create(**{**ASK, **change})
            self.assertTrue(caught.exception.request_id)
            if param:
                self.assertEqual(caught.exception.param, param)
        r = self.client.responses.create(**ASK)
        self.assertRaises(openai.NotFoundError, self.client.responses.retrieve, "resp_none")
        self.assertRaises(openai.NotFoundError, self.client.responses.delete, "resp_none")
        self.assertRaises(openai.NotFoundError, self.client.responses.cancel, "resp_none")
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client.responses.cancel(r.id)
        self.assertIn("'background'", str(caught.exception))
        with self.assertRaises(openai.BadRequestError) as caught:
            list(self.client.responses.retrieve(r.id, stream=True))
        self.assertEqual(caught.exception.param, "stream")


class Calls(unittest.TestCase):
    def test_reasoning_and_calls(self):
        text = ("<think>hm</think>\nBoth.<tool_call>{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Köln\"}}</tool_call>\n"
                "<tool_call>\n{\"name\":\"add\", \"arguments\":{}}\n</tool_call>")
        tools = [{"type": "function", "name": name, "parameters": {"type": "object", "properties": {}}, "strict": False}
                 for name in ("get_weather", "add")]
        with tempfile.TemporaryDirectory() as folder:
            path = recite.write(str(pathlib.Path(folder, "calls.gguf")), text, "{# <think> </think> <tool_call> #}" + recite.TURNS)
            with Server(model=path) as s, client_of(s) as client:
                ask = {"model": client.models.list().data[0].id, "input": "Go.", "tools": tools}
                whole = strictly(client.responses.create(**ask))
                self.assertEqual([i.type for i in whole.output], ["reasoning", "message", "function_call", "function_call"])
                self.assertEqual((whole.status, whole.output[0].content[0].text, whole.output_text), ("completed", "hm", "Both."))
                self.assertEqual([(c.name, c.arguments) for c in whole.output[2:]], [("get_weather", '{"city": "Köln"}'), ("add", "{}")])
                self.assertGreater(whole.usage.output_tokens_details.reasoning_tokens, 2)
                self.assertLess(whole.usage.output_tokens_details.reasoning_tokens, whole.usage.output_tokens)
                with client.responses.stream(**ask) as stream:
                    for event in stream:
                        pass
                    final = stream.get_final_response()
                self.assertEqual([i.type for i in final.output], [i.type for i in whole.output])
                self.assertEqual(final.usage.output_tokens_details, whole.usage.output_tokens_details)
                given = [{"type": "function_call_output", "call_id": c.call_id, "output": "21"} for c in whole.output[2:]]
                again = client.responses.create(**{**ask, "input": given}, previous_response_id=whole.id)
                by_hand = client.responses.create(**{**ask, "input": [{"role": "user", "content": "Go."}, *whole.output, *given]})
                self.assertEqual(again.usage.input_tokens, by_hand.usage.input_tokens)
                self.assertEqual([i.type for i in client.responses.input_items.list(again.id, order="asc")],
                                 ["message", "reasoning", "message", "function_call", "function_call", "function_call_output", "function_call_output"])
                for item in client.responses.input_items.list(again.id):
                    strictly(item)


class Kept(unittest.TestCase):
    """What outlives whom."""

    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.flags = ("--responses-db", str(pathlib.Path(self.dir.name, "responses.db")), "--alias", "gpt-4o")

    def tearDown(self):
        self.dir.cleanup()

    def long_answer(self, client):
        r = client.responses.create(**{**ASK, "max_output_tokens": 500000}, background=True)
        wait_for("it to run", lambda: client.responses.retrieve(r.id).status == "in_progress")
        return r.id

    def test_a_restart(self):
        with Server(*self.flags) as s, client_of(s) as client:
            first = client.responses.create(**ASK)
        with Server(*self.flags) as s, client_of(s) as client:
            self.assertEqual(client.responses.retrieve(first.id), first)
            self.assertTrue(client.responses.create(**ASK, previous_response_id=first.id).output_text)

    def test_sigterm(self):
        with Server(*self.flags, "--shutdown-timeout", "100ms", model=long_model()) as s, client_of(s) as client:
            cut = self.long_answer(client)
        with Server(*self.flags) as s, client_of(s) as client:
            r = strictly(client.responses.retrieve(cut))
            self.assertEqual(r.status, "failed")
            self.assertIn("shutting down", r.error.message)

    def test_sigterm_where_nobody_reads(self):
        """A client whose windows stay shut holds up neither the end nor what is kept."""
        flags = (*self.flags, "--shutdown-timeout", "100ms", "--write-timeout", "1h", "--out-bytes", "64KiB")
        with Server(*flags, model=long_model()) as s, h2_raw.Connection(s.port, opens_windows=False) as c:
            ask = {"input": "Begin.", "max_output_tokens": 500000, "temperature": 0, "logit_bias": PLAIN, "background": True, "stream": True}
            c.ask("/v1/responses", json.dumps(ask).encode(), {"content-type": "application/json"})
            seen = b""
            while len(seen) < 60000:
                seen += b"".join(e.data for e in c.events() if hasattr(e, "data") and hasattr(e, "flow_controlled_length"))
            cut = json.loads(seen.split(b"data: ", 1)[1].split(b"\n", 1)[0])["response"]["id"]
            wait_for("more than may wait", lambda: s.metric("autoglm_output_tokens_total") > 3000)
            s.signal(signal.SIGTERM)
            self.assertEqual(s.wait(), 0)
            s.check()
        with Server(*self.flags) as s, client_of(s) as client:
            r = strictly(client.responses.retrieve(cut))
            self.assertEqual(r.status, "failed")
            self.assertIn("shutting down", r.error.message)

    def test_a_kill(self):
        s = Server(*self.flags, model=long_model())
        with client_of(s) as client:
            cut = self.long_answer(client)
        s.signal(signal.SIGKILL)
        s.kill()
        with Server(*self.flags) as s, client_of(s) as client:
            r = strictly(client.responses.retrieve(cut))
            self.assertEqual(r.status, "failed")
            self.assertIn("stopped", r.error.message)

    def test_cancelling(self):
        with Server(*self.flags, model=long_model()) as s, client_of(s) as client:
            r = self.long_answer(client)
            self.assertEqual(strictly(client.responses.cancel(r)).status, "cancelled")
            self.assertEqual(client.responses.retrieve(r).status, "cancelled")
            wait_for("the engine to be idle", s.idle)
            self.assertEqual(client.responses.retrieve(r).status, "cancelled")
            gone = self.long_answer(client)
            client.responses.delete(gone)
            wait_for("the engine to be idle", s.idle)
            self.assertRaises(openai.NotFoundError, client.responses.retrieve, gone)

    def test_a_client_that_leaves(self):
        with Server(*self.flags, model=long_model()) as s, client_of(s) as client:
            ask = {**ASK, "max_output_tokens": 2000}
            stream = client.responses.create(**ask, background=True, stream=True)
            event = next(iter(stream))
            stream.close()
            done = wait_for("the answer", lambda: (lambda x: x if x.status not in BUSY else None)(client.responses.retrieve(event.response.id)))
            self.assertEqual((done.status, done.usage.output_tokens), ("incomplete", 2000))

    def test_another_server_keeps_off(self):
        with Server(*self.flags):
            with self.assertRaises(AssertionError) as caught:
                Server(*self.flags)
            self.assertIn("another program has it open", str(caught.exception))


class Tenants(unittest.TestCase):
    def test_nothing_is_found_across(self):
        with Keyed("--alias", "gpt-4o") as k:
            gold, free = (k.client(k.key("--tenant", t)["key"]) for t in ("gold", "free"))
            mine = gold.responses.create(**ASK)
            self.assertEqual(gold.responses.retrieve(mine.id).id, mine.id)
            for call in (free.responses.retrieve, free.responses.delete, free.responses.cancel, free.responses.input_items.list):
                self.assertRaises(openai.NotFoundError, call, mine.id)
            with self.assertRaises(openai.BadRequestError) as caught:
                free.responses.create(**ASK, previous_response_id=mine.id)
            self.assertEqual(caught.exception.code, "previous_response_not_found")
            self.assertEqual(gold.responses.retrieve(mine.id).id, mine.id)
            same = k.client(k.key("--tenant", "gold")["key"])
            self.assertEqual(same.responses.retrieve(mine.id).id, mine.id)
            for c in (gold, free, same):
                c.close()


if __name__ == "__main__":
    unittest.main()
