"""Answers that two real servers share through a real Redis, and what becomes of them when it is not well, or lies."""
import concurrent.futures
import contextlib
import itertools
import pathlib
import tempfile
import threading
import unittest

import requests

from certificates import make
from redis_server import Redis, is_there
from server import LIMIT_S, PLAIN, Server, long_model, wait_for

PATH = "/v1/completions"
ON = ("--cache-bytes", "16MiB")
SECRET = {"AUTOGLM_CACHE_SECRET": "of both"}
AWAY = "Redis cannot be used: answers are looked for in this server alone."
AGAIN = "Answers are looked for in Redis again."
STORED = "Answers are stored in Redis again."
DEAF = "Redis takes no answers: they are kept in this server alone."


def asking(prompt="Once upon a time", **more):
    return {"prompt": prompt, "temperature": 0, "max_tokens": 24, **more}


def text(r):
    assert r.status_code == 200, r.text
    return r.json()["choices"][0]["text"]


class Pair:
    """Two servers with one Redis, which is patient unless a test says otherwise."""

    def __init__(self, redis, *flags, url=None, timeout="10s", env=SECRET, model=None):
        flags = (*ON, "--cache-redis", url or redis.url(), "--cache-redis-timeout", timeout, *flags)
        self.stack = contextlib.ExitStack()
        self.redis = redis
        self.servers = [self.stack.enter_context(Server(*flags, env=env, model=model)) for _ in range(2)]

    def __enter__(self):
        return self

    def __exit__(self, *why):
        return self.stack.__exit__(*why)

    def metric(self, name, **labels):
        return sum(s.metric(name, **labels) for s in self.servers)

    def wait_there(self):
        for s in self.servers:
            wait_for("Redis to be there", lambda: s.metric("autoglm_cache_redis_ratio") == 1)

    def stored(self):
        return self.metric("autoglm_cache_redis_stored_total")

    def store(self, body):
        """What the first server says, once the other can find it."""
        before = self.stored()
        said = text(self.servers[0].post(PATH, body))
        wait_for("it to be stored", lambda: self.stored() > before)
        return said

    def computed(self):
        return self.metric("autoglm_cache_requests_total", outcome="miss")


