"""The response cache on the real server: the same answer however it is asked for, and never another one."""
import concurrent.futures
import time
import unittest

import grpc
import requests
from grpc_protos import pb, stubs

from server import LIMIT_S, PLAIN, Keyed, Server, events, long_model, text_of, tiny_model, wait_for

PATH = "/v1/completions"
ON = ("--cache-bytes", "16MiB")


def asking(prompt="Once upon a time", **more):
    return {"prompt": prompt, "temperature": 0, "max_tokens": 24, **more}


def chat(**more):
    return {"messages": [{"role": "user", "content": "Tell me of the sea"}], "temperature": 0, "max_tokens": 12, **more}


def how(r):
    assert r.status_code == 200, r.text
    return r.headers.get("x-cache")


def shown(r):
    """An answer without what is new each time."""
    return {k: v for k, v in r.json().items() if k not in ("id", "created")}


def used(s, headers, made):
    """Requests, tokens of prompts and tokens of answers of a key: of all days, since it may be midnight."""
    rows = s.get("/admin/v1/usage?key=" + made["id"], headers=headers).json()["data"]
    return tuple(sum(row[name] for row in rows) for name in ("requests", "prompt_tokens", "output_tokens"))


class Same(unittest.TestCase):
    def test_live_hit_streamed_and_in_other_words(self):
        with Server(*ON) as s:
            variants = ({}, {"logprobs": 3}, {"echo": True, "logprobs": 1}, {"n": 2, "seed": 7, "temperature": 1},
                        {"stop": ["Lily"]}, {"max_tokens": 3}, {"logit_bias": {"300": 2, "301": -1}}, {"prompt": ["Once", "The sun"]},
                        {"response_format": {"type": "json_object"}})
            for fields in variants:
                body = asking(**fields)
                live = s.post(PATH, {**body, "cache": {"mode": "off"}})
                self.assertIsNone(how(live))
                one, two = s.post(PATH, body), s.post(PATH, body)
                self.assertEqual((how(one), how(two)), ("miss", "hit"))
                for other in (one, two):
                    a, b = shown(live), shown(other)
                    a["usage"].pop("prompt_tokens_details", None), b["usage"].pop("prompt_tokens_details", None)
                    self.assertEqual(a, b)
                self.assertEqual(shown(one)["usage"], shown(two)["usage"])
                self.assertGreaterEqual(int(two.headers["age"]), 0)
                self.assertEqual(one.headers["x-cache-key"], two.headers["x-cache-key"])
                streamed = s.post(PATH, {**body, "stream": True})
                self.assertEqual(how(streamed), "hit")
                self.assertEqual(text_of(events(streamed.iter_lines()))[0], live.json()["choices"][0]["text"])
            self.assertEqual(s.metric("autoglm_cache_requests_total", outcome="hit"), 2 * len(variants))
            self.assertTrue(s.idle())

    def test_a_stream_becomes_a_whole_answer_and_another_dialects(self):
        with Server(*ON) as s:
            streamed = s.post("/v1/chat/completions", chat(stream=True))
            self.assertEqual(how(streamed), "miss")
            said = "".join(e["choices"][0]["delta"].get("content") or "" for e in events(streamed.iter_lines()))
            whole = s.post("/v1/chat/completions", chat())
            self.assertEqual((how(whole), whole.json()["choices"][0]["message"]["content"]), ("hit", said))
            message = s.post("/v1/messages", chat())
            self.assertEqual((how(message), message.json()["content"][0]["text"]), ("hit", said))
            response = s.post("/v1/responses", {"input": "Tell me of the sea", "temperature": 0, "max_output_tokens": 12})
            self.assertEqual((how(response), response.json()["output"][-1]["content"][0]["text"]), ("hit", said))
            again = s.get("/v1/responses/" + response.json()["id"])
            self.assertEqual(again.json()["output"], response.json()["output"])
            self.assertEqual(s.metric("autoglm_cache_requests_total", outcome="miss"), 1)

    def test_embeddings(self):
        with Server(*ON) as s:
            one, two = (s.post("/v1/embeddings", {"input": ["a girl", "the sea"]}) for _ in range(2))
            self.assertEqual((how(one), how(two), one.json()), ("miss", "hit", two.json()))

    def test_callers_and_headers_decide(self):
        with Server(*ON) as s:
            self.assertIsNone(how(s.post(PATH, asking(temperature=1))))
            use = asking(temperature=1, cache={"mode": "use"})
            one, two = s.post(PATH, use), s.post(PATH, use)
            self.assertEqual((how(one), how(two), one.json()["choices"]), ("miss", "hit", two.json()["choices"]))
            refreshed = s.post(PATH, {**use, "cache": {"mode": "refresh"}})
            self.assertEqual(how(refreshed), "miss")
            self.assertEqual(s.post(PATH, use).json()["choices"], refreshed.json()["choices"])
            self.assertEqual(how(s.post(PATH, use, headers={"Cache-Control": "no-cache"})), "hit")  # the body's word counts
            self.assertEqual(how(s.post(PATH, asking(), headers={"Cache-Control": "no-cache"})), "miss")
            self.assertIsNone(how(s.post(PATH, asking(), headers={"Cache-Control": "no-store"})))
            self.assertEqual(how(s.post(PATH, asking())), "hit")

    def test_grpc_and_kserve(self):
        with Server(*ON) as s, grpc.insecure_channel(f"127.0.0.1:{s.port}") as channel:
            stub = stubs.InferenceStub(channel)
            ask = pb.GenerateRequest(prompt=["Once upon a time"], max_tokens=24, temperature=0)
            answer, call = stub.Generate.with_call(ask, timeout=LIMIT_S)
            self.assertEqual(dict(call.initial_metadata())["x-cache"], "miss")
            http = s.post(PATH, asking())
            self.assertEqual((how(http), http.json()["choices"][0]["text"]), ("hit", answer.choices[0].text))
            stream = stub.GenerateStream(ask, timeout=LIMIT_S)
            self.assertEqual("".join(m.choices[0].text for m in stream if m.choices), answer.choices[0].text)
            told = dict(stream.initial_metadata())
            self.assertEqual((told["x-cache"], told["x-cache-key"]), ("hit", http.headers["x-cache-key"]))
            ask.cache.mode = "off"
            self.assertNotIn("x-cache", dict(stub.Generate.with_call(ask, timeout=LIMIT_S)[1].initial_metadata()))
            model = s.get("/v1/models").json()["data"][0]["id"]
            text = {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["Once upon a time"]}
            infer = s.post(f"/v2/models/{model}/infer", {"inputs": [text], "parameters": {"max_tokens": 24, "temperature": 0}})
            self.assertEqual((how(infer), infer.json()["outputs"][0]["data"][0]), ("hit", answer.choices[0].text))

    def test_it_is_bounded(self):
        with Server("--cache-bytes", "256KiB") as s:
            for i in range(60):
                body = asking(f"Once upon a time {i}", max_tokens=60, logprobs=20, logit_bias=PLAIN)
                self.assertEqual(how(s.post(PATH, body)), "miss")
            stats = s.get("/admin/v1/cache").json()
            self.assertLessEqual(stats["bytes"], stats["bytes_max"])
            self.assertGreater(stats["evicted"] + stats["refused"], 0)


