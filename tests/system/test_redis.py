"""Limits that two real servers share through a real Redis, and what becomes of them when it is not well."""
import concurrent.futures
import contextlib
import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

from certificates import make
from redis_server import Redis, is_there
from server import LIMIT_S, Keyed, Server, binary, wait_for
from test_hardening import NO_LEAKS, can_sandbox

AWAY = "Redis cannot be used: this server judges alone."
AGAIN = "Limits are shared by Redis again."


class Client:
    """One connection to a server, kept."""

    def __init__(self, server, key):
        self.c = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LIMIT_S)
        self.headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}

    def ask(self, path="/v1/completions", **fields):
        self.c.request("POST", path, json.dumps({"prompt": "Once", "max_tokens": 1, **fields}), self.headers)
        r = self.c.getresponse()
        self.answer, self.got = json.loads(r.read()), r.headers
        return r.status

    def close(self):
        self.c.close()


class Pair:
    """Two servers with one file of keys and one Redis."""

    def __init__(self, url, *flags, model="null", env=None):
        shared = ("--redis", url, "--redis-timeout", "10s", *flags)
        self.stack = contextlib.ExitStack()
        self.k = self.stack.enter_context(Keyed(*shared, model=model, env=env))
        self.servers = [self.k.s, self.stack.enter_context(Server("--keys-db", str(self.k.db), *shared, model=model, env=env))]

    def __enter__(self):
        return self

    def __exit__(self, *why):
        return self.stack.__exit__(*why)

    def wait_shared(self, live=2):
        for s in self.servers:
            wait_for("limits to be shared", lambda: s.metric("autoglm_limits_shared_ratio") == 1)
            wait_for("the other to be counted", lambda: s.metric("autoglm_gateways") == live)

    def key(self, *args):
        return self.make(*args)["key"]

    def make(self, *args):
        made = self.k.key(*(() if "--tenant" in args else ("--tenant", "gold")), *args)
        wait_for("the other to know the key", lambda: self.servers[1].get(
            "/v1/models", headers={"Authorization": f"Bearer {made['key']}"}).status_code == 200)
        return made

    def flood(self, key, threads=4, stop=None):
        """Asks both from many connections until each has been refused; how many were let in, within how long."""
        counts, began = [], time.monotonic()

        def one(server):
            c, n = Client(server, key), {200: 0, 429: 0}
            while n[429] < 3 if stop is None else not stop.is_set():
                status = c.ask()
                n[status] = n.get(status, 0) + 1
            c.close()
            return n
        with concurrent.futures.ThreadPoolExecutor(2 * threads) as pool:
            counts = list(pool.map(one, self.servers * threads))
        total = {}
        for n in counts:
            for status, times in n.items():
                total[status] = total.get(status, 0) + times
        return total, time.monotonic() - began


