"""Clients that leave, signals in the middle of answers, settings that change."""
import json
import pathlib
import signal
import socket
import tempfile
import threading
import unittest

import requests

from server import LIMIT_S, Server, events, long_model, text_of, wait_for

LONG = {"prompt": "Once upon a time", "max_tokens": 60000, "temperature": 0, "ignore_eos": True, "stream": True}


def long_server(*flags):
    return Server(*flags, model=long_model())


def refused(port):
    with socket.socket() as c:
        c.settimeout(LIMIT_S)
        return c.connect_ex(("127.0.0.1", port)) != 0


def open_stream(s, **fields):
    """A stream whose first event has come."""
    r = requests.post(s.url + "/v1/completions", json={**LONG, **fields}, stream=True, timeout=LIMIT_S)
    assert r.status_code == 200, r.text
    lines = r.iter_lines()
    while not next(lines).startswith(b"data: "):
        pass
    return r, lines


class Leaving(unittest.TestCase):
    def test_a_client_that_leaves_stops_its_generation(self):
        with long_server("--ctx", "131072") as s:
            r, lines = open_stream(s)
            self.assertEqual(s.metric("autoglm_generations_running"), 1)
            r.close()
            wait_for("the generation to stop", s.idle)
            self.assertEqual(s.metric("autoglm_generations_cancelled_total"), 1)
            self.assertLess(s.metric("autoglm_output_tokens_total"), 60000)
            self.assertEqual(s.complete(max_tokens=4)["usage"]["completion_tokens"], 4)

    def test_so_does_one_that_waits_for_a_whole_answer(self):
        with long_server("--ctx", "131072") as s:
            body = json.dumps({**LONG, "stream": False}).encode()
            c = socket.create_connection(("127.0.0.1", s.port), timeout=LIMIT_S)
            c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                      % (len(body), body))
            wait_for("it to run", lambda: s.metric("autoglm_generations_running") == 1)
            c.close()
            wait_for("it to stop", s.idle)
            self.assertEqual(s.metric("autoglm_generations_cancelled_total"), 1)

    def test_a_client_that_leaves_while_it_waits_frees_its_place(self):
        with long_server("--ctx", "131072", "--max-running", "1", "--queue-max", "2") as s:
            r, lines = open_stream(s)
            waiting = []
            for _ in range(2):
                c = socket.create_connection(("127.0.0.1", s.port), timeout=LIMIT_S)
                body = json.dumps({"prompt": "x", "max_tokens": 1}).encode()
                c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                          b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
                waiting.append(c)
            wait_for("two to wait", lambda: s.metric("autoglm_generations_waiting") == 2)
            full = s.post("/v1/completions", {"prompt": "x", "max_tokens": 1})
            self.assertEqual((full.status_code, full.json()["error"]["code"]), (503, "queue_full"))
            self.assertTrue(full.headers["Retry-After"])
            for c in waiting:
                c.close()
            wait_for("nobody to wait", lambda: s.metric("autoglm_generations_waiting") == 0)
            r.close()
            wait_for("all to be quiet", s.idle)

    def test_a_reader_that_reads_nothing_is_dropped(self):
        with long_server("--ctx", "131072", "--write-timeout", "500ms", "--out-bytes", "64KiB") as s:
            c = socket.socket()
            c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            c.settimeout(LIMIT_S)
            c.connect(("127.0.0.1", s.port))
            for _ in range(3):  # logprobs make it much to read
                body = json.dumps({**LONG, "n": 8, "logprobs": 20}).encode()
                c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                          % (len(body), body))
            wait_for("it to be cut", lambda: s.metric("autoglm_connections_refused_total", reason="write_timeout") >= 1)
            wait_for("what it asked for to end", s.idle)
            c.close()