@unittest.skipUnless(is_there(), "redis-server is not installed")
class Shared(unittest.TestCase):
    def test_what_one_computes_the_other_tells(self):
        with Redis() as redis, Pair(redis, url="unix://" + redis.path + "?db=2") as pair:
            pair.wait_there()
            a, b = pair.servers
            for body in (asking(), asking("The sun", logprobs=2), asking(n=2, seed=3, temperature=1)):
                one = a.post(PATH, body)
                self.assertEqual(one.headers["x-cache"], "miss")
                wait_for("it to be stored", lambda: pair.stored() == pair.computed())
                two = b.post(PATH, body)
                self.assertEqual((two.headers["x-cache"], two.json()["choices"]), ("hit", one.json()["choices"]))
                self.assertEqual(two.json()["usage"], one.json()["usage"])
                self.assertGreaterEqual(int(two.headers["age"]), 0)
            self.assertEqual(pair.computed(), 3)
            self.assertEqual(b.metric("autoglm_cache_redis_hits_total"), 3)
            # Told from memory from there on.
            self.assertEqual(b.post(PATH, asking()).headers["x-cache"], "hit")
            self.assertEqual(b.metric("autoglm_cache_redis_hits_total"), 3)

    def test_a_herd_computes_once(self):
        with Redis() as redis, Pair(redis, "--loops", "2", "--cache-redis-lock", "10m") as pair:
            pair.wait_there()
            for i in range(3):
                body = asking(f"A herd of {i}", max_tokens=100, logit_bias=PLAIN)
                with concurrent.futures.ThreadPoolExecutor(50) as pool:
                    urls = [pair.servers[n % 2].url + PATH for n in range(50)]
                    answers = list(pool.map(lambda url: requests.post(url, json=body, timeout=LIMIT_S), urls))
                self.assertEqual(len({text(r) for r in answers}), 1)
                self.assertEqual(pair.computed(), i + 1)
            self.assertGreaterEqual(pair.metric("autoglm_cache_redis_waited_total"), 1)

    def test_one_who_gives_up_leaves_it_to_the_others(self):
        with Redis() as redis, Pair(redis, "--cache-redis-lock", "10m", model="null:rate=50") as pair:
            pair.wait_there()
            a, b = pair.servers
            body = asking("It goes on", max_tokens=400, stream=True)
            first = requests.post(a.url + PATH, json=body, stream=True, timeout=LIMIT_S)
            begun = first.iter_content(1)  # kept: the connection would be closed with it
            next(begun)
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                other = pool.submit(lambda: requests.post(b.url + PATH, json=body, stream=True, timeout=LIMIT_S))
                wait_for("the other to wait", lambda: b.metric("autoglm_cache_redis_waited_total") == 1)
                first.close()
                self.assertEqual(other.result().headers["x-cache"], "miss")  # not a hit: nothing of it was kept
                other.result().close()

    def alone(self, redis, **more):
        """A server beside one that never ends what it computes."""
        return Server("--cache-bytes", "16MiB", "--loops", "1", "--cache-redis", redis.url(), "--cache-redis-timeout", "10s",
                      "--cache-redis-lock", "10m", env=SECRET, **more)

    def lock(self, redis, s, body):
        """Takes the lock of what is asked, as another server does."""
        wait_for("Redis to be there", lambda: s.metric("autoglm_cache_redis_ratio") == 1)
        with requests.post(s.url + PATH, json={**body, "stream": True, "cache": {"mode": "refresh"}}, stream=True, timeout=LIMIT_S) as r:
            name = "autoglm:l:{" + r.headers["x-cache-key"] + "}"
            if not body.get("stream"):  # short: it may be whole before its client leaves, and be stored after the FLUSHALL
                assert r.content
                wait_for("it to be stored", lambda: s.metric("autoglm_cache_redis_stored_total") >= 1)
        wait_for("it to end", s.idle)
        redis.say("FLUSHALL")
        s.session.delete(s.url + "/admin/v1/cache?all=1", timeout=LIMIT_S)
        self.assertEqual(redis.say("SET", name, "another", "PX", 600000), "+OK")
        return name

    def test_nobody_waits_for_longer_than_there_is_time(self):
        with Redis() as redis, self.alone(redis) as s, concurrent.futures.ThreadPoolExecutor(1) as pool:
            body = asking("Who has no time", max_tokens=8)
            self.lock(redis, s, body)
            patient = pool.submit(requests.post, s.url + PATH, json=body, timeout=LIMIT_S)
            wait_for("one to wait", lambda: s.metric("autoglm_cache_redis_waited_total") == 1)
            hurried = s.post(PATH, {**body, "timeout_ms": 4000})
            self.assertEqual((hurried.status_code, hurried.headers["x-cache"]), (200, "miss"))
            self.assertEqual(text(patient.result()), text(hurried))

    def test_all_who_wait_follow_what_is_under_way(self):
        with Redis() as redis, self.alone(redis, model=long_model()) as s, concurrent.futures.ThreadPoolExecutor(2) as pool:
            body = asking("It goes on", max_tokens=100000, logit_bias=PLAIN, stream=True)
            name = self.lock(redis, s, body)
            asked = [pool.submit(requests.post, s.url + PATH, json=body, stream=True, timeout=LIMIT_S) for _ in range(2)]
            wait_for("both to wait", lambda: s.metric("autoglm_cache_redis_waited_total") == 1 and
                     s.metric("autoglm_connections", state="active") >= 2)
            leader = requests.post(s.url + PATH, json={**body, "cache": {"mode": "refresh"}}, stream=True, timeout=LIMIT_S)
            chunks = leader.iter_content(1)  # which ends its connection when it goes
            self.assertTrue(next(chunks))
            self.assertEqual(redis.say("EXISTS", name), ":1")  # it is not its lock that they wait for any longer
            for one in asked:
                r = one.result(LIMIT_S)
                self.assertEqual((r.status_code, r.headers["x-cache"]), (200, "coalesced"))
            for one in asked:
                one.result().close()
            leader.close()
            wait_for("all of it to end", s.idle)

    def test_purges_reach_both(self):
        with Redis() as redis, Pair(redis) as pair:
            pair.wait_there()
            a, b = pair.servers
            body = asking(cache={"mode": "use", "tags": ["tales"]})
            for query in ("?tag=tales", "?all=1", "key"):
                pair.store(body)
                hit = b.post(PATH, body)
                self.assertEqual(hit.headers["x-cache"], "hit")
                where = "/" + hit.headers["x-cache-key"] if query == "key" else query
                r = a.session.delete(a.url + "/admin/v1/cache" + where, timeout=LIMIT_S)
                self.assertEqual(r.status_code, 200, r.text)
                again = a.post(PATH, {**body, "cache": {"mode": "use"}})
                self.assertEqual(again.headers["x-cache"], "miss")
                b.post(PATH, body)
                wait_for("the other to hear of it", lambda: b.get("/admin/v1/cache").json()["purged"] >= 1)
                a.session.delete(a.url + "/admin/v1/cache?all=1", timeout=LIMIT_S)
                wait_for("the other to hear of all", lambda: b.get("/admin/v1/cache").json()["entries"] == 0)

    def test_who_has_no_secret_shares_nothing(self):
        with Redis() as redis:
            with self.assertRaisesRegex(AssertionError, "nothing that --cache-redis could share"):
                Server("--cache-bytes", "0", "--cache-redis", redis.url(), env=SECRET)
            with self.assertRaisesRegex(AssertionError, "AUTOGLM_CACHE_SECRET"):
                Server(*ON, "--cache-redis", redis.url())
            with Server(*ON, "--redis", redis.url()) as s:
                text(s.post(PATH, asking()))
                self.assertEqual(s.metric("autoglm_cache_redis_misses_total"), 0)
            with Server(*ON, "--redis", redis.url(), "--cache-redis", "off", env=SECRET) as s:
                text(s.post(PATH, asking()))
                self.assertEqual(s.metric("autoglm_cache_redis_misses_total"), 0)


