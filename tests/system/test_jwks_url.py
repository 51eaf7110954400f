"""Public keys of tokens that lie at a URL: fetched, turned over, and kept while their source is away or talks nonsense."""
import http.server
import json
import signal
import threading
import time
import unittest

import jwt
from cryptography.hazmat.primitives.asymmetric import ed25519

from server import Keyed, wait_for

WHO = ("--jwt-issuer", "https://id.example", "--jwt-audience", "autoglm")


class Source:
    """An identity provider's keys over HTTP. `now`: the status, and bytes of a body or what writes one."""

    def __init__(self):
        self.private = {kid: ed25519.Ed25519PrivateKey.generate() for kid in "abc"}
        self.fetched, self.now, self.closing = 0, (200, self.set_of("a")), threading.Event()
        source = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                source.fetched += 1
                status, answer = source.now
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "/elsewhere")
                self.end_headers()
                try:
                    if callable(answer):
                        answer(self.wfile)
                    else:
                        self.wfile.write(answer)
                except OSError:
                    pass  # the server had enough

            def log_message(self, *args):
                pass
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://localhost:{self.http.server_port}/keys.json"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def set_of(self, kids):
        algorithm = jwt.get_algorithm_by_name("EdDSA")
        keys = [{**json.loads(algorithm.to_jwk(self.private[k].public_key())), "kid": k, "use": "sig"} for k in kids]
        return json.dumps({"keys": keys}).encode()

    def token(self, kid):
        now = int(time.time())
        claims = {"iss": "https://id.example", "aud": "autoglm", "sub": "someone", "iat": now, "exp": now + 300, "tenant": "gold"}
        return jwt.encode(claims, self.private[kid], algorithm="EdDSA", headers={"kid": kid})

    def __enter__(self):
        return self

    def __exit__(self, *why):
        self.closing.set()
        self.http.shutdown()
        self.http.server_close()


def notes(k):
    return [e["note"] for e in k.s.lines() if e.get("msg") == "keys"]


class AtUrl(unittest.TestCase):
    def test_keys_turn_over(self):
        with Source() as source, Keyed("--jwt-jwks", source.url, *WHO, model="null") as k:
            wait_for("the keys to be fetched", lambda: k.status(source.token("a")) == 200)
            self.assertEqual(k.status("nonsense"), 401)
            source.now = (200, source.set_of("b"))
            wait_for("the new key to be fetched", lambda: k.status(source.token("b")) == 200)  # since it was asked for
            self.assertEqual(k.status(source.token("a")), 401)
            # However many tokens name keys that are not there, the source is asked seldom.
            before, began = source.fetched, time.monotonic()
            for _ in range(300):
                self.assertEqual(k.status(source.token("c")), 401)
            self.assertLessEqual(source.fetched - before, 1 + (time.monotonic() - began) / 5)
            source.now = (200, source.set_of("c"))
            k.s.signal(signal.SIGHUP)
            wait_for("SIGHUP to fetch them", lambda: k.status(source.token("c")) == 200)

    def test_a_source_that_is_away_slow_or_mad_changes_nothing(self):
        with Source() as source, Keyed("--jwt-jwks", source.url, "--jwt-refresh", "1s", *WHO, model="null") as k:
            wait_for("the keys to be fetched", lambda: k.status(source.token("a")) == 200)

            def slow(to):
                while not source.closing.wait(0.05) and source.now[1] is slow:
                    to.write(b" ")

            def huge(to):
                for _ in range(3000):
                    to.write(b" " * 1024)
            times = 0
            for status, answer, word in ((200, b"{}", "no set of keys"), (200, b'{"keys": []}', "no key"), (200, b"\0\xff" * 500, "JSON"),
                                         (500, source.set_of("b"), "500"), (302, source.set_of("b"), "302"), (200, huge, "larger"),
                                         (200, b'{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}', "secret"), (200, slow, "imeout")):
                source.now = (status, answer)
                times += 1
                wait_for(f"'{word}' to be noted", lambda: any(word in n for n in notes(k)))
                self.assertEqual(k.status(source.token("a")), 200)
                self.assertEqual(k.status(source.token("b")), 401)
                source.now = (200, source.set_of("a"))
                wait_for("it to be well again", lambda: sum("again" in n for n in notes(k)) == times)
            source.__exit__()
            wait_for("its absence to be noted", lambda: any("connect" in n for n in notes(k)))
            self.assertEqual(k.status(source.token("a")), 200)

    def test_a_source_that_was_never_there(self):
        with Source() as source:
            source.now = (503, source.set_of("a"))
            with Keyed("--jwt-jwks", source.url, *WHO, model="null") as k:
                wait_for("its absence to be noted", lambda: any("503" in n for n in notes(k)))
                self.assertEqual(k.status(source.token("a")), 503)  # not known to be wrong
                self.assertEqual(k.status("ag-nonsense"), 401)
                source.now = (200, source.set_of("a"))
                wait_for("the keys to be fetched", lambda: k.status(source.token("a")) == 200)


if __name__ == "__main__":
    unittest.main()
