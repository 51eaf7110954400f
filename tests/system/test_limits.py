"""Limits of an open port, broken on the real server: the right answer, and its counter. Those of HTTP itself are in test_http.py,
test_http2.py and test_tls.py."""
import contextlib
import json
import resource
import socket
import unittest

import requests

from server import LIMIT_S, Server

PATH = "/v1/completions"


def asking(prompt, **more):
    return {"prompt": prompt, "max_tokens": 1, **more}


def nested(depth):
    return asking("x", metadata=json.loads("[" * depth + "]" * depth))


class Limits(unittest.TestCase):
    def refused(self, s, reason):
        return s.metric("autoglm_connections_refused_total", reason=reason)

    def test_what_a_request_may_hold(self):
        flags = ("--url-bytes", "128", "--json-depth", "8", "--json-items", "1024", "--json-string", "1KiB")
        with Server(*flags, model="null") as s:
            self.assertEqual(s.get("/livez?" + "x" * 121).status_code, 200)
            r = s.get("/livez?" + "x" * 122)
            self.assertEqual((r.status_code, r.json()["error"]["code"]), (414, "uri_too_long"))
            self.assertIn("x-request-id", r.headers)
            self.assertEqual(self.refused(s, "target_size"), 1)
            bodies = ((nested(7), nested(8)), (asking([65] * 1020), asking([65] * 1023)), (asking("x" * 1024), asking("x" * 1025)))
            for i, (fits, does_not) in enumerate(bodies):
                self.assertEqual(s.post(PATH, fits).status_code, 200)
                r = s.post(PATH, does_not)
                self.assertEqual((r.status_code, r.json()["error"]["code"]), (400, "limit_exceeded"))
                self.assertEqual(s.metric("autoglm_errors_total", code="limit_exceeded"), i + 1)

    def test_requests_of_a_connection(self):
        with Server("--requests-per-connection", "3", model="null") as s:
            with requests.Session() as one:
                one.trust_env = False
                closing = [one.get(s.url + "/livez", timeout=LIMIT_S).headers.get("connection") for _ in range(7)]
            self.assertEqual(closing, [None, None, "close"] * 2 + [None])
            self.assertGreaterEqual(self.refused(s, "requests_per_connection"), 2)

    def test_time_in_all(self):
        slow = {"prompt": "x", "max_tokens": 1000}
        with Server("--total-timeout", "3s", model="null:rate=20") as s:
            r = s.post(PATH, slow)
            self.assertEqual((r.status_code, r.json()["error"]["code"]), (504, "deadline_exceeded"))
            with self.assertRaises(requests.exceptions.ChunkedEncodingError):
                s.post(PATH, {**slow, "stream": True})
            self.assertEqual(self.refused(s, "total_timeout"), 2)
            self.assertEqual(s.post(PATH, {**slow, "max_tokens": 1}).status_code, 200)

    def test_a_refusal_keeps_the_connection(self):
        """Not asked for again after a refusal that came before the body, if that is small."""
        with Server(model="null", env={"AUTOGLM_API_KEY": "sk-right"}) as s, \
                socket.create_connection(("127.0.0.1", s.port), LIMIT_S) as c:
            f = c.makefile("rb")

            def ask(key, n_body):
                body = json.dumps({"prompt": "x" * n_body, "max_tokens": 1}).encode()
                head = (f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                        f"Authorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n\r\n")
                c.sendall(head.encode() + body)
                status, headers = int(f.readline().split()[1]), {}
                while (line := f.readline().strip()):
                    name, value = line.decode().lower().split(": ", 1)
                    headers[name] = value
                f.read(int(headers["content-length"]))
                return status, headers.get("connection")

            self.assertEqual(ask("sk-wrong", 5), (401, None))
            self.assertEqual(ask("sk-right", 5), (200, None))
            self.assertEqual(ask("sk-wrong", 60000), (401, None))
            self.assertEqual(ask("sk-right", 5), (200, None))
            self.assertEqual(ask("sk-wrong", 70000), (401, "close"))


class Idle(unittest.TestCase):
    def test_ten_thousand_cost_less_than_200_mb(self):
        n, (soft, hard) = 10000, resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and hard < n + 200:
            self.skipTest(f"a process may have {hard} descriptors here")
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, n + 200), hard))
        flags = ("--max-connections", "20000", "--max-connections-per-address", "20000")
        with Server(*flags, model="null", kind="_RELEASE") as s, contextlib.ExitStack() as all_of_them:
            for _ in range(n):
                c = all_of_them.enter_context(socket.create_connection(("127.0.0.1", s.port), LIMIT_S))
                c.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
                self.assertTrue(c.recv(4096).startswith(b"HTTP/1.1 200 "))
            self.assertGreaterEqual(s.metric("autoglm_connections", state="idle"), n)
            self.assertLess(s.rss_kib(), 200 * 1000 * 1000 / 1024)


if __name__ == "__main__":
    unittest.main()
