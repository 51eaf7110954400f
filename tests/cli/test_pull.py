"""autoglm pull against servers that break off, change their mind, lie and send elsewhere."""
import hashlib
import http.server
import json
import os
import pathlib
import subprocess
import tempfile
import threading
import unittest

BIN = os.environ["AUTOGLM_TEST_BIN"]
BODY = bytes(i * 7919 % 251 for i in range(200_000))
SHA = hashlib.sha256(BODY).hexdigest()
TAG = '"version-1"'


class Server:
    """Each test gives it a function that answers a request; it keeps what was asked."""

    def __init__(self, answer):
        outer = self
        self.requests = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.requests.append((self.path, dict(self.headers)))
                answer(self, len(outer.requests))

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.handle_error = lambda *args: None  # clients that leave are part of the game
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()


def head(h, status, length, **headers):
    h.send_response(status)
    if length is not None:
        h.send_header("Content-Length", str(length))
    for name, value in headers.items():
        h.send_header(name.replace("_", "-"), value)
    h.end_headers()


def break_off(h):
    h.wfile.flush()
    h.close_connection = True
    h.connection.shutdown(2)


def whole(h, _n=0, body=BODY, **headers):
    """A well-behaved server: ranges, with If-Range."""
    tag = headers.setdefault("ETag", TAG)
    start = 0
    wanted = h.headers.get("Range")
    if wanted and h.headers.get("If-Range", tag) == tag:
        start = int(wanted.removeprefix("bytes=").rstrip("-"))
        headers["Content_Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
    head(h, 206 if start else 200, len(body) - start, **headers)
    h.wfile.write(body[start:])


class Pull(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory(prefix="autoglm-pull-")
        self.addCleanup(self.dir.cleanup)
        self.path = pathlib.Path(self.dir.name)

    def serve(self, answer):
        s = Server(answer)
        self.addCleanup(s.close)
        return s

    def pull(self, ref, *options, want=0, env=None):
        done = subprocess.run([BIN, "pull", ref, "--retry-wait-ms", "1", *options], cwd=self.path, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=60, env={**os.environ, **(env or {})})
        self.assertEqual(done.returncode, want, done.stderr)
        return done

    def assertLeft(self, *names):
        self.assertEqual(sorted(p.name for p in self.path.iterdir()), sorted(names))

    def test_a_file_by_url(self):
        s = self.serve(whole)
        done = self.pull(s.url + "/models/a%20b.gguf?download=1", "--sha256", SHA, "--json")
        self.assertEqual(json.loads(done.stdout), {"path": "a b.gguf", "bytes": len(BODY), "sha256": SHA, "checked": True,
                                                   "there": False})
        self.assertEqual((self.path / "a b.gguf").read_bytes(), BODY)
        self.assertLeft("a b.gguf")

    def test_without_hard_links(self):
        s = self.serve(whole)
        done = self.pull(s.url + "/a.gguf", "--sha256", SHA, env={"AUTOGLM_FAULT": "rename:1"})
        self.assertEqual((self.path / "a.gguf").read_bytes(), BODY)
        self.assertLeft("a.gguf")
        if "fault:" not in done.stderr:
            self.skipTest("built without fault points")
        self.assertIn("fault: fired", done.stderr)

    def test_an_empty_file(self):
        s = self.serve(lambda h, n: head(h, 200, 0))
        self.pull(s.url + "/empty.gguf")
        self.assertEqual((self.path / "empty.gguf").read_bytes(), b"")

    def test_what_breaks_off_goes_on_where_it_ended(self):
        def answer(h, n):
            if n < 4:
                start = int(h.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
                extra = {"Content_Range": f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"} if start else {}
                head(h, 206 if start else 200, len(BODY) - start, ETag=TAG, **extra)
                h.wfile.write(BODY[start:start + 50_000])
                return break_off(h)
            whole(h)
        s = self.serve(answer)
        self.pull(s.url + "/a.gguf", "--sha256", SHA)
        self.assertEqual([r[1].get("Range") for r in s.requests], [None, "bytes=50000-", "bytes=100000-", "bytes=150000-"])
        self.assertTrue(all(r[1].get("If-Range") == TAG for r in s.requests[1:]))
        self.assertLeft("a.gguf")

    def test_a_later_run_goes_on_too(self):
        def answer(h, n):
            if n == 1:
                head(h, 200, len(BODY), ETag=TAG)
                h.wfile.write(BODY[:70_000])
            if n <= 2:
                return break_off(h)
            whole(h)
        s = self.serve(answer)
        self.pull(s.url + "/a.gguf", "--retries", "0", want=1)
        self.assertLeft("a.gguf.part", "a.gguf.part.tag")
        self.pull(s.url + "/a.gguf", "--sha256", SHA)
        self.assertEqual(s.requests[2][1].get("Range"), "bytes=70000-")

    def test_a_part_from_elsewhere_is_not_gone_on_with(self):
        s = self.serve(whole)
        (self.path / "a.gguf.part").write_bytes(b"x" * 1000)
        (self.path / "a.gguf.part.tag").write_text(TAG + "\nhttp://elsewhere/a.gguf\n")
        self.pull(s.url + "/a.gguf", "--sha256", SHA)
        self.assertIsNone(s.requests[0][1].get("Range"))

    def test_another_version_meanwhile_begins_anew(self):
        def answer(h, n):
            if n == 1:
                head(h, 200, len(BODY), ETag='"old"')
                h.wfile.write(b"x" * 50_000)
                return break_off(h)
            whole(h)  # If-Range does not match: 200, all of it
        s = self.serve(answer)
        self.pull(s.url + "/a.gguf", "--sha256", SHA)
        self.assertEqual(s.requests[1][1].get("If-Range"), '"old"')

    def test_a_server_that_ignores_if_range_is_caught(self):
        def answer(h, n):
            if n == 1:
                head(h, 200, len(BODY), ETag='"old"')
                h.wfile.write(b"x" * 50_000)
                return break_off(h)
            if n == 2:
                head(h, 206, len(BODY) - 50_000, ETag=TAG, Content_Range=f"bytes 50000-{len(BODY) - 1}/{len(BODY)}")
                return h.wfile.write(BODY[50_000:])
            whole(h)
        s = self.serve(answer)
        self.pull(s.url + "/a.gguf", "--sha256", SHA)
        self.assertIsNone(s.requests[2][1].get("Range"))

    def test_a_piece_that_was_not_asked_for_is_refused(self):
        def answer(h, n):
            if n == 1:
                head(h, 200, len(BODY), ETag=TAG)
                h.wfile.write(BODY[:50_000])
                return break_off(h)
            if n == 2:
                head(h, 206, 10, ETag=TAG, Content_Range=f"bytes 60000-60009/{len(BODY)}")
                return h.wfile.write(BODY[60_000:60_010])
            whole(h)
        self.pull(self.serve(answer).url + "/a.gguf", "--sha256", SHA)

    def test_weak_tags_and_none_begin_anew(self):
        for tag in ({"ETag": 'W/"weak"'}, {}):
            with self.subTest(tag=tag):
                def answer(h, n):
                    head(h, 200, len(BODY), **tag)
                    h.wfile.write(BODY[:50_000] if n == 1 else BODY)
                    if n == 1:
                        break_off(h)
                s = self.serve(answer)
                self.pull(s.url + f"/{len(tag)}.gguf", "--sha256", SHA)
                self.assertIsNone(s.requests[1][1].get("Range"))

    def test_more_than_the_range_promised(self):
        """A resumed answer whose total shrank: the rest must not be taken for the file."""
        def answer(h, n):
            if n == 1:
                head(h, 200, len(BODY), ETag=TAG)
                h.wfile.write(BODY[:50_000])
                return break_off(h)
            head(h, 206, len(BODY) - 50_000, ETag=TAG, Content_Range="bytes 50000-59999/60000")
            h.wfile.write(BODY[50_000:])
        done = self.pull(self.serve(answer).url + "/a.gguf", want=1)
        self.assertIn("more than the 60000 bytes", done.stderr)

    def test_less_than_announced_is_not_a_file(self):
        def answer(h, n):
            head(h, 200, len(BODY) + 10, ETag=TAG)
            h.wfile.write(BODY)
            break_off(h)
        done = self.pull(self.serve(answer).url + "/a.gguf", "--retries", "1", want=1)
        self.assertIn("trying again", done.stderr)
        self.assertFalse((self.path / "a.gguf").exists())

    def test_416_when_all_was_there(self):
        def answer(h, n):
            if n == 1:
                head(h, 200, len(BODY) + 1, ETag=TAG)  # one byte too many announced
                h.wfile.write(BODY)
                return break_off(h)
            head(h, 416, 0, Content_Range=f"bytes */{len(BODY)}")
        self.pull(self.serve(answer).url + "/a.gguf", "--sha256", SHA)

    def test_a_wrong_checksum_leaves_nothing(self):
        done = self.pull(self.serve(whole).url + "/a.gguf", "--sha256", "0" * 64, want=1)
        self.assertIn("checksum is wrong", done.stderr)
        self.assertIn(SHA, done.stderr)
        self.assertLeft()

    def test_the_hubs_checksum_counts(self):
        s = self.serve(lambda h, n: whole(h, X_Linked_Etag=f'"{"1" * 64}"'))
        self.assertIn("checksum is wrong", self.pull(s.url + "/a.gguf", want=1).stderr)

    def test_the_checksum_of_a_redirect_counts(self):
        def answer(h, n):
            if h.path.startswith("/far"):
                return whole(h)
            head(h, 302, 0, Location="/far/blob", X_Linked_Etag=f'"{SHA}"')
        done = self.pull(self.serve(answer).url + "/a.gguf", "--json")
        self.assertTrue(json.loads(done.stdout)["checked"])

    def test_redirects_have_an_end(self):
        s = self.serve(lambda h, n: head(h, 302, 0, Location="/again"))
        self.pull(s.url + "/a.gguf", want=1)
        self.assertEqual(len(s.requests), 11)

    def test_redirects_to_files_of_this_machine_are_not_followed(self):
        s = self.serve(lambda h, n: head(h, 302, 0, Location="file:///etc/passwd"))
        self.pull(s.url + "/a.gguf", want=1)
        self.assertLeft()

    def test_missing_and_forbidden_are_not_tried_again(self):
        for status, say in ((404, "there is no such file"), (410, "no such file"), (401, "someone it knows"), (403, "someone"),
                            (400, "status 400")):
            s = self.serve(lambda h, n: (head(h, status, 5), h.wfile.write(b"sorry")))
            self.assertIn(say, self.pull(s.url + "/a.gguf", want=1).stderr)
            self.assertEqual(len(s.requests), 1)
        self.assertLeft()

    def test_trouble_on_their_side_is_tried_again_but_not_for_ever(self):
        for status in (500, 503, 429):
            s = self.serve(lambda h, n: head(h, status, 0) if n < 3 else whole(h))
            self.pull(s.url + f"/{status}.gguf", "--sha256", SHA)
        s = self.serve(lambda h, n: head(h, 503, 0))
        self.pull(s.url + "/a.gguf", "--retries", "2", want=1)
        self.assertEqual(len(s.requests), 3)

    def test_nobody_there(self):
        s = self.serve(whole)
        s.close()
        self.pull(s.url + "/a.gguf", "--retries", "1", want=1)
        self.assertLeft()

    def test_a_file_that_is_there_is_never_overwritten(self):
        s = self.serve(whole)
        target = self.path / "a.gguf"
        target.write_bytes(b"mine")
        self.assertIn("without a checksum", self.pull(s.url + "/a.gguf", want=1).stderr)
        self.assertIn("not the same", self.pull(s.url + "/a.gguf", "--sha256", SHA, want=1).stderr)
        self.assertEqual(target.read_bytes(), b"mine")
        target.write_bytes(BODY)
        asked = len(s.requests)
        done = self.pull(s.url + "/a.gguf", "--sha256", SHA, "--json")
        self.assertTrue(json.loads(done.stdout)["there"])
        self.assertEqual(len(s.requests), asked)  # a checksum is answer enough
        s = self.serve(lambda h, n: whole(h, X_Linked_Etag=f'"{SHA}"'))
        self.assertTrue(json.loads(self.pull(s.url + "/a.gguf", "--json").stdout)["there"])
        self.assertLeft("a.gguf")

    def test_hub_names(self):
        files = ["README.md", "m-Q4_K.gguf", "m-Q4_K_M.gguf", "sub/m-Q8_0.gguf", "m-F16-00001-of-00002.gguf",
                 "m-F16-00002-of-00002.gguf"]

        def answer(h, n):
            if h.path.startswith("/api/models/me/it/tree/main"):
                body = json.dumps([{"type": "file", "path": f, "size": 1} for f in files]).encode()
                head(h, 200, len(body))
                return h.wfile.write(body)
            if h.path.startswith("/me/it/resolve/main/"):
                return whole(h)
            head(h, 404, 0)
        s = self.serve(answer)
        hub = {"AUTOGLM_HUB": s.url + "/"}
        self.pull("me/it:q4_k", env=hub)
        self.pull("me/it:Q8_0", "--hub", s.url)
        self.pull("me/it/sub/m-Q8_0.gguf", "-o", "other.gguf", env=hub)
        self.pull("me/it:F16", env=hub)
        self.assertLeft("m-Q4_K.gguf", "m-Q8_0.gguf", "other.gguf", "m-F16-00001-of-00002.gguf", "m-F16-00002-of-00002.gguf")
        self.assertIn("no .gguf file there", self.pull("me/it:Q2_K", env=hub, want=1).stderr)
        self.assertIn("both", self.pull("me/it:m", env=hub, want=2).stderr)
        self.assertIn("no such file", self.pull("me/other:Q8_0", env=hub, want=1).stderr)

    def test_listings_that_are_wrong(self):
        for body in (b"<html>", b"{}", b"", b'[{"path": "../../x-Q8_0.gguf"}, 5, null]', b'[{"path": "sub/.Q8_0.gguf"}]'):
            def answer(h, n):
                head(h, 200, len(body))
                h.wfile.write(body)
            s = self.serve(answer)
            code = 2 if b"/.Q" in body else 1
            self.pull("me/it:Q8_0", "--hub", s.url, want=code) if b".." not in body else None
            self.assertLeft()

    def test_names_that_cannot_be(self):
        for ref in ("", "x", "a/b", "a/", "/a/b", "a/b:", "a/b/", "ftp://x/a.gguf", "file:///etc/passwd", "http://x/", "http://x",
                    "http://x/..", "http://x/a%2Fb", "http://x/%00a"):
            with self.subTest(ref=ref):
                self.pull(ref, "--hub", "http://127.0.0.1:9", want=2)
        env = {"AUTOGLM_HUB": ""}
        self.assertIn("AUTOGLM_HUB", self.pull("a/b/c.gguf", env=env, want=2).stderr)
        self.pull("a/b/c.gguf", "--hub", "ftp://x", want=2)
        self.pull("http://x/a", "--sha256", "12", want=2)
        self.assertLeft()

    def test_two_at_once_do_not_mix(self):
        go, begun = threading.Event(), threading.Event()

        def answer(h, n):
            head(h, 200, len(BODY), ETag=TAG)
            h.wfile.write(BODY[:1000])
            h.wfile.flush()
            begun.set()
            go.wait(30)
            h.wfile.write(BODY[1000:])
        s = self.serve(answer)
        first = subprocess.Popen([BIN, "pull", s.url + "/a.gguf", "--sha256", SHA], cwd=self.path, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL)
        self.assertTrue(begun.wait(30))
        self.assertIn("another pull", self.pull(s.url + "/a.gguf", want=1).stderr)
        go.set()
        self.assertEqual(first.wait(30), 0)
        self.assertLeft("a.gguf")