class Apart(unittest.TestCase):
    def test_tenants(self):
        with Server(*ON) as s:
            answers = [s.post(PATH, asking(), headers={"x-tenant": name}) for name in ("a", "b", "a")]
            self.assertEqual([how(r) for r in answers], ["miss", "miss", "hit"])
            self.assertEqual(len({r.headers["x-cache-key"] for r in answers}), 2)

    def test_keys_that_share(self):
        """What one of a group has had computed the others are told, whosever they are; nobody else is."""
        with Keyed(*ON) as k:
            keys = [k.key("--tenant", tenant, *share)["key"] for tenant, share in
                    (("a", ("--share", "us")), ("b", ("--share", "us")), ("b", ()), ("c", ("--share", "them")))]
            answers = [k.s.post(PATH, asking(), headers={"Authorization": f"Bearer {key}"}) for key in keys]
            self.assertEqual([how(r) for r in answers], ["miss", "hit", "miss", "miss"])

    def test_what_a_key_says_of_caching(self):
        """It goes for what its requests leave open, and for nothing that they say."""
        with Keyed(*ON) as k:
            use, off = (k.key("--tenant", "t", "--cache", mode)["key"] for mode in ("use", "off"))
            def asked(key, headers={}, **more):
                return how(k.s.post(PATH, asking(**more), headers={"Authorization": f"Bearer {key}", **headers}))
            mode = lambda word: {"cache": {"mode": word}}
            self.assertEqual([asked(use, temperature=1) for _ in range(2)], ["miss", "hit"])
            self.assertEqual([asked(use, temperature=1, **mode(word)) for word in ("off", "refresh")], [None, "miss"])
            self.assertIsNone(asked(use, {"Cache-Control": "no-store"}, temperature=1))
            self.assertEqual([asked(off) for _ in range(2)], [None, None])
            self.assertEqual([asked(off, **mode("use")) for _ in range(2)], ["miss", "hit"])
            self.assertEqual(asked(off, temperature=1, **mode("use")), "hit")  # it was the other key's

    def test_models(self):
        """Of servers with one secret, those of another model, or of another cache's numbers, have other keys."""
        keys = []
        for model, more in ((tiny_model(), ()), (long_model(), ()), (tiny_model(), ("--kv", "f32")), (tiny_model(), ())):
            with Server(*ON, *more, model=model, env={"AUTOGLM_CACHE_SECRET": "of ours"}) as s:
                keys.append(s.post(PATH, asking()).headers["x-cache-key"])
        self.assertEqual(len(set(keys)), 3)
        self.assertEqual(keys[0], keys[3])

    def test_hits_count_as_requests_and_not_as_tokens(self):
        with Keyed(*ON) as k:
            made = k.key("--tenant", "t", "--limit-tokens-per-minute", "1000", "--limit-requests-per-minute", "60")
            key, admin = made["key"], k.key("--tenant", "ops", "--roles", "inference,admin")["key"]
            ask = lambda: k.s.post(PATH, asking(), headers={"Authorization": f"Bearer {key}"})
            left = lambda r: (int(r.headers["x-ratelimit-remaining-requests"]), int(r.headers["x-ratelimit-remaining-tokens"]))
            first, second = ask(), ask()
            self.assertEqual((how(first), how(second)), ("miss", "hit"))
            third = ask()
            self.assertLess(left(third)[0], left(first)[0])
            self.assertGreaterEqual(left(third)[1], left(second)[1])
            of_admin = {"Authorization": f"Bearer {admin}"}
            wait_for("usage", lambda: used(k.s, of_admin, made)[0] == 3)
            self.assertEqual(used(k.s, of_admin, made), (3, 5, 24))

    def test_who_has_a_stale_answer_renewed_pays_for_it(self):
        with Keyed(*ON, "--cache-ttl", "1s", "--cache-ttl-jitter", "0", "--cache-stale", "1h") as k:
            made = k.key("--tenant", "t", "--limit-tokens-per-minute", "1000")
            of_admin = {"Authorization": f"Bearer {k.key('--tenant', 'ops', '--roles', 'inference,admin')['key']}"}
            ask = lambda: how(k.s.post(PATH, asking(), headers={"Authorization": f"Bearer {made['key']}"}))
            told = [ask()]
            while told[-1] != "stale":
                told.append(ask())
            self.assertEqual(told, ["miss", *["hit"] * (len(told) - 2), "stale"])
            wait_for("usage", lambda: used(k.s, of_admin, made)[0] == len(told) and used(k.s, of_admin, made)[2] >= 48)
            self.assertEqual(used(k.s, of_admin, made), (len(told), 10, 48))

    def test_who_follows_pays_for_the_prompt_when_the_first_has_left(self):
        with Keyed(*ON, "--max-running", "1", model=long_model()) as k:
            made, other = (k.key("--tenant", t, "--limit-tokens-per-minute", "100000") for t in ("t", "other"))
            of_admin = {"Authorization": f"Bearer {k.key('--tenant', 'ops', '--roles', 'inference,admin')['key']}"}

            def ask(key, **more):
                return requests.post(k.s.url + PATH, json=asking(**more), headers={"Authorization": f"Bearer {key['key']}"},
                                     stream=True, timeout=LIMIT_S)
            busy = ask(other, max_tokens=100000, logit_bias=PLAIN, stream=True)
            chunks = busy.iter_content(1)
            next(chunks)
            waits = {"stream": True, "stream_options": {"position_events": True}}  # so that its head comes at once
            first = ask(made, **waits)
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                second = pool.submit(ask, made)
                wait_for("the other to follow", lambda: k.s.metric("autoglm_cache_requests_total", outcome="coalesced") == 1)
                first.close()
                wait_for("the first to leave", lambda: k.s.metric("autoglm_connections", state="streaming") == 1)
                busy.close()
                self.assertEqual(how(second.result(LIMIT_S)), "coalesced")
            wait_for("usage", lambda: used(k.s, of_admin, made)[2] >= 24)
            self.assertEqual(used(k.s, of_admin, made)[1:], (5, 24))


