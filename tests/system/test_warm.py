"""Caches after a restart: prompts' pages saved at shutdown, the access log, and what is asked again before the server is ready."""
import os
import pathlib
import random
import resource
import signal
import subprocess
import tempfile
import unittest

from server import Server, binary, tiny_model, wait_for

MIB = 1 << 20
# A leak report comes from a process that looks into the server, which the sandbox is there to keep out.
NO_LEAKS = {"ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"}


def lines(s, message):
    return [line for line in s.lines() if line.get("msg") == message]


class Folder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="autoglm-warm-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)


class Prefixes(Folder):
    PROMPT = "Once upon a time there was a little girl who lived in a house near the sea. " * 12

    def server(self, *flags, **more):
        return Server("--threads", "2", "--ctx", "2048", "--prefix-save", str(self.folder / "kept"), *flags, **more)

    def ask(self, s, tenant="a"):
        r = s.post("/v1/completions", {"prompt": self.PROMPT, "temperature": 0, "max_tokens": 24, "logprobs": 3},
                   headers={"x-tenant": tenant})
        self.assertEqual(r.status_code, 200, r.text)
        answer = r.json()
        return answer["choices"][0], answer["usage"]["prompt_tokens_details"]["cached_tokens"]

    def notes(self, s):
        return [line["note"] for line in lines(s, "prefixes")]

    def test_a_restart_finds_them(self):
        with self.server("--sandbox", env=NO_LEAKS) as s:
            fresh, cached = self.ask(s)
            self.assertEqual(cached, 0)
        path = self.folder / "kept"
        self.assertEqual([p.name for p in self.folder.iterdir()], ["kept"])
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        with self.server("--sandbox", env=NO_LEAKS) as s:
            self.assertGreater(s.metric("autoglm_kv_pages_restored"), 0)
            again, cached = self.ask(s)
            self.assertGreater(cached, 64)
            self.assertEqual(again, fresh)
            self.assertEqual(self.ask(s, "b")[1], 0)  # another tenant finds nothing
        with self.server() as s:
            self.assertEqual(self.ask(s, "b"), (fresh, cached))

    def test_settings_read_anew_change_nothing(self):
        with self.server() as s:
            self.ask(s)
            s.process.send_signal(signal.SIGHUP)
            s.wait_line("settings reloaded")
        self.assertEqual([p.name for p in self.folder.iterdir()], ["kept"])
        with self.server() as s:
            self.assertGreater(self.ask(s)[1], 64)

    def test_one_that_is_damaged_or_of_another_cache_is_refused(self):
        with self.server() as s:
            fresh, _ = self.ask(s)
        path = self.folder / "kept"
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[-7] ^= 4
        for data, flags, why in ((flipped, (), "checksum"), (whole[:-1], (), "cut short"), (whole[:50], (), "cut short"),
                                 (whole, ("--kv", "f32"), "--kv"), (b"", (), "cut short")):
            path.write_bytes(data)
            with self.server(*flags) as s:
                self.assertIn(why, self.notes(s)[0])
                answer, cached = self.ask(s)
                self.assertEqual(cached, 0)
                if not flags:
                    self.assertEqual(answer, fresh)
            path.write_bytes(whole)

    def test_a_full_disk_keeps_the_old_one(self):
        with self.server() as s:
            self.ask(s)
        whole = (self.folder / "kept").read_bytes()
        s = self.server()
        self.ask(s, "b")
        resource.prlimit(s.process.pid, resource.RLIMIT_FSIZE, (5000, 5000))
        s.stop()
        self.assertIn("are not kept for the next start", self.notes(s)[-1])
        self.assertEqual([p.name for p in self.folder.iterdir()], ["kept"])
        self.assertEqual((self.folder / "kept").read_bytes(), whole)

    def test_bytes_are_bounded(self):
        with self.server("--prefix-save-bytes", "64KiB") as s:
            self.ask(s)
        if (self.folder / "kept").exists():
            self.assertLessEqual((self.folder / "kept").stat().st_size, 65536)


class Logged(Folder):
    """A server with an access log. The model without weights answers as fast as it can."""

    def server(self, *flags, mode="full", model="null", **more):
        return Server("--cache-bytes", "16MiB", "--history", mode, "--history-file", str(self.folder / "asked"), *flags, model=model, **more)

    def ask(self, s, prompt, max_tokens=8, tenant="acme", **fields):
        r = s.post("/v1/chat/completions", {"messages": [{"role": "user", "content": prompt}], "temperature": 0,
                                            "max_tokens": max_tokens, **fields}, headers={"x-tenant": tenant})
        self.assertEqual(r.status_code, 200, r.text)
        return r

    def written(self, s, n):
        wait_for(f"{n} records", lambda: s.metric("autoglm_history_records_total") >= n)

    def files(self):
        return sorted(p.name for p in self.folder.iterdir())


