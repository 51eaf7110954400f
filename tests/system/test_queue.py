"""How requests wait: who overtakes whom, what a deadline does, places by id and as events, and that nothing is left behind."""
import collections
import json
import random
import signal
import socket
import threading
import unittest

import openai
import requests

from server import LIMIT_S, PLAIN, Server, events, long_model, wait_for

PATH = "/v1/completions"
# Holds the one place of a server that has no other, until its client leaves.
HOLD = {"prompt": "Once upon a time", "max_tokens": 120000, "temperature": 0, "ignore_eos": True, "stream": True, "priority": 0,
        "logit_bias": PLAIN}
SHORT = {"prompt": "The little dog", "max_tokens": 4, "temperature": 0, "ignore_eos": True}


def server(*flags):
    """One loop, unless a test says otherwise: answers are logged in the order in which they end."""
    return Server("--ctx", "131072", "--loops", "1", *flags, model=long_model())


def error_of(r):
    return r.json()["error"]


class Held:
    """A server with one place, which is taken: whoever comes waits."""

    def __init__(self, *flags):
        self.s = server("--max-running", "1", *flags)
        self.holder = requests.post(self.s.url + PATH, json=HOLD, headers={"x-request-id": "holder"}, stream=True, timeout=LIMIT_S)
        assert self.holder.status_code == 200, self.holder.text
        self.lines = self.holder.iter_lines()
        while not next(self.lines).startswith(b"data: "):
            pass
        self.threads = []

    def ask(self, name, tenant=None, **fields):
        """Asks in a thread of its own and comes back once it waits. The answer is in .answer of what is returned."""
        class Asked:
            answer = None
        asked = Asked()
        headers = {"x-request-id": name, **({"x-tenant": tenant} if tenant else {})}

        def run():
            asked.answer = requests.post(self.s.url + PATH, json={**SHORT, **fields}, headers=headers, timeout=LIMIT_S)
        asked.thread = threading.Thread(target=run)
        asked.thread.start()
        self.threads.append(asked.thread)
        wait_for(f"{name} to wait", lambda: asked.answer is not None or self.place(name, tenant).status_code == 200)
        return asked

    def place(self, name, tenant=None, method="get", **more):
        headers = {"x-tenant": tenant} if tenant else {}
        return requests.request(method, f"{self.s.url}/v1/queue/{name}", headers=headers, timeout=LIMIT_S, **more)

    def release(self):
        self.holder.close()
        for t in self.threads:
            t.join(LIMIT_S)

    def order(self):
        """Ids of the requests that were answered, in that order."""
        return [e["request_id"] for e in self.s.lines() if e.get("msg") == "request" and e.get("path") == PATH and e["status"] == 200
                and not e.get("client_gone")]

    def __enter__(self):
        self.s.__enter__()
        return self

    def __exit__(self, *why):
        self.holder.close()
        for t in self.threads:
            t.join(LIMIT_S)
        return self.s.__exit__(*why)


def nothing_left(test, s):
    """No generation, and no page but those kept for reuse, which a request can have."""
    wait_for("all to be quiet", s.idle)
    test.assertEqual(s.complete("Once", max_tokens=2)["usage"]["completion_tokens"], 2)
    wait_for("all to be quiet", s.idle)


