"""HTTP/2 with clients of others: curl and h2load on the port that speaks HTTP/1.1 as well."""
import json
import re
import shutil
import signal
import subprocess
import unittest

import h2_raw
from server import LIMIT_S, Server, long_model, wait_for

CHAT = {"messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 12, "temperature": 0, "seed": 1}
TEXT = {"prompt": "Once upon a time", "max_tokens": 12, "temperature": 0}


def curl(url, *more, body=None):
    """Status, protocol version and body."""
    command = ["curl", "-sS", "--max-time", str(LIMIT_S), "-w", "\n%{http_code} %{http_version}", *more, url]
    if body is not None:
        command += ["-H", "Content-Type: application/json", "--data-binary", json.dumps(body)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    text, end = done.stdout.decode().rsplit("\n", 1)
    status, version = end.split()
    return int(status), version, text


def steady(text):
    """An answer without what differs from one request to the next: ids, times, and how a stream is cut into events."""
    if text.startswith("data: "):
        events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
        choices = [choice for event in events for choice in event["choices"]]
        said = "".join(c.get("text") or c.get("delta", {}).get("content") or "" for c in choices)
        return said, [c["finish_reason"] for c in choices][-1], events[-1].get("usage"), text.endswith("data: [DONE]\n\n")
    return re.sub(r'"(id|request_id)":\s?"[^"]*"|"created":\s?\d+', "", text)


class Http2(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.s = Server("--body-bytes", "64KiB", "--h2-streams", "50", "--url-bytes", "4KiB")

    @classmethod
    def tearDownClass(cls):
        cls.s.stop()

    def test_same_answers_as_http_1(self):
        asked = [("/v1/models", None), ("/livez", None), ("/nowhere", None), ("/v1/completions", TEXT),
                 ("/v1/completions", {**TEXT, "stream": True}), ("/v1/chat/completions", CHAT),
                 ("/v1/chat/completions", {**CHAT, "stream": True, "stream_options": {"include_usage": True}}),
                 ("/v1/chat/completions", {**CHAT, "temperature": 9}), ("/tokenize", {"content": "Once"})]
        for path, body in asked:
            one = curl(self.s.url + path, "--http1.1", body=body)
            two = curl(self.s.url + path, "--http2-prior-knowledge", body=body)
            self.assertEqual((one[1], two[1]), ("1.1", "2"), path)
            self.assertEqual((one[0], steady(one[2])), (two[0], steady(two[2])), (path, body))

    def test_headers(self):
        done = subprocess.run(["curl", "-sS", "-i", "--http2-prior-knowledge", self.s.url + "/livez"], stdout=subprocess.PIPE,
                              check=True)
        head = done.stdout.decode().split("\r\n\r\n")[0]
        self.assertTrue(head.startswith("HTTP/2 200"), head)
        self.assertRegex(head, r"\r\nx-request-id: \S+")
        self.assertNotRegex(head.lower(), "connection:|transfer-encoding:|keep-alive:")
        done = subprocess.run(["curl", "-sS", "-I", "--http2-prior-knowledge", self.s.url + "/livez"], stdout=subprocess.PIPE,
                              check=True)
        self.assertIn(b"\r\ncontent-length: 15\r\n", done.stdout)

    def test_refusals_speak_the_dialect_of_their_path(self):
        """With the client's id, whoever refuses: net before there is a request, or the gateway. (Over HTTP/1 a unit test looks at it.)"""
        def form(path, text):
            error = json.loads(text)
            if path.startswith("/v1/messages"):
                return error["type"] == "error" and bool(error["error"]["message"]) and error["request_id"] == "mine-7"
            return isinstance(error["error"], str) if path.startswith("/v2") else error["error"]["request_id"] == "mine-7"
        for path in ("/v1/messages", "/v1/messages/none", "/v2/none", "/v1/chat/completions", "/none"):
            for status, more, query, ends in ((413, {"content-length": "70000"}, "", False), (414, {}, "?" + "x" * 5000, True),
                                              (403, {"origin": "https://evil.example"}, "", True)):
                head = {"content-type": "application/json", "x-request-id": "mine-7", **more}
                answer = h2_raw.call(self.s.port, path + query, b"{}", head, ends)
                at = (path, status, answer.headers, answer.body)
                self.assertEqual((answer.headers[":status"], answer.headers["x-request-id"]), (str(status), "mine-7"), at)
                self.assertEqual(answer.headers.get("request-id"), "mine-7" if path.startswith("/v1/messages") else None, at)
                self.assertTrue(form(path, answer.body), at)

    def test_upgrade_is_ignored(self):
        self.assertEqual(curl(self.s.url + "/livez", "--http2")[:2], (200, "1.1"))

    @unittest.skipUnless(shutil.which("h2load"), "h2load is not installed")
    def test_h2load(self):
        for path, n in (("/livez", 2000), ("/nowhere", 200)):
            done = subprocess.run(["h2load", "-n", str(n), "-c", "4", "-m", "20", self.s.url + path], stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, timeout=LIMIT_S)
            self.assertRegex(done.stdout, rf"{n} done, ")
            self.assertIn("0 failed, 0 errored, 0 timeout", done.stdout)

    def test_counted(self):
        done = subprocess.run(["curl", "-sS", "--http2-prior-knowledge", "-H", "x: " + "y" * 40000, "-o", "/dev/null", "-w",
                               "%{http_code}", self.s.url + "/livez"], stdout=subprocess.PIPE, text=True)
        self.assertEqual(done.stdout, "431")
        wait_for("it to be closed", lambda: self.s.metric("autoglm_connections_closed_total") >= 1)
        metrics = self.s.get("/metrics").text
        self.assertRegex(metrics, r'refused_total\{reason="headers_size"\} [1-9]')
        self.assertRegex(metrics, r'autoglm_connections\{state="streaming"\} 0')
        self.assertRegex(metrics, r'autoglm_connections_closed_total [1-9]')


class Leaving(unittest.TestCase):
    """Who leaves stops its generation; who is being answered at SIGTERM gets the whole."""

    def test_reset_ends_the_generation(self):
        s = Server(model=long_model(), chat=False)
        self.addCleanup(s.stop)
        client = subprocess.Popen(["curl", "-sSN", "--http2-prior-knowledge", s.url + "/v1/completions", "-H",
                                   "Content-Type: application/json", "-d", json.dumps({"prompt": "Once", "stream": True,
                                   "max_tokens": 100000, "ignore_eos": True})], stdout=subprocess.PIPE)
        self.assertTrue(client.stdout.readline().startswith(b"data: "))
        client.send_signal(signal.SIGINT)
        client.stdout.close()
        client.wait()
        wait_for("the generation to be cancelled",
                 lambda: re.search(r"autoglm_generations_cancelled_total\S* [1-9]", s.get("/metrics").text))

    def test_drain(self):
        s = Server(model=long_model(), chat=False)
        client = subprocess.Popen(["curl", "-sSN", "--http2-prior-knowledge", s.url + "/v1/completions", "-H",
                                   "Content-Type: application/json", "-d", json.dumps({"prompt": "Once", "stream": True,
                                   "max_tokens": 200, "ignore_eos": True})], stdout=subprocess.PIPE)
        first = client.stdout.readline()
        s.process.send_signal(signal.SIGTERM)
        rest = client.stdout.read()
        client.stdout.close()
        self.assertEqual(client.wait(), 0)
        self.assertTrue((first + rest).endswith(b"data: [DONE]\n\n"), rest[-200:])
        s.stop()


if __name__ == "__main__":
    unittest.main()
