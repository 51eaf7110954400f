"""The server's HTTP, byte by byte: what clients of all kinds send, and what nobody should."""
import json
import re
import socket
import unittest

from server import LIMIT_S, Server, wait_for

BODY = json.dumps({"prompt": "Once", "max_tokens": 2, "temperature": 0}).encode()
HOST = b"Host: 127.0.0.1\r\n"


def post(body=BODY, headers=b"", host=HOST, version=b"1.1", length=True, path=b"/v1/completions"):
    size = b"Content-Length: %d\r\n" % len(body) if length else b""
    return b"POST %s HTTP/%s\r\n%sContent-Type: application/json\r\n%s%s\r\n%s" % (path, version, host, size, headers, body)


def get(path=b"/livez", headers=b"", host=HOST, version=b"1.1"):
    return b"GET %s HTTP/%s\r\n%s%s\r\n" % (path, version, host, headers)


class Wire:
    """One connection and the answers that come over it."""

    def __init__(self, port):
        self.s = socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)
        self.rest = b""

    def send(self, data):
        try:
            self.s.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the server has heard enough
        return self

    def more(self):
        try:
            data = self.s.recv(65536)
        except ConnectionResetError:
            data = b""
        self.rest += data
        return bool(data)

    def answer(self, head_only=False):
        """(status, headers, body); None: the connection was closed."""
        while b"\r\n\r\n" not in self.rest:
            if not self.more():
                return None
        head, self.rest = self.rest.split(b"\r\n\r\n", 1)
        lines = head.decode("latin-1").split("\r\n")
        status = int(lines[0].split()[1])
        headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines[1:])}
        if head_only or status in (204, 304) or status < 200:
            return status, headers, b""
        body = b""
        if headers.get("transfer-encoding") == "chunked":
            while True:
                while b"\r\n" not in self.rest:
                    assert self.more(), "closed inside a chunked body"
                size, self.rest = self.rest.split(b"\r\n", 1)
                while len(self.rest) < int(size, 16) + 2:
                    assert self.more(), "closed inside a chunk"
                body += self.rest[:int(size, 16)]
                self.rest = self.rest[int(size, 16) + 2:]
                if int(size, 16) == 0:
                    return status, headers, body
        if "content-length" in headers:
            while len(self.rest) < int(headers["content-length"]):
                assert self.more(), "closed inside a body"
            body, self.rest = self.rest[:int(headers["content-length"])], self.rest[int(headers["content-length"]):]
        else:
            while self.more():
                pass
            body, self.rest = self.rest, b""
        return status, headers, body

    def closed(self):
        while self.more():
            pass
        return True

    def close(self):
        self.s.close()

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.close()