class Order(unittest.TestCase):
    def test_bands_then_arrival_and_live_overtaking(self):
        with Held() as h:
            batch = h.ask("batch", priority=3)
            first = h.ask("first", priority=2)
            second = h.ask("second")
            self.assertEqual([h.place(n).json()["position"] for n in ("first", "second", "batch")], [1, 2, 3])
            urgent = h.ask("urgent", priority=1)
            self.assertEqual([h.place(n).json()["position"] for n in ("urgent", "first", "second", "batch")], [1, 2, 3, 4])
            moved = h.place("batch", method="patch", json={"priority": 0}).json()
            self.assertEqual((moved["priority"], moved["position"], moved["state"]), (0, 1, "waiting"))
            self.assertEqual(h.place("holder").json()["state"], "running")
            h.release()
            self.assertEqual([a.answer.status_code for a in (batch, first, second, urgent)], [200] * 4)
            wait_for("all to be logged", lambda: len(h.order()) == 4)
            self.assertEqual(h.order(), ["batch", "urgent", "first", "second"])
            nothing_left(self, h.s)

    def test_an_urgent_request_sets_running_work_back_and_changes_nothing_of_it(self):
        with server("--max-running", "1") as s:
            ask = {**HOLD, "priority": 3, "max_tokens": 10000, "temperature": 1, "seed": 5}
            whole = "".join(c["choices"][0]["text"] for c in s.stream(**ask))
            with requests.post(s.url + PATH, json=ask, stream=True, timeout=LIMIT_S) as r:
                chunks = events(r.iter_lines())
                text = next(chunks)["choices"][0]["text"]
                urgent = s.complete(priority=0, max_tokens=4)
                self.assertEqual(urgent["usage"]["completion_tokens"], 4)
                text += "".join(c["choices"][0]["text"] for c in chunks)
            self.assertEqual(text, whole)
            def order():
                return [e["output_tokens"] for e in s.lines() if e.get("msg") == "request" and e.get("path") == PATH]
            wait_for("all to be logged", lambda: len(order()) == 3)
            self.assertEqual(order(), [10000, 4, 10000], "the urgent one was answered first")
            self.assertGreaterEqual(s.metric("autoglm_preemptions_total"), 1)
            nothing_left(self, s)

    def test_nobody_who_waits_is_lost_by_SIGTERM(self):
        with Held("--shutdown-timeout", "60s") as h:
            waiting = [h.ask(f"w{i}", priority=i % 4) for i in range(6)]
            h.s.signal(signal.SIGTERM)
            h.s.wait_line("draining")
            h.release()
            self.assertEqual([w.answer.status_code for w in waiting], [200] * 6)
            self.assertEqual(h.s.wait(), 0)


class Deadlines(unittest.TestCase):
    def test_expired_while_waiting(self):
        with Held("--refuse-late=no") as h:
            before = h.s.metrics()
            for stream in (False, True):
                r = h.s.post(PATH, {**SHORT, "timeout_ms": 3000, "stream": stream})
                self.assertEqual((r.status_code, error_of(r)["code"]), (504, "deadline_exceeded"), r.text)
                self.assertRegex(error_of(r)["message"],
                                 r"timeout of 3000 ms passed after \d+ ms in the queue; nothing was computed")
            r = requests.post(h.s.url + PATH, json={**SHORT, "n": 3}, headers={"x-request-timeout-ms": "2000"}, timeout=LIMIT_S)
            self.assertEqual((r.status_code, error_of(r)["code"]), (504, "deadline_exceeded"), r.text)
            h.release()
            wait_for("all to be quiet", h.s.idle)
            after = h.s.metrics()
            name = next(k for k in after if k.startswith("autoglm_prompt_tokens_total"))
            self.assertEqual(after[name], before[name], "nothing was computed for them")
            nothing_left(self, h.s)

    def test_what_cannot_be_in_time_is_refused_at_once(self):
        """The longer the answer that holds the place, the longer it is expected to hold it."""
        with Held() as h:
            refused = []

            def refuses():
                r = h.s.post(PATH, {**SHORT, "timeout_ms": 500})
                if r.status_code == 504:  # not yet
                    return False
                refused.append(r)
                return True
            wait_for("a refusal", refuses)
            r = refused[0]
            self.assertEqual((r.status_code, error_of(r)["code"]), (503, "deadline_unreachable"), r.text)
            self.assertRegex(error_of(r)["message"], r"it would take \d+ ms \(\d+ of waiting\), and \d+ are left")
            self.assertRegex(r.headers["retry-after"], r"^[1-9][0-9]*$")
            self.assertTrue(any('evicted' in k and 'refused_late' in k and v > 0 for k, v in h.s.metrics().items()))
            h.release()
            nothing_left(self, h.s)

    def test_expired_while_running(self):
        with server() as s:
            ask = {**HOLD, "timeout_ms": 5000}
            a = s.post(PATH, {**ask, "stream": False})
            self.assertEqual(a.status_code, 200, a.text)
            choice = a.json()["choices"][0]
            self.assertEqual((choice["finish_reason"], choice["autoglm"]), ("length", {"stopped_by": "timeout"}))
            n = a.json()["usage"]["completion_tokens"]
            self.assertTrue(0 < n < HOLD["max_tokens"], n)
            self.assertTrue(choice["text"])
            chunks = list(s.stream(**ask))
            self.assertEqual(chunks[-1]["choices"][0]["finish_reason"], "length")
            self.assertEqual(chunks[-1]["choices"][0]["autoglm"], {"stopped_by": "timeout"})
            full = s.complete(HOLD["prompt"], max_tokens=8, ignore_eos=True, logit_bias=PLAIN, timeout_ms=60000)["choices"][0]
            self.assertNotIn("autoglm", full)
            self.assertTrue(choice["text"].startswith(full["text"]) or full["text"].startswith(choice["text"]))
            with openai.OpenAI(base_url=s.url + "/v1", api_key="x", timeout=LIMIT_S, max_retries=0) as client:
                got = client.completions.create(model="long", prompt="Once", max_tokens=120000, extra_body={
                    "timeout_ms": 5000, "ignore_eos": True, "logit_bias": PLAIN})
                self.assertEqual(got.choices[0].finish_reason, "length")
                self.assertEqual(got.choices[0].autoglm, {"stopped_by": "timeout"})
            nothing_left(self, s)

    def test_an_idle_server_never_refuses_by_estimate(self):
        with server() as s:
            for _ in range(3):
                s.complete(max_tokens=40, ignore_eos=True)
            r = s.post(PATH, {**SHORT, "max_tokens": 100000, "timeout_ms": 5000})
            self.assertEqual(r.status_code, 200, r.text)
            self.assertEqual(r.json()["choices"][0]["autoglm"], {"stopped_by": "timeout"})