class Load:
    """Requests to both servers from many threads, each answer compared with what was said before any harm was done."""

    def __init__(self, pair, threads=4, prompts=25):  # an odd number: each is asked of both servers
        self.pair, self.stop = pair, threading.Event()
        self.bodies = [asking(f"{i} days", max_tokens=6) for i in range(prompts)]
        off = {"cache": {"mode": "off"}}
        self.want = [text(pair.servers[0].post(PATH, {**b, **off})) for b in self.bodies]
        self.done, self.wrong = itertools.count(), []
        self.n = 0
        self.threads = [threading.Thread(target=self.run, args=(i,)) for i in range(threads)]
        for t in self.threads:
            t.start()

    def run(self, thread):
        session = requests.Session()
        session.trust_env = False
        at = thread
        while not self.stop.is_set():
            at += 1
            i = at * 7 % len(self.bodies)
            try:
                said = text(session.post(self.pair.servers[at % 2].url + PATH, json=self.bodies[i], timeout=LIMIT_S))
            except Exception as e:  # pylint: disable=broad-except
                said = repr(e)
            if said != self.want[i]:
                self.wrong.append((self.bodies[i], said))
            self.n = next(self.done)

    def more(self, n=60):
        """So many more were answered."""
        end = self.n + n
        wait_for("more answers", lambda: self.n >= end)

    def end(self):
        self.stop.set()
        for t in self.threads:
            t.join(LIMIT_S)