@unittest.skipUnless(is_there(), "redis-server is not installed")
class Shared(unittest.TestCase):
    def test_two_servers_give_what_one_would(self):
        with Redis() as redis, Pair(redis.url()) as pair:
            pair.wait_shared()
            for limit in (40, 600):
                key = pair.key("--limit-requests-per-minute", limit)
                n, seconds = pair.flood(key)
                self.assertEqual(set(n), {200, 429})
                self.assertGreaterEqual(n[200], limit)
                self.assertLessEqual(n[200], (limit + limit * seconds / 60) * 1.01)
            self.assertEqual([s.metric("autoglm_limits_alone_total") for s in pair.servers], [0, 0])

    def test_each_kind_of_limit(self):
        with Redis() as redis, Pair("unix://" + redis.path + "?db=3", "--redis-prefix", "one:") as pair:
            pair.wait_shared()
            a, b = pair.servers
            key = pair.key("--limit-tokens-per-minute", 20)
            first, second = Client(a, key), Client(b, key)
            began = time.monotonic()
            self.assertEqual(first.ask(max_tokens=6), 200)
            used = first.answer["usage"]["total_tokens"]
            self.assertEqual(first.got["x-ratelimit-limit-tokens"], "20")
            wait_for("the tokens of the answer to be known", lambda: second.ask("/v1/completions", prompt="x" * 30) == 400 and
                     int(second.got["x-ratelimit-remaining-tokens"]) <= 20 - used + (time.monotonic() - began) / 3)
            self.assertEqual(second.answer["error"]["code"], "limit_exceeded")
            self.assertEqual(second.ask(prompt="x" * 19), 429)
            self.assertEqual(second.answer["error"]["code"], "rate_limit_exceeded")
            self.assertIn("tokens a minute: 20", second.answer["error"]["message"])
            self.assertIn("Retry-After", second.got)

            key = pair.key("--limit-tokens-per-month", 9)
            first, second = Client(a, key), Client(b, key)
            self.assertEqual(first.ask(max_tokens=5), 200)
            wait_for("the budget to be used up", lambda: second.ask(max_tokens=1) == 429)
            self.assertEqual(second.answer["error"]["code"], "insufficient_quota")
            self.assertEqual(first.ask(), 429)

            pair.k.keys("limits", "tenant:many", "--limit-requests-per-second", 1, "--limit-burst", 2)
            key = pair.key("--tenant", "many", "--limit-requests-per-minute", 1000)
            wait_for("the limit to be known", lambda: {Client(s, key).ask() for s in (a, b, a, b)} == {200, 429})
            third = Client(b, key)
            wait_for("the tenant's limit to be told", lambda: third.ask() == 429 and "the tenant 'many' (requests a second: 1)" in
                     third.answer["error"]["message"])

    def test_places_in_flight(self):
        with Redis() as redis, Pair(redis.url(), model="null:rate=10") as pair:
            pair.wait_shared()
            a, b = pair.servers
            key = pair.key("--limit-concurrent", 1)
            held = http.client.HTTPConnection("127.0.0.1", a.port, timeout=LIMIT_S)
            body = json.dumps({"prompt": "Once", "max_tokens": 1000, "stream": True, "ignore_eos": True})
            held.request("POST", "/v1/completions", body, {"Content-Type": "application/json", "Authorization": f"Bearer {key}"})
            r = held.getresponse()
            self.assertEqual(r.status, 200)
            r.readline()
            other = Client(b, key)
            self.assertEqual(other.ask(), 429)
            self.assertIn("requests in flight: 1", other.answer["error"]["message"])
            r.close()
            held.close()
            wait_for("the place to be free", lambda: other.ask() == 200)
            # A server that was killed gives back its places when it has been silent for long enough.
            held = http.client.HTTPConnection("127.0.0.1", a.port, timeout=LIMIT_S)
            wait_for("the place to be free here", lambda: Client(a, key).ask() == 200)
            held.request("POST", "/v1/completions", body, {"Content-Type": "application/json", "Authorization": f"Bearer {key}"})
            self.assertEqual(held.getresponse().status, 200)
            self.assertEqual(other.ask(), 429)
            a.process.kill()
            wait_for("the place to be given back", lambda: other.ask() == 200)
            wait_for("the dead to be missed", lambda: b.metric("autoglm_gateways") == 1)

    def test_a_server_that_stops_is_missed_by_the_next_one(self):
        with Redis() as redis, Pair(redis.url()) as pair:
            pair.wait_shared()
            key = pair.key("--limit-tokens-per-minute", 20)
            self.assertEqual(Client(pair.servers[1], key).ask(max_tokens=400), 200)  # beyond the limit: twenty minutes' tokens
            wait_for("them to be counted", lambda: Client(pair.servers[0], key).ask() == 429)
            pair.servers[1].stop()
            with Server("--keys-db", str(pair.k.db), "--redis", redis.url(), "--redis-timeout", "10s", model="null") as anew:
                wait_for("limits to be shared", lambda: anew.metric("autoglm_limits_shared_ratio") == 1)
                self.assertEqual(Client(anew, key).ask(), 429)  # what was used is remembered