class Events(unittest.TestCase):
    def test_a_queued_stream_tells_its_place_and_then_its_text(self):
        with Held() as h, openai.OpenAI(base_url=h.s.url + "/v1", api_key="x", timeout=LIMIT_S, max_retries=0) as client:
            ahead = h.ask("ahead", priority=1)
            ask = dict(model="long", prompt=SHORT["prompt"], max_tokens=4, temperature=0)
            stream = client.completions.create(stream=True, stream_options={"position_events": True, "include_usage": True},
                                               extra_body={"ignore_eos": True}, extra_headers={"x-request-id": "mine"}, **ask)
            chunks = iter(stream)
            place = next(chunks)
            self.assertEqual((place.choices, place.queue["position"], place.queue["state"]), ([], 2, "waiting"))
            self.assertEqual(h.place("mine", method="patch", json={"priority": 0}).status_code, 200)
            place = next(chunks)
            self.assertEqual((place.queue["position"], place.queue["priority"]), (1, 0))
            h.release()
            rest = list(chunks)
            text = "".join(c.choices[0].text for c in rest if c.choices)
            self.assertEqual(rest[-1].usage.completion_tokens, 4)
            self.assertEqual(ahead.answer.status_code, 200)
            self.assertEqual(text, client.completions.create(extra_body={"ignore_eos": True}, **ask).choices[0].text)

    def test_what_fails_in_a_stream_that_has_begun_is_raised_by_the_sdk(self):
        with Held() as h, openai.OpenAI(base_url=h.s.url + "/v1", api_key="x", timeout=LIMIT_S, max_retries=0) as client:
            stream = client.chat.completions.create(model="long", messages=[{"role": "user", "content": "x"}], stream=True, max_tokens=4,
                                                    stream_options={"position_events": True}, extra_headers={"x-request-id": "mine"})
            chunks = iter(stream)
            self.assertEqual(next(chunks).queue["state"], "waiting")
            self.assertEqual(h.place("mine", method="delete").json()["cancelled"], True)
            with self.assertRaises(openai.APIError) as caught:
                for _ in chunks:
                    pass
            self.assertEqual(caught.exception.code, "cancelled_by_request")

    def test_as_bytes(self):
        """Headers at once, an event, then nothing but comments and events until the first token; errors end with [DONE]."""
        with Held() as h:
            body = json.dumps({**SHORT, "stream": True, "stream_options": {"position_events": True}}).encode()
            c = socket.create_connection(("127.0.0.1", h.s.port), timeout=LIMIT_S)
            c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nx-request-id: raw\r\n"
                      b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            got = b""
            while b"\n\n" not in got.partition(b"\r\n\r\n")[2]:
                got += c.recv(4096)
            self.assertTrue(got.startswith(b"HTTP/1.1 200"), got)
            self.assertIn(b"event: queue\ndata: {", got)
            self.assertEqual(h.place("raw", method="delete").status_code, 200)
            while more := c.recv(4096):
                got += more
            c.close()
            self.assertRegex(got, rb'event: error\ndata: \{"error":\{"message":"The request was cancelled')
            self.assertIn(b"data: [DONE]\n\n", got)
            self.assertNotIn(b'"text"', got)

    def test_without_events_the_status_waits(self):
        with Held() as h:
            waiting = h.ask("s", stream=True)
            self.assertIsNone(waiting.answer)
            self.assertEqual(h.place("s", method="delete").status_code, 200)
            waiting.thread.join(LIMIT_S)
            self.assertEqual(waiting.answer.status_code, 499)
            self.assertEqual(error_of(waiting.answer)["code"], "cancelled_by_request")