@unittest.skipUnless(is_there(), "redis-server is not installed")
class Harm(unittest.TestCase):
    def values(self, redis):
        return [k for k in redis.list("KEYS", "autoglm:c:*") if "{" in k]

    def test_no_answer_suffers(self):
        # Answers that are old soon, so that Redis is asked all the time.
        with Redis() as redis, Pair(redis, "--cache-ttl", "1s", "--cache-stale", "0s", timeout="100ms") as pair:
            pair.wait_there()
            load = Load(pair)
            try:
                self.harm(redis, pair, load)
            finally:
                load.end()
            self.assertEqual(load.wrong, [])
            self.assertGreater(pair.metric("autoglm_cache_redis_hits_total"), 0)
            for s in pair.servers:
                self.assertEqual([e for e in s.lines() if e.get("level") == "error"], [])
                notes = [e["note"] for e in s.lines() if e.get("msg") == "cache"]
                self.assertLessEqual({AWAY, AGAIN, DEAF}, set(notes))

    def harm(self, redis, pair, load):
        def hit_again():
            before = pair.metric("autoglm_cache_redis_hits_total")
            wait_for("hits again", lambda: pair.metric("autoglm_cache_redis_hits_total") > before)

        def until_away():
            wait_for("Redis to be given up", lambda: pair.metric("autoglm_cache_redis_ratio") == 0)
            load.more()
        hit_again()
        with self.subTest("it stands still"):
            redis.pause()
            until_away()
            redis.go_on()
            hit_again()
        with self.subTest("it is killed and started again"):
            redis.kill()
            until_away()
            redis.start()
            hit_again()
        with self.subTest("a script that does not end"):
            redis.say("CONFIG", "SET", "busy-reply-threshold", "50")
            busy = threading.Thread(target=redis.say, args=("EVAL", "while true do end", "0"))
            busy.start()
            until_away()
            wait_for("it to be killed", lambda: redis.say("SCRIPT", "KILL").startswith("+OK"))
            busy.join(LIMIT_S)
            hit_again()
        with self.subTest("it is full"):
            redis.say("CONFIG", "SET", "maxmemory", "1")
            wait_for("stores to be dropped", lambda: pair.metric("autoglm_cache_redis_dropped_total") > 0)
            load.more()
            redis.say("CONFIG", "SET", "maxmemory", "0")
            hit_again()
        with self.subTest("it is a replica"):
            redis.say("REPLICAOF", "127.0.0.1", "1")
            load.more()
            redis.say("REPLICAOF", "NO", "ONE")
            hit_again()
        with self.subTest("it forgets scripts, or all"):
            redis.say("SCRIPT", "FLUSH")
            load.more()
            redis.say("FLUSHALL")
            load.more()
            hit_again()
        with self.subTest("values of others, and of other kinds"):
            for harm in (lambda k: redis.say("SET", k, "x" * 500), lambda k: redis.say("SETRANGE", k, 130, "~"),
                         lambda k: (redis.say("DEL", k), redis.say("RPUSH", k, "x"))):
                before = pair.metric("autoglm_cache_redis_foreign_total")

                def noticed():
                    for k in self.values(redis):
                        harm(k)
                    return pair.metric("autoglm_cache_redis_foreign_total") > before
                wait_for("it to be noticed", noticed)
                load.more()
            redis.say("FLUSHALL")
            hit_again()

    def test_who_is_not_let_in_computes(self):
        with Redis("--requirepass", "sesame") as redis:
            with Pair(redis, url=redis.url("wrong")) as pair:
                for s in pair.servers:
                    line = s.wait_line("cache")
                    self.assertIn(line["note"], (AWAY, DEAF))
                    self.assertIn("WRONGPASS", line["reason"])
                    self.assertEqual(s.post(PATH, asking()).headers["x-cache"], "miss")
            with Pair(redis, url=redis.url("sesame")) as pair:
                pair.wait_there()
                pair.store(asking())
                self.assertEqual(pair.servers[1].post(PATH, asking()).headers["x-cache"], "hit")

    def test_addresses_that_are_not_followed(self):
        for url, why in (("redis-sentinel://127.0.0.1/m", "Sentinel"), ("rediss+sentinel://127.0.0.1/m", "Sentinel"),
                         ("memcached://h", "scheme")):
            with self.assertRaisesRegex(AssertionError, why):
                Server(*ON, "--cache-redis", url, env=SECRET)
        with Redis("--cluster-enabled", "yes") as redis, Pair(redis) as pair:
            line = pair.servers[0].wait_line("cache")
            self.assertIn("a node of a Redis Cluster, which is not followed", line["reason"])
            self.assertEqual(pair.servers[0].post(PATH, asking()).headers["x-cache"], "miss")


@unittest.skipUnless(is_there(), "redis-server is not installed")
class OverTls(unittest.TestCase):
    def setUp(self):
        made = tempfile.TemporaryDirectory(prefix="autoglm-rediss-")
        self.addCleanup(made.cleanup)
        folder = pathlib.Path(made.name)
        self.ca, _ = make(folder, "ca", host="authority")
        self.other, _ = make(folder, "other", host="authority")
        self.shown = make(folder, "redis", issuer="ca")

    def redis(self):
        return Redis("--tls-auth-clients", "no", tls=(*self.shown, self.ca))

    def test_what_one_computes_the_other_tells(self):
        with self.redis() as redis, Pair(redis, "--redis-ca", self.ca, url=redis.tls_url()) as pair:
            pair.wait_there()
            for body in (asking(), asking("The sun", max_tokens=200, logprobs=2, logit_bias=PLAIN)):
                said = pair.store(body)
                hit = pair.servers[1].post(PATH, body)
                self.assertEqual((hit.headers["x-cache"], text(hit)), ("hit", said))
            redis.kill()
            wait_for("Redis to be given up", lambda: pair.metric("autoglm_cache_redis_ratio") == 0)
            self.assertEqual(pair.servers[1].post(PATH, asking("Alone")).headers["x-cache"], "miss")
            redis.start()
            pair.wait_there()
            wait_for("answers to be stored again", lambda: all(any(e.get("note") == STORED for e in s.lines()) for s in pair.servers))
            pair.store(asking("Together"))
            self.assertEqual(pair.servers[1].post(PATH, asking("Together")).headers["x-cache"], "hit")

    def test_who_is_not_trusted_is_a_miss(self):
        with self.redis() as redis, Pair(redis, "--redis-ca", self.other, url=redis.tls_url()) as pair:
            for s in pair.servers:
                line = s.wait_line("cache")
                self.assertIn(line["note"], (AWAY, DEAF))
                self.assertIn("its certificate is not taken: ", line["reason"])
                self.assertEqual(s.post(PATH, asking()).headers["x-cache"], "miss")