class Signals(unittest.TestCase):
    def test_sigterm_lets_answers_finish(self):
        s = long_server("--ctx", "131072", "--shutdown-timeout", "10m")
        want = s.complete(LONG["prompt"], max_tokens=2000, ignore_eos=True)["choices"][0]["text"]
        r, lines = open_stream(s, max_tokens=2000)
        idle = socket.create_connection(("127.0.0.1", s.port), timeout=LIMIT_S)
        idle.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while not idle.recv(4096).endswith(b"}"):
            pass
        s.signal(signal.SIGTERM)
        s.wait_line("draining")
        wait_for("the port to close", lambda: refused(s.port))
        self.assertEqual(idle.recv(1), b"")
        rest = text_of(events(lines))[0]
        self.assertTrue(want.endswith(rest) and len(rest) > len(want) // 2)
        s.end()

    def test_the_shutdown_timeout_ends_what_does_not(self):
        s = long_server("--ctx", "131072", "--shutdown-timeout", "300ms")
        r, lines = open_stream(s)
        s.signal(signal.SIGTERM)
        with self.assertRaises((requests.RequestException, AssertionError, StopIteration)):
            text_of(events(lines))
        s.end()

    def test_a_second_sigterm_changes_nothing(self):
        s = long_server("--ctx", "131072", "--shutdown-timeout", "10m")
        r, lines = open_stream(s, max_tokens=2000)
        s.signal(signal.SIGTERM)
        s.wait_line("draining")
        s.signal(signal.SIGTERM)
        text_of(events(lines))
        s.end()

    def test_a_sigint_after_it_ends_at_once(self):
        s = long_server("--ctx", "131072", "--shutdown-timeout", "10m")
        r, lines = open_stream(s)
        s.signal(signal.SIGTERM)
        s.wait_line("draining")
        s.signal(signal.SIGINT)
        s.wait_line("stopped by a second signal")
        self.assertEqual(s.wait(), 1)

    def test_sigint_is_as_good_and_idle_servers_leave_at_once(self):
        s = Server("--shutdown-timeout", "10m")
        s.signal(signal.SIGINT)
        self.assertEqual(s.wait(), 0)
        s.check()

    def test_sigterm_before_the_model_is_there(self):
        s = Server(ready=False)
        s.signal(signal.SIGTERM)
        self.assertEqual(s.wait(), 0)


class Reload(unittest.TestCase):
    def settings(self, s, text):
        pathlib.Path(self.file.name).write_text(text)
        s.signal(signal.SIGHUP)

    def test_sighup_takes_over_what_may_change(self):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as self.file:
            origin = {"Origin": "https://chat.example"}
            with Server("--config", self.file.name) as s:
                body = {"prompt": "x", "max_tokens": 1}
                self.assertEqual(s.post("/v1/completions", body, headers=origin).status_code, 403)
                self.settings(s, "server:\n  cors-origin: [https://chat.example]\n")
                self.assertEqual(s.wait_line("settings reloaded")["changed"], 1)
                self.assertEqual(s.post("/v1/completions", body, headers=origin).status_code, 200)

                # One that may change and one that may not: neither is taken.
                self.settings(s, "server:\n  port: 1\nlimits:\n  max-connections: 7\n")
                refused = s.wait_line("settings not reloaded")["error"]
                self.assertIn("limits.max-connections", refused)
                self.assertEqual(s.post("/v1/completions", body, headers=origin).status_code, 200)

                self.settings(s, "server:\n  cors-origin: [nonsense here]\n")
                s.wait_line("settings not reloaded", 2)
                self.settings(s, "no: yaml: at all")
                s.wait_line("settings not reloaded", 3)
                self.assertEqual(s.post("/v1/completions", body, headers=origin).status_code, 200)
                self.settings(s, "")
                s.wait_line("settings reloaded", 2)
                self.assertEqual(s.post("/v1/completions", body, headers=origin).status_code, 403)

    def test_sighup_opens_the_log_anew(self):
        with tempfile.TemporaryDirectory() as folder:
            log = pathlib.Path(folder, "log")
            with Server("--log-file", str(log), log_file=log) as s:
                log.rename(log.with_suffix(".1"))
                s.signal(signal.SIGHUP)
                wait_for("the new file", lambda: log.exists() and "settings reloaded" in log.read_text())

    def test_reload_during_streams(self):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as self.file, Server("--config", self.file.name) as s:
            want = s.complete("Once", max_tokens=200, ignore_eos=True)["choices"][0]["text"]
            got = []
            ask = dict(prompt="Once", max_tokens=200, temperature=0, ignore_eos=True)
            threads = [threading.Thread(target=lambda: got.append(text_of(s.stream(**ask))[0])) for _ in range(4)]
            for t in threads:
                t.start()
            for i in range(5):
                self.settings(s, f"limits:\n  max-generations: {10 + i}\n")
                s.wait_line("settings reloaded", i + 1)
            for t in threads:
                t.join(LIMIT_S)
            self.assertEqual(got, [want] * 4)