class ById(unittest.TestCase):
    def test_only_its_own_tenant_finds_it(self):
        with Held("--loops", "3") as h:
            mine = h.ask("job", tenant="gold")
            seen = h.place("job", "gold").json()
            self.assertEqual((seen["id"], seen["object"], seen["state"], seen["priority"]), ("job", "queue.request", "waiting", 2))
            self.assertGreaterEqual(seen["position"], 1)
            for method, more in (("get", {}), ("patch", {"json": {"priority": 0}}), ("delete", {})):
                foreign, unknown = (h.place(n, "free", method, **more) for n in ("job", "bob"))
                self.assertEqual((foreign.status_code, unknown.status_code), (404, 404))
                same = [{**error_of(r), "request_id": "", "message": error_of(r)["message"].replace("bob", "job")} for r in (foreign, unknown)]
                self.assertEqual(same[0], same[1])
                self.assertEqual({k for k in foreign.headers}, {k for k in unknown.headers})
            self.assertEqual(h.place("job", "gold").json()["priority"], 2)
            self.assertEqual(h.place("job", "gold", "delete").json(), {"id": "job", "object": "queue.request", "cancelled": True})
            mine.thread.join(LIMIT_S)
            self.assertEqual(mine.answer.status_code, 499)
            self.assertEqual(h.place("job", "gold").status_code, 404)

    def test_running_work_is_cancelled_too(self):
        with Held() as h:
            next_one = h.ask("next")
            self.assertEqual(h.place("holder", method="delete").json()["cancelled"], True)
            rest = b"\n".join(h.lines)
            self.assertIn(b"event: error", rest)
            self.assertTrue(rest.rstrip().endswith(b"data: [DONE]"), rest[-200:])
            next_one.thread.join(LIMIT_S)
            self.assertEqual(next_one.answer.status_code, 200)
            nothing_left(self, h.s)

    def test_a_band_that_is_not_the_callers(self):
        with Held("--most-urgent-band", "0") as h:
            h.ask("a")
            for fields, headers, status, part in (
                    ({"priority": 4}, {}, 400, "'priority' must be between 0 and 3"),
                    ({"priority": -1}, {}, 400, "'priority'"), ({"priority": "urgent"}, {}, 400, "'priority'"),
                    ({"timeout_ms": 0}, {}, 400, "'timeout_ms'"), ({"timeout_ms": -4}, {}, 400, "'timeout_ms'"),
                    ({"timeout_ms": 10**15}, {}, 400, "'timeout_ms'"), ({}, {"x-request-priority": "7"}, 400, "x-request-priority"),
                    ({}, {"x-request-timeout-ms": "soon"}, 400, "x-request-timeout-ms"), ({}, {"x-tenant": "a b"}, 400, "x-tenant"),
                    ({"prompt": "word " * 200000}, {}, 400, "cache of this server (--ctx) holds 131072")):
                r = requests.post(h.s.url + PATH, json={**SHORT, **fields}, headers=headers, timeout=LIMIT_S)
                self.assertEqual(r.status_code, status, r.text)
                self.assertIn(part, error_of(r)["message"])
            self.assertEqual(h.place("a", method="patch", json={"priority": 9}).status_code, 400)
            self.assertEqual(h.s.metric("autoglm_generations_waiting"), 1)
            h.release()
            nothing_left(self, h.s)
        with Server("--ctx", "1024") as s:  # more than its model's context
            for fields, part in (({"prompt": "word " * 2000}, "the context holds"), ({"max_tokens": 2000}, "as many as the context holds")):
                r = s.post(PATH, {**SHORT, **fields})
                self.assertEqual((r.status_code, error_of(r)["code"]), (400, "context_length_exceeded"), r.text)
                self.assertIn(part, error_of(r)["message"])
            nothing_left(self, s)
        with server("--most-urgent-band", "1") as s:
            for more in ({"json": {**SHORT, "priority": 0}}, {"json": SHORT, "headers": {"x-request-priority": "0"}}):
                r = requests.post(s.url + PATH, timeout=LIMIT_S, **more)
                self.assertEqual((r.status_code, error_of(r)["code"], error_of(r)["param"]), (403, "forbidden", "priority"))
                self.assertIn("1 to 3", error_of(r)["message"])
            self.assertEqual(s.complete(priority=1, max_tokens=2)["usage"]["completion_tokens"], 2)


