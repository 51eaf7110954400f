"""autoglm bench http against a server that streams set answers, refuses, stalls, breaks off and talks nonsense."""
import collections
import http.server
import json
import os
import pathlib
import random
import select
import signal
import subprocess
import tempfile
import threading
import unittest
import xml.dom.minidom

BIN = os.environ["AUTOGLM_TEST_BIN"]
LIMIT_S = 120


class Server:
    """Each test gives it a function that answers a request; it keeps what was asked."""

    def __init__(self, answer):
        outer = self
        self.asked, self.changed, self.paused = [], threading.Condition(), threading.Event()
        self.at_once = self.most_at_once = 0

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with outer.changed:
                    outer.asked.append((self.path, dict(self.headers), json.loads(body)))
                    number = len(outer.asked)
                    outer.at_once += 1
                    outer.most_at_once = max(outer.most_at_once, outer.at_once)
                    outer.changed.notify_all()
                try:
                    answer(self, outer.asked[number - 1][2], number)
                finally:
                    with outer.changed:
                        outer.at_once -= 1

            def log_message(self, *args):
                pass

        class Http(http.server.ThreadingHTTPServer):
            request_queue_size = 256

        self.http = Http(("127.0.0.1", 0), Handler)
        self.http.handle_error = lambda *args: None
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def wait_asked(self, count):
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.asked) >= count, LIMIT_S), "the requests did not come"

    def close(self):
        self.paused.set()  # lets stalled answers go
        self.http.shutdown()
        self.http.server_close()


def head(h, status=200, kind="text/event-stream; charset=utf-8", length=None):
    h.send_response(status)
    h.send_header("Content-Type", kind)
    if length is None:
        h.send_header("Transfer-Encoding", "chunked")
    else:
        h.send_header("Content-Length", str(length))
    h.end_headers()


def piece(h, data):
    h.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
    h.wfile.flush()


def event(text=None, usage=None, chat=False, end="\n"):
    choice = {"index": 0, "delta": {"content": text}} if chat else {"index": 0, "text": text}
    body = {"choices": [] if text is None else [choice], "usage": usage}
    return f"data: {json.dumps(body)}{end}{end}".encode()


def usage(body, prompt=7):
    return {"prompt_tokens": prompt, "completion_tokens": body["max_tokens"]}


def stream(h, body, _number=0, pieces=None):
    """As many events with text as tokens were asked for, then the usage."""
    head(h)
    chat = "messages" in body
    for _ in range(body["max_tokens"]):
        piece(h, event("word ", chat=chat))
    piece(h, event(usage=usage(body)))
    piece(h, b"data: [DONE]\n\n")
    piece(h, b"")


def refuse(h, status, message="no"):
    body = json.dumps({"error": {"message": message}}).encode()
    head(h, status, "application/json", len(body))
    h.wfile.write(body)


def raw(*parts, kind="text/event-stream"):
    """Answers with these bytes, one chunk each, and an orderly end."""
    def answer(h, body, number):
        head(h, kind=kind)
        for part in parts:
            piece(h, part)
        piece(h, b"")
    return answer