class Http(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.s = Server("--body-bytes", "64KiB", "--header-bytes", "8KiB", "--headers-max", "50", "--cors-origin",
                       "https://chat.example")

    @classmethod
    def tearDownClass(cls):
        cls.s.stop()

    def wire(self):
        w = Wire(self.s.port)
        self.addCleanup(w.close)
        return w

    def ask(self, data):
        with Wire(self.s.port) as w:
            return w.send(data).answer()

    def assertRefused(self, data, status, say=""):
        """An answer in the house's form, and the connection closed behind it."""
        with Wire(self.s.port) as w:
            answer = w.send(data).answer()
            self.assertIsNotNone(answer, data[:200])
            self.assertEqual(answer[0], status, (data[:200], answer))
            error = json.loads(answer[2])["error"]
            self.assertTrue(error["message"] and error["type"], error)
            self.assertEqual(answer[1]["x-request-id"], error["request_id"])
            wait_for("a log line", lambda: any(line.get("request_id") == error["request_id"] and line["code"] == error["code"]
                                               for line in self.s.lines()))
            self.assertIn(say, error["message"])
            return answer

    def test_keep_alive(self):
        w = self.wire()
        for _ in range(5):
            status, headers, body = w.send(post()).answer()
            self.assertEqual(status, 200)
            self.assertTrue(json.loads(body)["choices"])

    def test_close_when_asked(self):
        w = self.wire().send(get(headers=b"Connection: close\r\n"))
        status, headers, _ = w.answer()
        self.assertEqual((status, headers["connection"]), (200, "close"))
        self.assertTrue(w.closed())

    def test_http_1_0(self):
        w = self.wire().send(get(version=b"1.0"))
        self.assertEqual(w.answer()[0], 200)
        self.assertTrue(w.closed())
        stream = json.dumps({"prompt": "Once", "max_tokens": 3, "stream": True}).encode()
        w = self.wire().send(post(stream, version=b"1.0"))
        status, headers, body = w.answer()
        self.assertNotIn("transfer-encoding", headers)
        self.assertTrue(body.endswith(b"data: [DONE]\n\n"))

    def test_pipelining(self):
        w = self.wire().send(get() + post() + get(b"/nothing") + post())
        self.assertEqual([w.answer()[0] for _ in range(4)], [200, 200, 404, 200])

    def test_a_byte_at_a_time(self):
        w = self.wire()
        w.s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in post():
            w.send(bytes([byte]))
        self.assertEqual(w.answer()[0], 200)

    def test_chunked_bodies(self):
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(BODY[i:i + 7]), BODY[i:i + 7]) for i in range(0, len(BODY), 7))
        head = post(b"", b"Transfer-Encoding: chunked\r\n", length=False)
        w = self.wire().send(head + chunks + b"0\r\n\r\n" + get())
        self.assertEqual(w.answer()[0], 200)
        self.assertEqual(w.answer()[0], 200)
        trailer = head + b"%x;note=1\r\n%s\r\n0\r\nX-Sum: 1\r\n\r\n" % (len(BODY), BODY)
        self.assertEqual(self.ask(trailer)[0], 200)
        for bad in (b"zz\r\n", b"-1\r\n", b"ffffffffffffffffff\r\n", b"5 \r\nhello\r\n0\r\n\r\n", b"3\r\nabcd\r\n0\r\n\r\n"):
            self.assertRefused(head + bad, 400)

    def test_expect_100_continue(self):
        w = self.wire().send(post(b"", b"Expect: 100-continue\r\nContent-Length: %d\r\n" % len(BODY), length=False))
        self.assertEqual(w.answer()[0], 100)
        self.assertEqual(w.send(BODY).answer()[0], 200)
        w = self.wire().send(post(b"", b"Expect: 100-continue\r\nContent-Length: 999999999\r\n", length=False))
        self.assertEqual(w.answer()[0], 413)  # told before a byte of it was sent
        self.assertRefused(post(headers=b"Expect: the-unexpected\r\n"), 417)

    def test_head_requests_have_no_body(self):
        w = self.wire().send(b"HEAD /livez HTTP/1.1\r\n" + HOST + b"\r\n")
        status, headers, _ = w.answer(head_only=True)
        self.assertIn(status, (200, 405))
        self.assertEqual(w.send(get()).answer()[0], 200)  # and nothing of one is in the way

    def test_paths_and_methods(self):
        self.assertEqual(self.ask(get(b"//"))[0], 404)
        self.assertEqual(self.ask(get(b"/v1/completions"))[0], 405)
        self.assertIn("allow", self.ask(get(b"/v1/completions"))[1])
        self.assertEqual(self.ask(b"DELETE /livez HTTP/1.1\r\n" + HOST + b"\r\n")[0], 405)
        self.assertEqual(self.ask(get(b"/livez?x=1"))[0], 200)
        self.assertEqual(self.ask(get(b"/../etc/passwd"))[0], 404)

    def test_heads_that_another_server_might_read_differently(self):
        for bad in (
            b"GET /livez HTTP/1.1\r\n\r\n",                                            # no Host
            get(headers=b"Host: 127.0.0.1\r\n"),                                       # two of them
            get(headers=b"X: a\r\n b\r\n"),                                            # obs-fold
            get(headers=b"X: a\x00b\r\n"),
            get(headers=b"X : a\r\n"),
            get(headers=b" X: a\r\n"),
            get(headers=b"X\r\n"),
            get(headers=b": a\r\n"),
            get(headers=b"X(Y): a\r\n"),
            b"GET /livez HTTP/1.1\nHost: 127.0.0.1\n\n",                               # bare LF
            get(headers=b"X: a\rb\r\n"),
            post(headers=b"Transfer-Encoding: chunked\r\n"),                           # both lengths
            post(headers=b"Content-Length: 5\r\n"),                                    # two lengths
            post(b"", b"Content-Length: +5\r\n", length=False),
            post(b"", b"Content-Length: -5\r\n", length=False),
            post(b"", b"Content-Length: 5, 5\r\n", length=False),
            post(b"", b"Content-Length: 0x5\r\n", length=False),
            post(b"", b"Content-Length: 99999999999999999999999\r\n", length=False),
            post(b"", b"Transfer-Encoding: gzip\r\n", length=False),
            post(b"", b"Transfer-Encoding: chunked, chunked\r\n", length=False),
            post(b"", b"Transfer-Encoding: xchunked\r\n", length=False),
            b"GET  /livez HTTP/1.1\r\n" + HOST + b"\r\n",
            b"GET /livez HTTP/9.9\r\n" + HOST + b"\r\n",
            b"GET /livez\r\n" + HOST + b"\r\n",
            b"GET /li\x01vez HTTP/1.1\r\n" + HOST + b"\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100,             # TLS
            b"hello\r\n\r\n",
        ):
            with self.subTest(bad=bad[:80]):
                with Wire(self.s.port) as w:
                    answer = w.send(bad).answer()
                    self.assertIsNotNone(answer)
                    self.assertIn(answer[0], (400, 501, 505), answer)
                    self.assertTrue(w.closed())

    def test_sizes(self):
        self.assertRefused(get(headers=b"X: " + b"a" * 9000 + b"\r\n"), 431)
        self.assertRefused(get(b"/" + b"a" * 9000), 431)
        self.assertRefused(get(headers=b"X: 1\r\n" * 60), 431)
        self.assertRefused(post(b"x" * 70000), 413)
        chunked = post(b"", b"Transfer-Encoding: chunked\r\n", length=False) + b"1000\r\n" + b"x" * 0x1000 + b"\r\n"
        self.assertRefused(chunked + (b"1000\r\n" + b"x" * 0x1000 + b"\r\n") * 20, 413)

    def test_those_who_take_their_time(self):
        with Server("--header-timeout", "1s", "--body-timeout", "1s", "--idle-timeout", "2s") as s:
            for unfinished in (b"GET /livez HT", get()[:-2], post()[:-5]):
                with Wire(s.port) as w:
                    answer = w.send(unfinished).answer()
                    self.assertEqual(answer[0], 408)
                    self.assertTrue(w.closed())
            with Wire(s.port) as w:
                self.assertTrue(w.closed())  # said nothing at all
            with Wire(s.port) as w:
                self.assertEqual(w.send(get()).answer()[0], 200)
                self.assertTrue(w.closed())  # said nothing more

    def test_only_programs_of_this_machine(self):
        """Without keys a web page in the user's browser must not be able to use the server."""
        for host in (b"localhost", b"127.0.0.1:8080", b"LOCALHOST:1", b"[::1]:80", b"127.1.2.3"):
            self.assertEqual(self.ask(get(host=b"Host: %s\r\n" % host))[0], 200, host)
        for host in (b"evil.example", b"127.0.0.1.evil.example", b"localhost.evil.example", b"10.0.0.1", b"", b"[::2]"):
            self.assertIn(self.ask(get(b"/v1/models", host=b"Host: %s\r\n" % host))[0], (400, 403), host)
        for origin in (b"https://evil.example", b"null", b"http://localhost.evil.example", b"https://chat.example.evil.example"):
            self.assertEqual(self.ask(post(headers=b"Origin: %s\r\n" % origin))[0], 403, origin)
        self.assertEqual(self.ask(post())[0], 200)

    def test_cors(self):
        ok = b"Origin: https://chat.example\r\n"
        status, headers, _ = self.ask(post(headers=ok))
        self.assertEqual((status, headers["access-control-allow-origin"]), (200, "https://chat.example"))
        pre = b"OPTIONS /v1/completions HTTP/1.1\r\n" + HOST + ok + b"Access-Control-Request-Method: POST\r\n" \
              b"Access-Control-Request-Headers: authorization,content-type\r\n\r\n"
        status, headers, _ = self.ask(pre)
        self.assertIn(status, (200, 204))
        self.assertIn("POST", headers["access-control-allow-methods"])
        self.assertIn("authorization", headers["access-control-allow-headers"].lower())
        self.assertEqual(self.ask(pre.replace(b"chat.example", b"evil.example"))[0], 403)
        self.assertNotIn("access-control-allow-origin", self.ask(post())[1])

    def test_media_types(self):
        for media, want in ((b"application/json", 200), (b"application/json; charset=utf-8", 200), (b"Application/JSON", 200),
                            (b"text/plain", 415), (b"application/x-www-form-urlencoded", 415), (b"application/jsonx", 415),
                            (b"application/json; charset=latin-1", 415), (b"", 415)):
            data = post().replace(b"application/json", media)
            self.assertEqual(self.ask(data)[0], want, media)
        self.assertEqual(self.ask(post().replace(b"Content-Type: application/json\r\n", b""))[0], 415)
        self.assertEqual(self.ask(post(headers=b"Content-Encoding: Identity\r\n"))[0], 200)
        status, _, body = self.ask(post(headers=b"Content-Encoding: gzip\r\n"))
        self.assertEqual((status, json.loads(body)["error"]["code"]), (415, "unsupported_encoding"))

    def test_every_answer_has_an_id(self):
        self.assertRegex(self.ask(get())[1]["x-request-id"], r"^\S{8,}$")
        self.assertEqual(self.ask(get(headers=b"X-Request-Id: mine-1\r\n"))[1]["x-request-id"], "mine-1")
        hostile = self.ask(get(headers=b"X-Request-Id: a\x7fb\r\n"))
        if hostile[0] == 200:
            self.assertNotIn("\x7f", hostile[1]["x-request-id"])
        self.assertNotEqual(self.ask(get(headers=b"X-Request-Id: %s\r\n" % (b"a" * 200)))[1]["x-request-id"], "a" * 200)

    def test_a_stream_is_written_event_by_event(self):
        body = json.dumps({"prompt": "Once", "max_tokens": 5, "stream": True, "temperature": 0}).encode()
        status, headers, data = self.ask(post(body))
        self.assertEqual((status, headers["transfer-encoding"], headers["content-type"].split(";")[0]), (200, "chunked", "text/event-stream"))
        self.assertEqual(headers["cache-control"], "no-cache")
        self.assertTrue(re.fullmatch(rb"(data: [^\n]+\n\n)+", data), data)

    def test_metrics_are_prometheus_text(self):
        status, headers, body = self.ask(get(b"/metrics"))
        self.assertEqual(status, 200)
        self.assertTrue(headers["content-type"].startswith("text/plain; version=0.0.4"))
        typed = set()
        for line in body.decode().splitlines():
            if line.startswith("# TYPE "):
                typed.add(line.split()[2])
            elif line and not line.startswith("#"):
                name = re.match(r"[a-zA-Z_:][a-zA-Z0-9_:]*", line).group(0)
                self.assertTrue(any(name == t or re.fullmatch(re.escape(t) + "_(bucket|sum|count)", name) for t in typed), line)
                float(line.rsplit(" ", 1)[1])