class Leaving(unittest.TestCase):
    def test_a_client_that_leaves_the_queue_frees_its_place_at_once(self):
        with Held("--queue-max", "3") as h:
            sockets = []
            for i in range(3):
                body = json.dumps({**SHORT, "stream": bool(i), "stream_options": {"position_events": True} if i == 2 else None}).encode()
                c = socket.create_connection(("127.0.0.1", h.s.port), timeout=LIMIT_S)
                c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                          % (len(body), body))
                sockets.append(c)
            wait_for("all to wait", lambda: h.s.metric("autoglm_generations_waiting") == 3)
            full = h.s.post(PATH, SHORT)
            self.assertEqual((full.status_code, error_of(full)["code"]), (503, "queue_full"))
            self.assertRegex(full.headers["retry-after"], r"^[1-9][0-9]*$")
            for left, c in zip((2, 1, 0), sockets):
                c.close()
                wait_for("its place to be free", lambda: h.s.metric("autoglm_generations_waiting") == left)
            self.assertEqual(h.place("holder").json()["state"], "running", "which none of this disturbed")
            h.release()
            nothing_left(self, h.s)

    def test_a_more_urgent_request_displaces(self):
        with Held("--queue-max", "2") as h:
            kept = h.ask("kept", priority=2)
            out = h.ask("out", priority=3)
            urgent = h.ask("urgent", priority=1)
            out.thread.join(LIMIT_S)
            self.assertEqual((out.answer.status_code, error_of(out.answer)["code"]), (503, "queue_full"))
            self.assertIn("retry-after", out.answer.headers)
            h.release()
            self.assertEqual((kept.answer.status_code, urgent.answer.status_code), (200, 200))
            wait_for("both to be logged", lambda: len(h.order()) == 2)
            self.assertEqual(h.order(), ["urgent", "kept"])


    def test_several_answers_find_room_together(self):
        with Held("--queue-max", "3") as h:
            low = h.ask("low", priority=3)
            kept = [h.ask(f"kept{i}", priority=1) for i in range(2)]
            r = h.s.post(PATH, {**SHORT, "n": 2})
            self.assertEqual((r.status_code, error_of(r)["code"]), (503, "queue_full"), r.text)
            self.assertIn("asks for 2 answers", error_of(r)["message"])
            self.assertEqual(h.place("low").json()["state"], "waiting", "it would have gone for nothing")
            r = h.s.post(PATH, {**SHORT, "n": 4})
            self.assertEqual((r.status_code, error_of(r)["code"]), (400, "limit_exceeded"), r.text)
            h.release()
            self.assertEqual([a.answer.status_code for a in (low, *kept)], [200] * 3)
            nothing_left(self, h.s)