class Together(unittest.TestCase):
    def test_a_hundred_at_once(self):
        with Server(*ON, "--loops", "2", model="null:rate=25") as s:
            body = asking("Hello", max_tokens=100)
            with concurrent.futures.ThreadPoolExecutor(100) as pool:
                post = lambda i: requests.post(s.url + PATH, json={**body, "stream": i % 2 == 1}, timeout=LIMIT_S)
                found = list(pool.map(post, range(100)))
            texts = {text_of(events(r.text.encode().splitlines()))[0] if i % 2 else r.json()["choices"][0]["text"]
                     for i, r in enumerate(found)}
            self.assertEqual(len(texts), 1)
            self.assertEqual(sorted({how(r) for r in found} - {"hit"}), ["coalesced", "miss"])
            self.assertEqual(s.metric("autoglm_output_tokens_total"), 100)
            wait_for("idle", s.idle)

    def test_readers_come_and_go(self):
        """The first leaves, one is in a hurry, the last reads on; then all leave, and it ends."""
        with Server(*ON, model="null:rate=10") as s:
            body = asking("Hello", max_tokens=60, stream=True)
            first = requests.post(s.url + PATH, json=body, stream=True, timeout=LIMIT_S)
            lines = first.iter_lines()
            next(lines)
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                stays = pool.submit(lambda: requests.post(s.url + PATH, json=body, timeout=LIMIT_S))
                wait_for("it to follow", lambda: s.metric("autoglm_cache_requests_total", outcome="coalesced") == 1)
                hasty = requests.post(s.url + PATH, json={**body, "stream": False, "timeout_ms": 2000}, timeout=LIMIT_S)
                first.close()
                whole = stays.result()
            self.assertEqual((how(whole), how(hasty)), ("coalesced", "coalesced"))
            cut = hasty.json()["choices"][0]["text"]
            text = text_of(events(whole.text.encode().splitlines()))[0]
            self.assertTrue(0 < len(cut) < 60 and text.startswith(cut), (cut, text))
            self.assertEqual(len(text), 60)
            self.assertEqual(s.post(PATH, body).headers["x-cache"], "hit")
            made = s.metric("autoglm_output_tokens_total")
            endless = asking("Other", max_tokens=1000, stream=True)
            readers = [requests.post(s.url + PATH, json=endless, stream=True, timeout=LIMIT_S) for _ in range(3)]
            for r in readers:
                next(r.iter_lines())
                r.close()
            wait_for("the end of what nobody reads", s.idle)
            self.assertLess(s.metric("autoglm_output_tokens_total") - made, 1000)

    def test_streams_may_be_told_at_a_pace(self):
        with Server(*ON, "--cache-pace", "100", model="null") as s:
            body = asking("Hello", max_tokens=31, stream=True)
            self.assertEqual(how(s.post(PATH, body)), "miss")
            began = time.monotonic()
            r = s.post(PATH, body)
            self.assertGreaterEqual(time.monotonic() - began, 0.3)
            self.assertEqual((how(r), len(text_of(events(r.text.encode().splitlines()))[0])), ("hit", 31))
            began = time.monotonic()
            self.assertEqual(how(s.post(PATH, {**body, "stream": False})), "hit")


