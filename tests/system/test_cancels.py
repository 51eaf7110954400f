"""Requests given up in every way and at any moment leave nothing behind, and change nothing of others' answers."""
import asyncio
import collections
import os
import pathlib
import random
import sys
import unittest

from server import PLAIN, Server, wait_for

BENCH = pathlib.Path(__file__).resolve().parent.parent.parent / "bench"
sys.path += [str(BENCH / "serving"), str(BENCH / "queue")]  # servers.py, which client.py needs; client.py
import client  # noqa: E402

AT_ONCE = 32
TOKENS = 24
# More than runs, less than waits; pages for a few of them only, so that some are set back.
FLAGS = ("--ctx", "1024", "--max-running", "8", "--queue-max", str(4 * AT_ONCE), "--loops", "2")
ENDS = {"whole": {200}, "amid": {200}, "early": {200, None}, "by id": {200, 499, None}, "deadline": {200, 503, 504}}


def body(i):
    """A request whose answer is to be the same whatever goes on around it."""
    return {"prompt": client.words(("cancels", i), 2 + 3 * i), "max_tokens": TOKENS, "ignore_eos": True, "temperature": 0.8,
            "seed": i, "logit_bias": PLAIN}


async def given_up(url, asked, headers, name, way, dice):
    """One request and the end of it, by its client or by its deadline; what came of it."""
    answer = client.Answer()
    if way == "amid":
        return await client.ask(url, asked, answer, headers, enough=dice.randint(1, TOKENS - 1))
    if way == "deadline":
        return await client.ask(url, {**asked, "timeout_ms": dice.choice((1, 10, 100, 1000))}, answer, headers)
    task = asyncio.create_task(client.ask(url, asked, answer, headers))
    if way != "whole":
        await asyncio.wait([task], timeout=dice.expovariate(1 / 0.05))  # at any moment
    if way == "by id":
        status = await client.delete(url, name)
        assert status in (200, 404), status
    elif way == "early":
        task.cancel()
    await asyncio.wait([task])
    return answer


class Storm:
    """What a server is put through; `got` counts what became of requests, `wrong` says what should not have."""

    def __init__(self, server, kinds=16):
        self.s, self.got, self.wrong, self.numbers = server, collections.Counter(), [], 0
        self.alone = [server.complete(**body(i))["choices"][0]["text"] for i in range(kinds)]

    async def one(self, number):
        dice = random.Random(number)
        i, way, name = dice.randrange(len(self.alone)), dice.choice(list(ENDS)), f"cancel-{number}"
        asked = {**body(i), "priority": dice.randrange(4)}
        answer = await given_up(self.s.url, asked, {"x-request-id": name}, name, way, dice)
        self.got[way, answer.status] += 1
        right = answer.text == self.alone[i] if way == "whole" else self.alone[i].startswith(answer.text)
        if not right or answer.status not in ENDS[way] or (way == "whole" and not answer.whole()):
            self.wrong.append(f"request {number}, {way}: {answer.status}, {answer.error}, {answer.text!r}")

    async def many(self, count):
        numbers = iter(range(self.numbers, self.numbers + count))
        self.numbers += count

        async def worker():
            for number in numbers:
                await self.one(number)
        await asyncio.gather(*(worker() for _ in range(AT_ONCE)))

    def put_through(self, test, count):
        """So many requests; nothing is left of them, and who stayed has what it should."""
        asyncio.run(self.many(count))
        test.assertEqual(self.wrong, [])
        wait_for("all to be quiet", self.s.idle)
        wait_for("only who asks to be connected", lambda: self.s.metric("autoglm_connections_open") == 1)
        test.assertEqual(self.s.metric("autoglm_kv_pages_used"), 0)
        test.assertEqual(self.s.metric("autoglm_kv_pages_free") + self.s.metric("autoglm_kv_pages_kept"),
                         self.s.metric("autoglm_kv_pages"))
        test.assertEqual(self.s.metric("autoglm_queue_bytes") + self.s.metric("autoglm_queue_tokens"), 0)

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.s.process.pid}/fd"))

    def check_all_met(self, test):
        """Each way came to an end of its own now and then, and some were set back."""
        for seen in (("whole", 200), ("amid", 200), ("early", None), ("by id", 499), ("deadline", 504)):
            test.assertGreater(self.got[seen], 0, self.got)
        test.assertGreater(self.s.metric("autoglm_preemptions_total"), 0)
        test.assertEqual([self.s.complete(**body(i))["choices"][0]["text"] for i in range(len(self.alone))], self.alone)


class Cancels(unittest.TestCase):
    def through(self, first, rest, **more):
        """Memory, after `first` requests and after the rest."""
        with Server(*FLAGS, **more) as s:
            storm = Storm(s)
            storm.put_through(self, first)
            descriptors, rss = storm.descriptors(), s.rss_kib()
            storm.put_through(self, rest)
            wait_for("its descriptors to be as before", lambda: storm.descriptors() <= descriptors)
            after = s.rss_kib()
            storm.check_all_met(self)
            return rss, after

    def test_1000_requests_with_sanitizers(self):
        self.through(100, 900)

    def test_10000_requests(self):
        before, after = self.through(1000, 9000, kind="_RELEASE")
        self.assertLess(after, before * 1.05 + 1024, f"{before} KiB after 1,000 requests, {after} KiB after 10,000")


if __name__ == "__main__":
    unittest.main()