class Figures(unittest.TestCase):
    def test_what_the_metrics_say_of_the_queue(self):
        with Held("--queue-max", "3", "--refuse-late=no") as h:
            def of(name, **labels):
                return h.s.metric("autoglm_" + name, **labels)
            out = h.ask("out", tenant="gold", priority=3)
            kept = h.ask("kept", tenant="gold", priority=2)
            r = h.s.post(PATH, {**SHORT, "timeout_ms": 3000})
            self.assertEqual(r.status_code, 504, r.text)
            waits = h.ask("waits", priority=1)
            self.assertEqual([of("queue_depth", band=b) for b in range(4)], [0, 1, 1, 1])
            self.assertEqual((of("tenant_waiting", tenant="gold"), of("tenant_waiting", tenant="default")), (2, 1))
            self.assertGreater(of("queue_tokens"), 0)
            self.assertGreater(of("queue_bytes"), 0)
            self.assertGreater(of("kv_pages_used"), 0)
            first = h.ask("first", priority=0)  # displaces
            refused = h.s.post(PATH, {**SHORT, "priority": 3})
            wait_for("who was displaced to be told", lambda: out.answer is not None)
            self.assertEqual((out.answer.status_code, refused.status_code), (503, 503))
            h.release()
            self.assertEqual([a.answer.status_code for a in (kept, waits, first)], [200] * 3)
            h.s.complete(HOLD["prompt"], max_tokens=100000, timeout_ms=5000, ignore_eos=True)
            h.s.complete("The same words. " * 40, max_tokens=2)
            h.s.complete("The same words. " * 40, max_tokens=2)
            wait_for("all to be quiet", h.s.idle)
            for reason in ("displaced", "expired", "timed_out", "refused_full"):
                self.assertEqual(of("evicted_total", reason=reason), 1, reason)
            self.assertEqual(of("evicted_after_deadline_seconds_count"), 1)
            self.assertLess(of("evicted_after_deadline_seconds_sum"), 3, "less than it waited")
            self.assertEqual([of("queue_depth", band=b) for b in range(4)], [0] * 4)
            self.assertEqual([of("queue_wait_seconds_count", band=b) for b in (0, 1, 3)], [2, 1, 1])
            self.assertEqual(of("tenant_wait_seconds_count", tenant="gold"), 2)
            self.assertGreaterEqual(of("prefix_reused_tokens_total"), 64)
            self.assertGreater(of("prefix_asked_tokens_total"), of("prefix_reused_tokens_total"))
            self.assertGreater(of("wait_estimate_error_seconds_count"), 0)
            self.assertGreater(of("step_estimate_error_ratio"), 0)
            self.assertGreater(of("service_rate"), 0)
            for name in ("step_tokens", "step_sequences", "step_seconds"):
                self.assertEqual(of(name + "_count"), of("steps_total"), name)
            self.assertEqual((of("queue_tokens"), of("queue_bytes"), of("kv_pages_used")), (0, 0, 0))

    def test_what_they_say_of_those_who_run(self):
        def stream(s):
            r = requests.post(s.url + PATH, json={**HOLD, "priority": 3}, stream=True, timeout=LIMIT_S)
            self.addCleanup(r.close)
            lines = r.iter_lines()
            next(lines)
            return lines  # whoever lets go of them hangs up
        with server("--max-running", "2") as s:
            first = stream(s)
            s.complete(priority=3, max_tokens=2)
            self.assertGreater(s.metric("autoglm_step_budget_tokens_count"), 0)
            second = stream(s)
            s.complete(priority=0, max_tokens=2)
            self.assertEqual(s.metric("autoglm_set_back_total", reason="urgent"), 1)
            self.assertEqual(s.metric("autoglm_preemptions_total"), s.metric("autoglm_set_back_total"))
            del first, second