class History(Logged):
    def test_modes_write_what_they_say(self):
        with self.server() as s:
            self.ask(s, "the\nsecret word", stream=False)
            s.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "by chance"}], "max_tokens": 2})
            s.post("/v1/chat/completions", {"messages": "none"})
            self.written(s, 1)
        text = (self.folder / "asked").read_text()
        self.assertEqual(text.count("\n"), 1)
        self.assertIn("secret word", text)
        self.assertIn(" chat_completions acme null ", text)
        self.assertNotIn("by chance", text)  # what is not to be kept is not logged
        for name in self.files():
            self.assertEqual((self.folder / name).stat().st_mode & 0o777, 0o600)
        for name in self.files():
            (self.folder / name).unlink()
        with self.server(mode="hashes") as s:
            key = self.ask(s, "the secret word").headers["x-cache-key"]
            self.written(s, 1)
        text = (self.folder / "asked").read_text()
        self.assertNotIn("secret", text)
        self.assertIn(key, text)
        with self.server(mode="hashes") as s:  # the same request, the same hash
            self.assertEqual(self.ask(s, "the secret word").headers["x-cache-key"], key)
        for name in self.files():
            (self.folder / name).unlink()
        with self.server(mode="off") as s:
            self.ask(s, "the secret word")
        self.assertEqual(self.files(), [])

    def test_settings_that_do_not_go_together(self):
        for flags, word in ((["--history", "full"], "--history-file"), (["--warm", "full"], "--history"),
                            (["--warm", "idle", "--history", "hashes", "--history-file", str(self.folder / "x")], "--history full"),
                            (["--history", "some"], "off|hashes|full"), (["--history", "full", "--history-file", "/none/x"], "/none/x")):
            done = subprocess.run([binary(), "serve", "-m", "null", "--port", "0", *flags], capture_output=True, text=True, timeout=60)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(word, done.stderr)

    def test_files_go_round(self):
        with self.server("--history-bytes", "4MiB", "--history-files", "3", "--sandbox", env=NO_LEAKS) as s:
            for i in range(80):
                self.ask(s, f"number {i}", user="x" * 200_000)
            self.written(s, 80)
        self.assertEqual(self.files(), ["asked", "asked.1", "asked.2", "asked.key"])
        self.assertLessEqual(max(p.stat().st_size for p in self.folder.iterdir()), 4 * MIB)

    def test_a_full_disk_costs_records_and_nothing_else(self):
        with self.server() as s:
            self.ask(s, "first")
            self.written(s, 1)
            soft = resource.prlimit(s.process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(s.process.pid, resource.RLIMIT_FSIZE, (2000, soft[1]))
            for i in range(60):
                self.ask(s, f"number {i}")
            wait_for("drops", lambda: s.metric("autoglm_history_dropped_total") + s.metric("autoglm_history_records_total") >= 61)
            self.assertGreater(s.metric("autoglm_history_dropped_total"), 10)
            resource.prlimit(s.process.pid, resource.RLIMIT_FSIZE, soft)
            before = s.metric("autoglm_history_records_total")
            self.ask(s, "last")
            self.written(s, before + 1)
            wait_for("the lines", lambda: any("written again" in line.get("msg", "") for line in s.lines()))
            said = [line for line in s.lines() if "access log" in line.get("msg", "")]
            self.assertEqual([("cannot be written" in line["msg"], "written again" in line["msg"]) for line in said[-2:]],
                             [(True, False), (False, True)])
            self.assertEqual(sum("cannot be written" in line["msg"] for line in said), 1)
        self.assertTrue((self.folder / "asked").read_bytes().endswith(b"\n"))


class Warm(Logged):
    def sample(self, s, rng, n):
        """Zipf's law over 80 prompts; the share of answers that were there."""
        prompts = [f"What is {i} times {i}? Answer at length." for i in range(80)]
        weights = [1 / (i + 1) for i in range(80)]
        hits = 0
        for prompt in rng.choices(prompts, weights, k=n):
            hits += self.ask(s, prompt).headers["x-cache"] == "hit"
        return hits / n

    def computed(self, s):
        return s.metric("autoglm_warm_requests_total", outcome="computed")

    def test_hits_after_a_restart(self):
        rng = random.Random(7)
        with self.server() as s:
            self.sample(s, rng, 200)
            before = self.sample(s, rng, 200)
            self.ask(s, "streamed", stream=True).text
            self.ask(s, "another tenant's", tenant="other")
            self.written(s, 402)
        self.assertGreater(before, 0.5)
        with self.server("--warm", "full", "--warm-top", "500") as s:
            self.assertEqual(lines(s, "warmed up")[0]["end"], "all of them")
            self.assertEqual(self.ask(s, "streamed").headers["x-cache"], "hit")
            self.assertEqual(self.ask(s, "another tenant's", tenant="other").headers["x-cache"], "hit")
            self.assertEqual(self.ask(s, "another tenant's", tenant="acme").headers["x-cache"], "miss")
            after = self.sample(s, rng, 200)
            self.assertGreaterEqual(after, 0.9 * before)
            self.assertEqual(s.metric("autoglm_warming"), 0)
            self.assertGreater(self.computed(s), 20)
            self.assertEqual(s.metric("autoglm_warm_requests_total", outcome="failed"), 0)

    def test_every_dialect_and_the_prefix_tree(self):
        words = "Once upon a time there was a little girl who lived in a house. " * 8
        ask = [("/v1/completions", {"prompt": words, "max_tokens": 4, "temperature": 0}, {}),
               ("/v1/chat/completions", {"messages": [{"role": "user", "content": words + "chat"}], "max_tokens": 4, "temperature": 0}, {}),
               ("/v1/messages", {"messages": [{"role": "user", "content": words + "messages"}], "max_tokens": 4, "temperature": 0, "model": "x"},
                {"anthropic-version": "2023-06-01"}),
               ("/v1/responses", {"input": words + "responses", "max_output_tokens": 4, "temperature": 0}, {}),
               ("/v1/embeddings", {"input": words}, {})]
        flags = ("--alias", "x", "--threads", "2", "--ctx", "4096")
        with self.server(*flags, model=tiny_model(), chat=False) as s:
            asked = [s.post(path, body, headers=headers) for path, body, headers in ask]
            kept = [(path, r) for (path, _, _), r in zip(ask, asked) if r.status_code == 200]
            self.written(s, len(kept))
        with self.server(*flags, "--warm", "full", model=tiny_model(), chat=False) as s:
            self.assertEqual(self.computed(s), len(kept))
            for (path, body, headers), r in zip(ask, asked):
                again = s.post(path, body, headers=headers)
                self.assertEqual(again.status_code, r.status_code)
                if r.status_code == 200:
                    self.assertEqual(again.headers["x-cache"], "hit", path)
            longer = s.complete(words + "And then", max_tokens=2)
            self.assertGreater(longer["usage"]["prompt_tokens_details"]["cached_tokens"], 0)

    def slow(self):
        """A log whose replay takes its time with null:rate=20."""
        with self.server() as s:
            for i in range(6):
                for _ in range(2):
                    self.ask(s, f"slow {i}", max_tokens=400)
            self.written(s, 12)

    def test_ready_when_the_time_is_over(self):
        self.slow()
        with self.server("--warm", "full", "--warm-time", "8s", model="null:rate=20", ready=False) as s:
            s.wait_line("warming up")
            r = s.get("/readyz")
            self.assertEqual(r.status_code, 503)
            self.assertIn("warmed up", r.json()["error"]["message"])
            self.assertEqual(s.get("/livez").status_code, 200)
            self.assertEqual(s.metric("autoglm_ready"), 0)
            self.ask(s, "somebody", max_tokens=1)  # who comes is served all the same
            s.wait_line("ready")
            self.assertEqual(s.get("/readyz").status_code, 200)
            self.assertEqual(lines(s, "warmed up")[0]["end"], "its time is over")
            wait_for("an idle engine", s.idle)

    def test_sigterm_while_it_warms_up(self):
        self.slow()
        with self.server("--warm", "full", model="null:rate=20", ready=False) as s:
            s.wait_line("warming up")
            wait_for("work", lambda: s.metric("autoglm_generations_running") > 0)
            s.signal(signal.SIGTERM)
            s.wait_line("stopped")
        self.assertEqual(lines(s, "warmed up")[0]["end"], "the server stops")

    def test_in_idle_time(self):
        self.slow()
        with self.server("--warm", "idle") as s:
            wait_for("all of them", lambda: self.computed(s) >= 6)
            self.assertEqual(self.ask(s, "slow 3", max_tokens=400).headers["x-cache"], "hit")
            self.assertEqual(s.metric("autoglm_warming"), 0)

    def test_idle_time_gives_way(self):
        self.slow()
        with self.server("--warm", "idle", model="null:rate=20") as s:
            wait_for("work", lambda: s.metric("autoglm_generations_running") > 0)
            self.ask(s, "somebody", max_tokens=2)
            wait_for("it to give way", lambda: s.metric("autoglm_warm_requests_total", outcome="yielded") >= 1)

    def test_when_asked_for(self):
        self.slow()
        with self.server() as s:
            self.assertFalse(s.get("/admin/v1/cache/warm").json()["running"])
            r = s.post("/admin/v1/cache/warm")
            self.assertEqual(r.status_code, 200, r.text)
            wait_for("all of them", lambda: s.get("/admin/v1/cache/warm").json()["done"] == 6)
            wait_for("the end", lambda: not s.get("/admin/v1/cache/warm").json()["running"])
            self.assertEqual(s.get("/admin/v1/cache/warm").json()["computed"], 6)
            self.assertEqual(self.ask(s, "slow 1", max_tokens=400).headers["x-cache"], "hit")
        with Server("--cache-bytes", "16MiB", model="null") as s:
            self.assertEqual(s.post("/admin/v1/cache/warm").status_code, 404)

    def test_a_log_that_was_torn(self):
        self.slow()
        path = self.folder / "asked"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data) + b"no record\n" + bytes(data[:100]))
        with self.server("--warm", "full") as s:
            self.assertEqual(s.metric("autoglm_history_damaged_total"), 3)
            self.assertEqual(self.computed(s), 6)
            self.assertEqual(self.ask(s, "slow 5", max_tokens=400).headers["x-cache"], "hit")


if __name__ == "__main__":
    unittest.main()