class Age(unittest.TestCase):
    def test_stale_ones_are_told_and_renewed(self):
        with Server(*ON, "--cache-ttl", "1s", "--cache-ttl-jitter", "0", "--cache-stale", "1h") as s:
            first = s.post(PATH, asking())
            computed = lambda: s.metric("autoglm_output_tokens_total")
            made = computed()
            self.assertEqual(how(first), "miss")
            stale = wait_for("a stale one", lambda: (r := s.post(PATH, asking())) and how(r) == "stale" and r)
            self.assertEqual(shown(stale)["choices"], shown(first)["choices"])
            wait_for("its renewal", lambda: computed() >= 2 * made and s.idle())
            self.assertEqual(how(s.post(PATH, asking(cache={"ttl_s": 100, "mode": "refresh"}))), "miss")
            self.assertEqual(how(s.post(PATH, asking())), "hit")

    def test_none_is_told_when_it_is_too_old(self):
        with Server(*ON, "--cache-stale", "0") as s:
            body = asking(cache={"ttl_s": 1})
            self.assertEqual(how(s.post(PATH, body)), "miss")
            wait_for("its end", lambda: how(s.post(PATH, body)) == "miss")


class Admin(unittest.TestCase):
    def test_forgetting(self):
        with Keyed(*ON) as k:
            user, admin = k.key("--tenant", "t")["key"], k.key("--tenant", "ops", "--roles", "inference,admin")["key"]
            bearer = lambda key: {"Authorization": f"Bearer {key}"}
            ask = lambda **more: k.s.post(PATH, asking(**more), headers=bearer(user))
            r = ask(cache={"tags": ["tales"]})
            path = "/admin/v1/cache/" + r.headers["x-cache-key"]
            self.assertEqual(k.s.get(path, headers=bearer(user)).status_code, 403)
            entry = k.s.get(path, headers=bearer(admin)).json()
            self.assertTrue(0 < entry["fresh_s"] <= 3600 and entry["bytes"] > 0, entry)
            delete = lambda path: k.s.session.delete(k.s.url + path, headers=bearer(admin), timeout=LIMIT_S)
            forget = lambda query: delete("/admin/v1/cache" + query).json()
            for query in ("?tenant=t", "?tag=tales", "?model=" + r.json()["model"], "?all=1", "/" + r.headers["x-cache-key"]):
                self.assertEqual(how(ask(cache={"tags": ["tales"]})), "hit")
                self.assertEqual(forget(query)["purged"], 1)
                self.assertEqual(how(ask(cache={"tags": ["tales"]})), "miss")
            self.assertEqual(forget("?tenant=other")["purged"], 0)
            self.assertEqual(k.s.get("/admin/v1/cache", headers=bearer(admin)).json()["purged"], 5)


if __name__ == "__main__":
    unittest.main()