@unittest.skipUnless(is_there(), "redis-server is not installed")
class Unwell(unittest.TestCase):
    """Whatever Redis does, requests are let in or told of their limit."""

    def limits_hold(self, pair, limit=60):
        """Alone, each keeps its half."""
        key = pair.key("--limit-requests-per-minute", limit)
        n, seconds = pair.flood(key)
        self.assertEqual(set(n), {200, 429})
        self.assertLessEqual(n[200], (limit + limit * seconds / 60) * 1.01 + 2)
        self.assertGreaterEqual(n[200], limit - 1)
        c = Client(pair.servers[0], key)
        wait_for("a refusal", lambda: c.ask() == 429)  # a token comes back every second or two
        self.assertEqual(c.got["x-ratelimit-limit-requests"], str(limit))

    def note(self, pair, text, times=1):
        for s in pair.servers:
            wait_for(text, lambda: sum(e.get("note") == text for e in s.lines()) >= times)
            self.assertEqual(sum(e.get("note") == text for e in s.lines()), times, s.lines())

    def under_load(self, pair, trouble):
        key = pair.key("--limit-requests-per-second", 1000)
        stop = threading.Event()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            load = pool.submit(pair.flood, key, 2, stop)
            try:
                trouble()
            finally:
                stop.set()
            n, _ = load.result()
        self.assertLessEqual(set(n), {200, 429})
        self.assertGreater(n[200], 0)

    def test_stopped_killed_and_flushed_under_load(self):
        with Redis() as redis, Pair(redis.url(), "--redis-timeout", "5s") as pair:
            pair.wait_shared()

            def trouble():
                redis.pause()
                self.note(pair, AWAY)
                redis.go_on()
                self.note(pair, AGAIN)
                redis.say("SCRIPT", "FLUSH")
                before = [s.metric("autoglm_limits_asked_total") for s in pair.servers]
                for s, n in zip(pair.servers, before):
                    wait_for("the script to be there again", lambda: s.metric("autoglm_limits_asked_total") > n + 10)
                redis.kill()
                self.note(pair, AWAY, 2)
                for s in pair.servers:
                    self.assertGreater(s.metric("autoglm_limits_alone_total"), 0)
                redis.start()
                self.note(pair, AGAIN, 2)
            self.under_load(pair, trouble)
            redis.kill()
            self.note(pair, AWAY, 3)
            self.assertEqual([s.metric("autoglm_gateways") for s in pair.servers], [2, 2])
            self.limits_hold(pair)
            redis.start()
            self.note(pair, AGAIN, 3)
            pair.wait_shared()
            self.limits_hold(pair)

    def test_full(self):
        with Redis() as redis, Pair(redis.url()) as pair:
            pair.wait_shared()

            def trouble():
                self.assertEqual(redis.say("CONFIG", "SET", "maxmemory", "1"), "+OK")
                self.note(pair, AWAY)
            self.under_load(pair, trouble)
            self.assertIn("OOM", next(e["reason"] for e in pair.servers[0].lines() if e.get("note") == AWAY))
            self.limits_hold(pair)
            redis.say("CONFIG", "SET", "maxmemory", "0")
            self.note(pair, AGAIN)

    def test_a_replica_that_takes_no_writes(self):
        with Redis() as redis, Pair(redis.url()) as pair:
            pair.wait_shared()

            def trouble():
                self.assertEqual(redis.say("REPLICAOF", "127.0.0.1", "1"), "+OK")
                self.note(pair, AWAY)
            self.under_load(pair, trouble)
            self.limits_hold(pair)
            redis.say("REPLICAOF", "NO", "ONE")
            self.note(pair, AGAIN)

    def test_passwords(self):
        secret = "b:o/%@x"
        with Redis("--requirepass", secret) as redis:
            for env, flags in (({"AUTOGLM_REDIS_PASSWORD": "sesame-7"}, ()), ({}, ())):
                with Pair(redis.url(), *flags, env=env) as pair:
                    self.note(pair, AWAY)
                    for s in pair.servers:
                        self.assertNotIn("sesame", s.tail())
                    key = pair.key("--limit-requests-per-minute", 2)
                    self.assertEqual([Client(pair.servers[0], key).ask() for _ in range(3)], [200, 200, 429])
            with Pair(redis.url(), env={"AUTOGLM_REDIS_PASSWORD": secret}) as pair:
                pair.wait_shared()
            with Pair(redis.url("b%3Ao%2F%25%40x")) as pair:
                pair.wait_shared()
                with open(os.path.join(pair.k.dir.name, "password"), "w", encoding="ascii") as f:
                    f.write(secret + "\n")
                with Server("--keys-db", str(pair.k.db), "--redis", redis.url(), "--redis-password-file", f.name,
                            model="null") as third:
                    wait_for("limits to be shared", lambda: third.metric("autoglm_limits_shared_ratio") == 1)
                    self.assertNotIn(secret.encode(), pathlib.Path(f"/proc/{third.process.pid}/cmdline").read_bytes())

    def test_something_else_lies_under_our_key(self):
        with Redis() as redis, Pair(redis.url()) as pair:
            pair.wait_shared()
            made = pair.make("--limit-requests-per-minute", 10)
            key = made["key"]
            redis.say("SET", f"autoglm:key:{made['id']}", "not a hash")
            c = Client(pair.servers[0], key)
            self.assertEqual([c.ask() for _ in range(8)], [200] * 5 + [429] * 3)  # its half
            self.assertEqual(pair.servers[0].metric("autoglm_limits_shared_ratio"), 1)  # others are not touched by it
            redis.say("DEL", f"autoglm:key:{made['id']}")
            self.assertEqual(c.ask(), 200)
            for text in ("nan", "inf", "-inf", "1e308", "zz"):
                redis.say("HSET", f"autoglm:key:{made['id']}", "m", text)
                self.assertIn(c.ask(), (200, 429))
            redis.say("SET", "autoglm:gateways", "not a set")
            self.assertIn(c.ask(), (200, 429))
            redis.say("CLIENT", "KILL", "TYPE", "normal")
            self.note(pair, AWAY)
            redis.say("DEL", "autoglm:gateways")
            self.note(pair, AGAIN)

    def test_it_talks_nonsense(self):
        nonsense = [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"+OK\r\n" * 50, b"*1000000000\r\n", b"$536870912\r\n" + b"x" * 300000,
                    b":1\r\n:1\r\n:1\r\n", b"*-5\r\n", b"$-9\r\n", b"*11\r\n" + b":99999999999999999999\r\n" * 11, b"\0" * 100,
                    (b"*100\r\n" * 7) * 5000, b"*11\r\n" + b":-1\r\n" * 11, b"*12\r\n" + b":7\r\n" * 12, b""]
        with socket.create_server(("127.0.0.1", 0)) as fake:
            port, at, ended = fake.getsockname()[1], [0], [False]

            def serve():
                while not ended[0]:
                    try:
                        c, _ = fake.accept()
                    except OSError:
                        return
                    with c, contextlib.suppress(OSError):
                        c.settimeout(LIMIT_S)
                        for answer in (b":1\r\n", b":1\r\n", nonsense[at[0] % len(nonsense)]):  # it begins well
                            c.recv(65536)
                            c.sendall(answer)
                        at[0] += 1
                        while c.recv(65536):
                            pass
            threading.Thread(target=serve, daemon=True).start()
            with Keyed("--redis", f"redis://127.0.0.1:{port}", "--redis-timeout", "100ms", model="null") as k:
                key = k.key("--tenant", "gold", "--limit-requests-per-minute", 1000000)["key"]
                c = Client(k.s, key)
                while at[0] < len(nonsense):
                    self.assertEqual(c.ask(), 200)
                ended[0] = True
                fake.close()

    def test_settings_that_will_not_do(self):
        for url, word in (("http://x", "another scheme"), ("rediss+sentinel://x", "Sentinel"), ("redis://", "host"),
                          ("rediss://:6379", "host"), ("redis://h:0", "port"),
                          ("redis://h:70000", "port"), ("redis://h/x", "database"), ("redis://secret@h", "colon"),
                          ("unix://rel", "absolute"), ("unix:///p?x=1", "db=N"), ("redis://[::1", "']'")):
            done = subprocess.run([binary(), "serve", "-m", "null", "--port", "0", "--keys-db", "/tmp/none.db", "--redis", url],
                                  capture_output=True, text=True, timeout=LIMIT_S)
            self.assertIn(done.returncode, (1, 2), done.stderr)
            self.assertIn(word, done.stderr)
            self.assertNotIn("secret", done.stderr)