class BenchHttp(unittest.TestCase):
    def serve(self, answer):
        s = Server(answer)
        self.addCleanup(s.close)
        return s

    def run_it(self, *args, want=0):
        done = subprocess.run([BIN, "bench", "http", *map(str, args)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=LIMIT_S, env={k: v for k, v in os.environ.items() if k != "AUTOGLM_API_KEY"})
        self.assertEqual(done.returncode, want, (args, done.stdout, done.stderr))
        return done

    def measure(self, answer, *args, want=0):
        s = self.serve(answer)
        done = self.run_it(s.url, "--json", *args, want=want)
        return json.loads(done.stdout), s, done.stderr

    def test_counts_are_exact(self):
        got, s, said = self.measure(stream, "-n", 12, "-c", 3, "--max-tokens", 5)
        self.assertEqual(said, "")
        self.assertEqual(got["requests"], {"started": 12, "ok": 12, "failed": 0, "unfinished": 0})
        self.assertEqual((got["prompt_tokens"], got["output_tokens"]), (12 * 7, 12 * 5))
        self.assertEqual([got[k]["count"] for k in ("ttft_ms", "gap_ms", "per_token_ms", "latency_ms")], [12, 12 * 4, 12, 12])
        self.assertEqual((got["failures"], got["last_error"], got["tenants"], got["interrupted"]), ({}, None, [], False))
        self.assertLessEqual(s.most_at_once, 3)
        for kind in ("ttft_ms", "gap_ms", "latency_ms"):
            row = got[kind]
            self.assertTrue(0 <= row["p50"] <= row["p90"] <= row["p99"] <= row["max"] * 1.0001, row)
        self.assertAlmostEqual(got["output_tokens_per_s"], 60 / got["elapsed_s"], delta=0.01 * got["output_tokens_per_s"])

    def test_times_are_those_of_the_server(self):
        pause = 0.15

        def slow(h, body, number):
            head(h)
            for _ in range(body["max_tokens"]):
                threading.Event().wait(pause)  # the server's, so no client can see less of it
                piece(h, event("x"))
            piece(h, b"data: [DONE]\n\n")
            piece(h, b"")
        got, _, _ = self.measure(slow, "-n", 1, "--max-tokens", 3)
        first, gap = got["ttft_ms"], got["gap_ms"]
        self.assertGreaterEqual(first["max"], pause * 1000)
        self.assertGreaterEqual(first["max"] + gap["mean"] * gap["count"], 3 * pause * 1000)
        self.assertGreater(gap["max"], 0)
        self.assertAlmostEqual(got["per_token_ms"]["mean"], gap["mean"], delta=0.01)
        self.assertGreaterEqual(got["latency_ms"]["max"], 3 * pause * 1000)
        self.assertEqual(got["answers_without_usage"], 1)
        self.assertEqual(got["output_tokens"], 3)  # events counted

    def test_histograms_of_several_runs_can_be_added_up(self):
        got, _, _ = self.measure(stream, "-n", 3, "--max-tokens", 4, "--buckets")
        for kind, count in (("ttft_ms", 3), ("gap_ms", 9), ("latency_ms", 3)):
            self.assertEqual(count, sum(n for _, n in got[kind]["buckets_us"]))
            self.assertAlmostEqual(got[kind]["max"], got[kind]["buckets_us"][-1][0] / 1e3, delta=got[kind]["max"] / 128 + 0.001)
        self.assertNotIn("buckets_us", self.measure(stream, "-n", 1, "--max-tokens", 1)[0]["ttft_ms"])

    def test_quantiles(self):
        """Of ten answers four come at once; the middle one and all after it have waited."""
        def some_slow(h, body, number):
            if number > 4:
                threading.Event().wait(0.3)
            stream(h, body)
        got, _, _ = self.measure(some_slow, "-n", 10, "-c", 10, "--max-tokens", 1)
        self.assertGreaterEqual(got["ttft_ms"]["p50"], 300 * 255 / 256)
        self.assertGreaterEqual(got["ttft_ms"]["mean"], 0.6 * 300)

    def test_a_client_that_failed_pauses(self):
        """50 ms each time, whatever the machine: so few fit into a second."""
        got, _, _ = self.measure(lambda h, b, n: refuse(h, 503), "--duration", "1s", want=1)
        self.assertLessEqual(got["requests"]["started"], 21)

    def test_what_is_asked(self):
        _, s, _ = self.measure(stream, "-n", 8, "-p", 30, "--shared-prefix", 10, "--max-tokens", "2-4", "--model", 'm"x', "--key", "k-1",
                               "--temperature", "0.5", "--extra", '{"top_p": 0.9, "user": "é"}')
        prompts = set()
        for path, headers, body in s.asked:
            self.assertEqual(path, "/v1/completions")
            self.assertEqual(headers["Authorization"], "Bearer k-1")
            self.assertEqual(headers["Content-Type"], "application/json")
            self.assertNotIn("x-tenant", headers)
            self.assertEqual({k: body[k] for k in ("model", "temperature", "stream", "stream_options", "ignore_eos", "top_p", "user")},
                             {"model": 'm"x', "temperature": 0.5, "stream": True, "stream_options": {"include_usage": True},
                              "ignore_eos": True, "top_p": 0.9, "user": "é"})
            self.assertIn(body["max_tokens"], (2, 3, 4))
            self.assertEqual(body["min_tokens"], body["max_tokens"])
            self.assertEqual(len(body["prompt"].split(" ")), 30)
            prompts.add(body["prompt"])
        self.assertEqual(len(prompts), 8)
        self.assertEqual(len({tuple(p.split(" ")[:10]) for p in prompts}), 1)
        self.assertGreater(len({b["max_tokens"] for _, _, b in s.asked}), 1)

    def test_the_seed_makes_the_requests(self):
        def bodies(seed):
            _, s, _ = self.measure(stream, "-n", 6, "-c", 2, "--seed", seed, "--max-tokens", "1-50")
            return sorted(json.dumps(b) for _, _, b in s.asked)
        self.assertEqual(bodies(5), bodies(5))
        self.assertNotEqual(bodies(5), bodies(6))

    def test_a_run_goes_on_where_another_ended(self):
        def bodies(*args):
            _, s, _ = self.measure(stream, "-c", 2, "--max-tokens", "1-50", "--pool", 50, *args)
            return [json.dumps(b) for _, _, b in s.asked]
        self.assertEqual(sorted(bodies("-n", 9)), sorted(bodies("-n", 4) + bodies("-n", 5, "--first", 4)))

    def test_chat(self):
        got, s, _ = self.measure(stream, "-n", 3, "--chat", "--max-tokens", 4, "--ignore-eos", "off")
        self.assertEqual((got["requests"]["ok"], got["gap_ms"]["count"]), (3, 9))
        path, _, body = s.asked[0]
        self.assertEqual(path, "/v1/chat/completions")
        self.assertEqual([m["role"] for m in body["messages"]], ["user"])
        self.assertEqual(len(body["messages"][0]["content"].split(" ")), 64)
        self.assertNotIn("ignore_eos", body)

    def test_a_pool_of_requests_by_popularity(self):
        """Each of the pool is the same request whenever it is asked; how often, Zipf's law says: 1, 1/2, 1/3 ... of the first."""
        load = ("-n", 600, "-c", 8, "-p", 12, "--shared-prefix", 4, "--prefixes", 3, "--max-tokens", "1-9", "--chat", "--pool", 20)
        for zipf, expected in ((1, [1 / k for k in range(1, 21)]), (0, [1] * 20), (2, [1 / k ** 2 for k in range(1, 21)])):
            _, s, _ = self.measure(stream, *load, "--zipf", zipf)
            counts = collections.Counter(json.dumps(b) for _, _, b in s.asked)
            self.assertLessEqual(len(counts), 20)
            self.assertEqual(len(counts), len({json.dumps(json.loads(b)["messages"]) for b in counts}), "one length for each")
            self.assertEqual({len(json.loads(b)["messages"]) for b in counts}, {2})
            self.assertEqual(len({json.loads(b)["messages"][0]["content"] for b in counts}), 3)
            for seen, share in zip([n for _, n in counts.most_common()], expected):
                want = 600 * share / sum(expected)
                self.assertLess(abs(seen - want), 6 * want ** 0.5 + 4, (zipf, seen, want))

    def test_addresses(self):
        s = self.serve(stream)
        for tail in ("", "/", "/v1", "/v1/", "/some/v1", "/some"):
            self.run_it(s.url + tail, "-n", 1, "--max-tokens", 1)
        self.assertEqual([path for path, _, _ in s.asked], ["/v1/completions"] * 4 + ["/some/v1/completions"] * 2)

    def test_tenants(self):
        got, s, _ = self.measure(stream, "-n", 60, "-c", 4, "--max-tokens", 2, "--tenants", "big:8,small")
        sent = [h["x-tenant"] for _, h, _ in s.asked]
        for t in got["tenants"]:
            self.assertEqual(t["requests"]["ok"], sent.count(t["name"]))
            self.assertEqual(t["output_tokens"], 2 * sent.count(t["name"]))
            self.assertEqual(t["ttft_ms"]["count"], sent.count(t["name"]))
        self.assertEqual([t["name"] for t in got["tenants"]], ["big", "small"])
        self.assertGreater(sent.count("big"), sent.count("small"))
        self.assertGreater(sent.count("small"), 0)
        self.assertEqual(len(sent), 60)

    def test_classes(self):
        """Each is a load of its own: what its requests say, how many they are, and its own report."""
        def answer(h, body, number):
            if body.get("timeout_ms") != 1500:
                return stream(h, body)
            head(h)
            cut = {"index": 0, "text": "word", "finish_reason": "length", "autoglm": {"stopped_by": "timeout"}}
            piece(h, f"event: queue\ndata: {json.dumps({'choices': [], 'queue': {'position': 1}})}\n\n".encode())
            piece(h, f"data: {json.dumps({'choices': [cut], 'usage': {'prompt_tokens': 7, 'completion_tokens': 1}})}\n\n"
                     "data: [DONE]\n\n".encode())
            piece(h, b"")

        got, s, _ = self.measure(
            answer, "--extra", '{"top_k": 3}', "-p", 5, "--max-tokens", 2, "--classes",
            "urgent:band=0:rate=200:requests=9:tenant=gold,batch:band=3:clients=4:requests=12:prompt=8:max-tokens=3,"
            "late:timeout=1.5s:requests=2:start=20ms:shared=5")
        c = got["classes"]
        self.assertEqual(list(c), ["urgent", "batch", "late"])
        self.assertEqual([c[n]["requests"]["ok"] for n in c], [9, 12, 2])
        self.assertEqual([c[n]["cut"] for n in c], [{"requests": k, "tokens": k} for k in (0, 0, 2)])
        self.assertEqual([c[n]["output_tokens"] for n in c], [18, 36, 2])
        self.assertEqual([c[n]["gap_ms"]["count"] for n in c], [9, 24, 0])
        self.assertEqual([t["name"] for t in c["urgent"]["tenants"]], ["gold"])
        sent = {}
        for _, headers, body in s.asked:
            key = (body.get("priority"), body.get("timeout_ms"), headers.get("x-tenant"), body["max_tokens"], body["top_k"])
            sent.setdefault(key, []).append(body["prompt"])
        self.assertEqual({k: len(v) for k, v in sent.items()},
                         {(0, None, "gold", 2, 3): 9, (3, None, None, 3, 3): 12, (None, 1500, None, 2, 3): 2})
        prompts = sent[0, None, "gold", 2, 3] + sent[3, None, None, 3, 3]
        self.assertEqual(len(set(prompts)), 21, "no class has the prompts of another")
        self.assertEqual({len(p.split()) for p in sent[3, None, None, 3, 3]}, {8})
        self.assertEqual(len(set(sent[None, 1500, None, 2, 3])), 1)
        text = self.run_it(s.url, "--max-tokens", 2, "--classes", "a:requests=1,b:timeout=1500ms:requests=1").stdout
        self.assertIn("class a\n", text)
        self.assertIn("\nclass b\n", text)
        self.assertIn("cut           1 of those ok were stopped before their end, after 1 tokens", text)

    def test_requests_as_far_apart(self):
        got, s, _ = self.measure(lambda h, body, number: stream(h, body), "--duration", "2s", "--max-tokens", 2,
                                 "--classes", "even:every=900ms,busy:requests=1")
        self.assertEqual(got["classes"]["even"]["requests"]["started"], 2)
        self.assertAlmostEqual(got["classes"]["even"]["rate"], 1 / 0.9, places=4)
        self.assertEqual(len(s.asked), 3)

    def test_classes_that_make_no_sense(self):
        for bad in ("", ",", "a:band", "a:band=4", "a:band=1.5", "a:colour=red", "a b", "a:band=1,a", "a:clients=0", "a:rate=0",
                    "a:timeout=5", "a:start=-1s", "a:max-tokens=0", "a:tenant=x y", "a:shared=65", "a:requests=x",
                    "a:band=1:band=2", "a:every=0s", "a:every=1", "a:rate=1:every=1s", "a:start=10s", "a:start=4s,b:rate=1:start=11s",
                    "a:clients=20:prompt=1000000,b:clients=20:prompt=1000000",
                    ",".join(f"c{i}" for i in range(17)), "x" * 65, "a:band=1:" + ":" * 5000):
            done = self.run_it("http://127.0.0.1:1", "--classes", bad, want=2)
            self.assertRegex(done.stderr, "--(classes|tenants|shared-prefix)", bad)

    def test_classes_share_the_open_files(self):
        def ask(classes):
            return subprocess.run(["sh", "-c", 'ulimit -n 64 && exec "$0" "$@"', BIN, "bench", "http", "http://127.0.0.1:1", "--classes",
                                   classes], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S)
        done = ask("a:clients=20:requests=1,b:clients=20:requests=1")
        self.assertEqual(done.returncode, 1)
        self.assertIn("40 clients need 72 open files", done.stderr)
        self.assertNotIn("open files", ask("a:clients=20:requests=1").stderr)

    def test_open_loop_does_not_wait_for_answers(self):
        """Every answer is held until all requests are there: a closed loop would never get so far."""
        def hold(h, body, number):
            s.wait_asked(20)
            stream(h, body)
        s = self.serve(hold)
        got = json.loads(self.run_it(s.url, "--json", "--rate", 400, "-n", 20, "--max-tokens", 1, "--ramp", "20ms").stdout)
        self.assertEqual((got["requests"]["ok"], got["waited"], got["rate"]), (20, 0, 400))
        self.assertEqual(s.most_at_once, 20)

    def test_open_loop_counts_from_when_it_was_due(self):
        """One client and an answer that holds it: those that were due meanwhile have waited."""
        def slow(h, body, number):
            threading.Event().wait(0.05)
            stream(h, body)
        got, s, _ = self.measure(slow, "--rate", 1000, "-c", 1, "-n", 5, "--max-tokens", 1)
        self.assertEqual((got["requests"]["ok"], got["waited"], s.most_at_once), (5, 4, 1))
        self.assertGreaterEqual(got["ttft_ms"]["max"], 4 * 50)  # the last stood behind four others

    def test_ramp_spreads_the_starts(self):
        """Answers are held until the last client has come, and the last comes late."""
        def hold(h, body, number):
            s.wait_asked(4)
            stream(h, body)
        s = self.serve(hold)
        got = json.loads(self.run_it(s.url, "--json", "-c", 4, "-n", 4, "--ramp", "400ms", "--max-tokens", 1).stdout)
        self.assertGreaterEqual(got["elapsed_s"], 0.3)
        self.assertEqual(got["requests"]["ok"], 4)

    def test_failures_by_kind(self):
        def broken(h, body, number):
            head(h)
            piece(h, event("a"))
            h.close_connection = True
            h.connection.shutdown(2)

        def large(h, body, number):
            head(h)
            for _ in range(70):
                piece(h, (b": " + b"x" * 1000 + b"\n") * 1024)
        cases = (
            ("503", lambda h, b, n: refuse(h, 503, "full \x1b[31m"), "503: full [31m"),
            ("302", lambda h, b, n: (h.send_response(302), h.send_header("Location", "/elsewhere"), h.send_header("Content-Length", "0"),
                                     h.end_headers()), "302: no stream"),
            ("broken", broken, ""),
            ("broken", raw(event("a")), "without [DONE]"),
            ("error_event", raw(event("a"), b'data: {"error": {"message": "lost it"}}\n\n'), "lost it"),
            ("bad_stream", raw(event("a"), b"data: {nonsense\n\n", b"data: [DONE]\n\n"), "{nonsense"),
            ("bad_stream", raw(b"data: 17\n\n", b"data: [DONE]\n\n"), "17"),
            ("bad_stream", raw(b'{"choices": []}', kind="application/json"), "choices"),
            ("bad_stream", raw(b"data: " + b"x" * 300_000 + b"\n\n"), "over 256 KiB"),
            ("bad_stream", raw(b"data: x\n" * 200_000 + b"\n"), "over 256 KiB"),
            ("too_large", large, "over 64 MiB"),
        )
        for kind, answer, says in cases:
            with self.subTest(kind, says=says):
                got, s, said = self.measure(answer, "-n", 2, "--max-tokens", 3, want=1)
                self.assertEqual(got["failures"], {kind: 2})
                self.assertEqual(got["requests"], {"started": 2, "ok": 0, "failed": 2, "unfinished": 0})
                self.assertIn(says, got["last_error"])
                self.assertIn("no request succeeded", said)
                self.assertTrue(said.rstrip("\n").isprintable())
                self.assertTrue(all(path == "/v1/completions" for path, _, _ in s.asked), "a redirect was followed")

    def test_some_fail_and_some_do_not(self):
        got, _, said = self.measure(lambda h, b, n: stream(h, b) if n % 3 else refuse(h, 429), "-n", 9, "--max-tokens", 2)
        self.assertEqual((got["requests"]["ok"], got["failures"], said), (6, {"429": 3}, ""))

    def test_a_kept_connection_that_the_server_closes_loses_no_request(self):
        """It closes without a word when the next request is on its way; that one comes again on another connection."""
        def close_later(h, body, number):
            stream(h, body)
            select.select([h.connection], [], [], LIMIT_S)
            h.close_connection = True
        got, s, said = self.measure(close_later, "-n", 20, "--max-tokens", 1)
        self.assertEqual((got["requests"]["ok"], got["failures"], said), (20, {}, ""))
        self.assertEqual(len(s.asked), 20)

    def test_no_server(self):
        s = self.serve(stream)
        s.close()
        done = self.run_it(s.url, "--json", "-n", 2, want=1)
        self.assertEqual(json.loads(done.stdout)["failures"], {"connect": 2})
        self.assertIn("no request succeeded", done.stderr)

    def test_timeout(self):
        def stall(h, body, number):
            head(h)
            piece(h, event("a"))
            s.paused.wait(LIMIT_S)
        s = self.serve(stall)
        got = json.loads(self.run_it(s.url, "--json", "-n", 2, "-c", 2, "--timeout", "5s", want=1).stdout)
        self.assertEqual((got["failures"], got["ttft_ms"]["count"], got["output_tokens"]), ({"timeout": 2}, 2, 2))

    def test_duration_cuts_off_what_runs(self):
        def stall(h, body, number):
            if number > 2:
                s.paused.wait(LIMIT_S)
            stream(h, body)
        s = self.serve(stall)
        got = json.loads(self.run_it(s.url, "--json", "-c", 2, "--duration", "6s", "--max-tokens", 3).stdout)
        self.assertEqual(got["requests"], {"started": 4, "ok": 2, "failed": 0, "unfinished": 2})
        self.assertGreaterEqual(got["elapsed_s"], 6)
        got = json.loads(self.run_it(s.url, "--json", "--duration", "0.2s", want=1).stdout)
        self.assertEqual(got["requests"], {"started": 1, "ok": 0, "failed": 0, "unfinished": 1})

    def test_interrupt_reports_so_far(self):
        def stall(h, body, number):
            if number > 3:
                s.paused.wait(LIMIT_S)
            stream(h, body)
        for number in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(number):
                s = self.serve(stall)
                p = subprocess.Popen([BIN, "bench", "http", s.url, "--json", "--duration", "1h", "--max-tokens", "2"],
                                     stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                self.addCleanup(p.kill)
                s.wait_asked(4)
                p.send_signal(number)
                out, said = p.communicate(timeout=LIMIT_S)
                got = json.loads(out)
                self.assertEqual((p.returncode, said, got["interrupted"]), (0, "", True))
                self.assertEqual(got["requests"], {"started": 4, "ok": 3, "failed": 0, "unfinished": 1})

    def test_events_in_any_pieces_and_forms(self):
        body = (b"\xef\xbb\xbf" + event("a", end="\r\n") + b": a comment\r\n\r\nretry: 5\r\nevent: x\r" + event("b", end="\r")
                + b"data: {\"choices\":\r\ndata: [{\"text\": \"c\"}]}\r\n\r\nid: 9\n" + event("") + event("d")
                + event(usage={"prompt_tokens": 3, "completion_tokens": 9}) + b"data: [DONE]\n\nignored\n\ndata: {so is this\n\n")
        rng = random.Random(4)
        for size in (1, 2, 3, 7, 50, len(body)):
            with self.subTest(size):
                parts, at = [], 0
                while at < len(body):
                    n = rng.randint(1, size)
                    parts.append(body[at:at + n])
                    at += n
                got, _, _ = self.measure(raw(*parts), "-n", 1)
                self.assertEqual((got["ttft_ms"]["count"], got["gap_ms"]["count"]), (1, 3))
                self.assertEqual((got["prompt_tokens"], got["output_tokens"], got["requests"]["ok"]), (3, 9, 1))

    def test_nonsense_of_every_kind_is_survived(self):
        rng = random.Random(20)
        shapes = (b"null", b"[]", b'""', b"{}", b'{"choices":7}', b'{"choices":[7,null,{"text":3},{"delta":[]}]}', b'{"usage":[]}',
                  b'{"usage":{"completion_tokens":-1,"prompt_tokens":1e300}}', b'{"usage":{"completion_tokens":99999999999999999}}',
                  b"[" * 5000, b"\xff\xfe", b'{"choices":[{"text":"\\u0000"}]}')

        def noise(h, body, number):
            head(h)
            for _ in range(rng.randint(1, 8)):
                data = rng.choice(shapes) if rng.random() < 0.6 else bytes(rng.choice(b"data: {}[]\"\r\n\x00\xff:,") for _ in range(40))
                piece(h, b"data: " + data + rng.choice((b"\n\n", b"\r\r", b"\r\n\r\n", b"\n")))
            if rng.random() < 0.5:
                piece(h, b"data: [DONE]\n\n")
            piece(h, b"")
        s = self.serve(noise)
        done = subprocess.run([BIN, "bench", "http", s.url, "--json", "-n", "200", "-c", "8"], capture_output=True, text=True, timeout=LIMIT_S)
        self.assertIn(done.returncode, (0, 1), done.stderr)
        got = json.loads(done.stdout)
        self.assertEqual(got["requests"]["ok"] + got["requests"]["failed"], 200)
        self.assertLess(got["output_tokens"], 200 * 10**9)

    def test_text_and_plot(self):
        s = self.serve(lambda h, b, n: stream(h, b) if n != 5 else refuse(h, 500, "oh"))
        with tempfile.TemporaryDirectory(prefix="autoglm-bench-") as folder:
            path = pathlib.Path(folder) / "plot.svg"
            done = self.run_it(s.url, "-n", 10, "--max-tokens", 4, "--tenants", "a,b:2", "--svg", path)
            plot = path.read_text()
            xml.dom.minidom.parseString(plot)
            self.run_it(s.url, "-n", 1, "--svg", pathlib.Path(folder) / "none" / "plot.svg", want=1)
        for words in ("9 ok, 1 failed, 0 unfinished", "first token", "whole answer", "1 with status 500; the last: 500: oh", "tenant a, weight 1",
                      "tenant b, weight 2", "output tokens/s"):
            self.assertIn(words, done.stdout)
        for words in ("prefers-color-scheme:dark", "Time to first token", "Gap between tokens", s.url, ">a<", ">b<"):
            self.assertIn(words, plot)
        self.assertNotIn("href", plot)  # nothing is fetched by who looks at it
        self.assertNotIn("nan", plot)
        self.assertEqual(plot.count('class="l k0" d="M') + plot.count('class="l k1" d="M') + plot.count('class="l k2" d="M'), 9)

    def test_many_clients(self):
        def hold(h, body, number):
            s.wait_asked(100)
            stream(h, body)
        s = self.serve(hold)
        got = json.loads(self.run_it(s.url, "--json", "-c", 100, "-n", 200, "--max-tokens", 3, "-p", 4).stdout)
        self.assertEqual((got["requests"]["ok"], got["output_tokens"], s.most_at_once), (200, 600, 100))

    def test_connections_are_kept(self):
        ports = set()

        def note(h, body, number):
            ports.add(h.client_address[1])
            stream(h, body)
        self.measure(note, "-n", 10, "-c", 2, "--max-tokens", 1)
        self.assertLessEqual(len(ports), 2)

    def test_usage(self):
        page = self.run_it("--help").stdout
        for flag in ("--clients", "--rate", "--requests", "--duration", "--prompt-tokens", "--shared-prefix", "--max-tokens", "--tenants", "--svg"):
            self.assertIn(flag, page)
        url = "http://127.0.0.1:9"
        for args, says in (((), "missing"), (("ftp://x",), "http://"), ((url + "/?a=b",), "address"), ((url, "--clients", "10001"), "10000"),
                           ((url, "--max-tokens", "9-3"), "range"), ((url, "--max-tokens", "0"), "range"), ((url, "--max-tokens", "3-"), "range"),
                           ((url, "--duration", "5"), "500ms"), ((url, "--timeout", "2d"), "500ms"), ((url, "--ramp", "-1s"), "500ms"),
                           ((url, "--duration", "0s"), "500ms"), ((url, "--duration", "nans"), "500ms"),
                           ((url, "--tenants", "a b"), "name:weight"), ((url, "--tenants", "a:0"), "name:weight"), ((url, "--tenants", "a,"), "comma"),
                           ((url, "--tenants", "a\r\nx:1"), "name:weight"), ((url, "--tenants", ",".join(f"t{i}" for i in range(65))), "over 64"),
                           ((url, "--tenants", "t" * 65), "name:weight"), ((url, "--key", "a\r\nb"), "printable"),
                           ((url, "--extra", "[1]"), "JSON object"), ((url, "--extra", "{"), "JSON object"),
                           ((url, "--extra", '{"max_tokens": 3}'), "sent already"), ((url, "--extra", '{"model": "a"}', "-m", "b"), "sent already"),
                           ((url, "--extra", '{"priority": 1}', "--classes", "a,b:band=1"), "sent already"),
                           ((url, "-n", "1e3"), "in digits"), ((url, "--seed", "0x10"), "in digits"), ((url, "-n", "1.0"), "in digits"),
                           ((url + "/" + "x" * 2048,), "over 2048"), ((url, "--extra", json.dumps({"a": "x" * 70000})), "over"), ((url, "--ignore-eos", "no"), "on nor off"),
                           ((url, "-p", "5", "--shared-prefix", "6"), "only 5"), ((url, "-c", "10000", "-p", "1000000"), "at once"),
                           ((url, "--clinets", "3"), "--clients")):
            with self.subTest(args):
                done = self.run_it(*args, want=2)
                self.assertEqual(done.stdout, "")
                self.assertIn(says, done.stderr)
                self.assertTrue(done.stderr.startswith("autoglm bench http: "), done.stderr)


if __name__ == "__main__":
    unittest.main()