class Storm(unittest.TestCase):
    """Everything at once, in a cache and a queue too small for it: each answer is right or says why not, and all ends."""
    REASONS = {499: {"cancelled_by_request"}, 503: {"queue_full", "deadline_unreachable"}, 504: {"deadline_exceeded"}}
    PROMPTS = ["Once upon a time", "The little dog", "One day, a girl named Sue", "word " * 60]

    def ask(self, s, dice, i, alone):
        """One request, in one of the ways that there are; what became of it."""
        k, way = i % len(self.PROMPTS), dice.choice(["stay", "stay", "stream", "events", "leave", "cancel", "move", "hurry"])
        body = {"prompt": self.PROMPTS[k], "max_tokens": 40, "temperature": 1, "seed": k, "ignore_eos": True, "priority": dice.randrange(4),
                "stream": way in ("stream", "events", "leave")}
        if way == "events":
            body["stream_options"] = {"position_events": True}
        if way == "hurry":
            body["timeout_ms"] = dice.choice([1, 20, 200])
        headers = {"x-request-id": f"storm-{i}", "x-tenant": dice.choice(["gold", "free", "t3"])}
        if way in ("cancel", "move"):
            def interfere():
                more = {"method": "DELETE"} if way == "cancel" else {"method": "PATCH", "json": {"priority": i % 4}}
                r = requests.request(url=f"{s.url}/v1/queue/storm-{i}", headers={"x-tenant": headers["x-tenant"]}, timeout=LIMIT_S, **more)
                assert r.status_code in (200, 404), r.text
            threading.Thread(target=interfere).start()
        with requests.post(s.url + PATH, json=body, headers=headers, stream=True, timeout=LIMIT_S) as r:
            if way == "leave":
                for _, _ in zip(range(dice.randrange(8)), r.iter_lines()):
                    pass
                return "left"
            if r.status_code != 200:
                self.assertIn(error_of(r)["code"], self.REASONS.get(r.status_code, ()), r.text)
                return r.status_code
            if body["stream"]:
                lines = [x for x in r.iter_lines() if x.startswith(b"data: ")]
                self.assertEqual(lines[-1], b"data: [DONE]")
                data = [json.loads(x[6:]) for x in lines[:-1]]
                if "error" in data[-1]:
                    self.assertIn(data[-1]["error"]["code"], set().union(*self.REASONS.values()))
                    return "error event"
                choices = [c for d in data for c in d["choices"]]
                text, end = "".join(c["text"] for c in choices), choices[-1]
            else:
                end = r.json()["choices"][0]
                text = end["text"]
            if "autoglm" in end:
                self.assertEqual((end["autoglm"], way), ({"stopped_by": "timeout"}, "hurry"))
                self.assertTrue(alone[k].startswith(text))
                return "cut"
            self.assertEqual(text, alone[k])
            return 200

    def test_everything_at_once(self):
        with Server("--ctx", "1536", "--max-running", "6", "--queue-max", "12", "--loops", "2", "--tenant-weights", "gold=3,free=0.5") as s:
            alone = [s.complete(p, max_tokens=40, temperature=1, seed=k, ignore_eos=True)["choices"][0]["text"]
                     for k, p in enumerate(self.PROMPTS)]
            wait_for("all to be quiet", s.idle)
            got, wrong, numbers, lock = collections.Counter(), [], iter(range(400)), threading.Lock()

            def worker(n):
                dice = random.Random(n)
                while True:
                    with lock:
                        i = next(numbers, None)
                    if i is None:
                        return
                    try:
                        what = self.ask(s, dice, i, alone)
                    except Exception as e:  # a thread's failure is the test's
                        what = "wrong"
                        wrong.append(f"request {i} of worker {n}: {e!r}")
                    with lock:
                        got[what] += 1
            threads = [threading.Thread(target=worker, args=(n,)) for n in range(24)]
            for t in threads:
                t.start()
            for t in threads:
                t.join(LIMIT_S)
            self.assertEqual(wrong, [])
            self.assertEqual(sum(got.values()), 400)
            self.assertGreater(got[200], 0, got)
            wait_for("all to be quiet", s.idle)
            wait_for("every page to be given back", lambda: s.metric("autoglm_kv_pages_used") == 0)
            self.assertEqual(s.metric("autoglm_kv_pages_free") + s.metric("autoglm_kv_pages_kept"), s.metric("autoglm_kv_pages"))
            self.assertEqual(s.metric("autoglm_queue_bytes") + s.metric("autoglm_queue_tokens"), 0)
            wait_for("only who asks to be connected", lambda: s.metric("autoglm_connections_open") == 1)
            for k, p in enumerate(self.PROMPTS):
                self.assertEqual(s.complete(p, max_tokens=40, temperature=1, seed=k, ignore_eos=True)["choices"][0]["text"], alone[k])


class Prefixes(unittest.TestCase):
    PROMPT = "Once upon a time there was a little dog. " * 12

    def cached(self, s, tenant, prompt=PROMPT):
        r = requests.post(s.url + PATH, json={**SHORT, "prompt": prompt}, headers={"x-tenant": tenant}, timeout=LIMIT_S)
        self.assertEqual(r.status_code, 200, r.text)
        usage = r.json()["usage"]
        self.assertLess(usage["prompt_tokens_details"]["cached_tokens"], usage["prompt_tokens"])
        return usage["prompt_tokens_details"]["cached_tokens"], r.json()["choices"][0]["text"]

    def test_a_tenant_finds_its_own_and_nobody_elses(self):
        with server() as s:
            first, text = self.cached(s, "gold")
            again, same = self.cached(s, "gold")
            other, third = self.cached(s, "free")
            self.assertEqual((first, other), (0, 0))
            self.assertGreaterEqual(again, 64)
            self.assertEqual({text, same, third}, {text})

    def test_unless_they_share(self):
        with server("--share-prefixes") as s:
            first, text = self.cached(s, "gold")
            other, same = self.cached(s, "free")
            self.assertEqual((first, text), (0, same))
            self.assertGreaterEqual(other, 64)


if __name__ == "__main__":
    unittest.main()