@unittest.skipUnless(is_there(), "redis-server is not installed")
class OverTls(unittest.TestCase):
    def setUp(self):
        made = tempfile.TemporaryDirectory(prefix="autoglm-rediss-")
        self.addCleanup(made.cleanup)
        folder = pathlib.Path(made.name)
        (folder / "certs").mkdir()
        self.folder = folder / "certs"
        self.ca, _ = make(self.folder, "ca", host="authority")
        self.other, _ = make(self.folder, "other", host="authority")
        self.shown = make(self.folder, "redis", issuer="ca")
        self.own = make(self.folder, "gateway", host="someone", issuer="ca")
        self.knows = ("--redis-ca", self.ca, "--redis-cert", self.own[0], "--redis-key", self.own[1])

    def redis(self, *flags):
        return Redis(*flags, tls=(*self.shown, self.ca))

    def note(self, pair, text, times):
        for s in pair.servers:
            wait_for(text, lambda: sum(e.get("note") == text for e in s.lines()) >= times)
            self.assertEqual(sum(e.get("note") == text for e in s.lines()), times, s.lines())

    def test_two_servers_give_what_one_would(self):
        with self.redis() as redis, Pair(redis.tls_url(), *self.knows) as pair:
            pair.wait_shared()
            key = pair.key("--limit-requests-per-minute", 40)
            n, seconds = pair.flood(key)
            self.assertEqual(set(n), {200, 429})
            self.assertGreaterEqual(n[200], 40)
            self.assertLessEqual(n[200], (40 + 40 * seconds / 60) * 1.01)
            self.assertEqual([s.metric("autoglm_limits_alone_total") for s in pair.servers], [0, 0])
            redis.kill()
            self.note(pair, AWAY, 1)
            self.assertIn(Client(pair.servers[0], key).ask(), (200, 429))
            redis.start()
            self.note(pair, AGAIN, 1)
            pair.wait_shared()

    def test_who_is_not_trusted_is_away(self):
        with self.redis() as redis:
            for url, flags, why in ((redis.tls_url(), ("--redis-ca", self.other), "its certificate is not taken: "),
                                    (redis.tls_url(), (), "its certificate is not taken: "),
                                    (redis.tls_url(), ("--redis-ca", self.ca), "certificate required"),
                                    (f"rediss://localhost:{redis.port}", self.knows, "TLS handshake")):
                with self.subTest(url=url, flags=flags), Pair(url, *flags) as pair:
                    self.note(pair, AWAY, 1)
                    for s in pair.servers:
                        reason = next(e["reason"] for e in s.lines() if e.get("note") == AWAY)
                        self.assertIn(why, reason)
                    key = pair.key("--limit-requests-per-minute", 2)
                    self.assertEqual([Client(pair.servers[0], key).ask() for _ in range(3)], [200, 200, 429])
                    self.note(pair, AWAY, 1)

    def test_a_sandbox_leaves_open_what_it_reads(self):
        if not can_sandbox():
            self.skipTest("this kernel has no Landlock or no seccomp")
        with self.redis() as redis, Pair(redis.tls_url(), *self.knows, "--sandbox", env=NO_LEAKS) as pair:
            pair.wait_shared()
            redis.kill()
            self.note(pair, AWAY, 1)
            redis.start()
            pair.wait_shared()
        with self.redis("--tls-auth-clients", "no") as redis, Pair(redis.tls_url(), "--sandbox", env=NO_LEAKS) as pair:
            self.note(pair, AWAY, 1)  # by the system's authorities, which were read
            reason = next(e["reason"] for e in pair.servers[0].lines() if e.get("note") == AWAY)
            self.assertIn("its certificate is not taken", reason)

    def test_files_that_will_not_do(self):
        for flags, word in ((("--redis-ca", "/nowhere/ca.pem"), "/nowhere/ca.pem cannot be read: No such file"),
                            (("--redis-ca", self.own[1]), "holds no certificates of authorities"),
                            (("--redis-cert", self.own[0]), "without its key"),
                            (("--redis-cert", self.own[0], "--redis-key", self.shown[1]), "does not belong to the certificate")):
            for which in (("--keys-db", str(self.folder / "keys.db"), "--redis"), ("--cache-bytes", "16MiB", "--cache-redis")):
                done = subprocess.run([binary(), "serve", "-m", "null", "--port", "0", *which, "rediss://localhost", *flags],
                                      capture_output=True, text=True, timeout=LIMIT_S,
                                      env={**os.environ, "AUTOGLM_CACHE_SECRET": "of both"})
                self.assertIn(done.returncode, (1, 2), done.stderr)
                self.assertIn(word, done.stderr)


if __name__ == "__main__":
    unittest.main()
