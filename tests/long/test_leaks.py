"""Memory after 10,000 requests, a third of them cut off by the client, is where it was after 1,000."""
import random
import threading
import unittest

import requests

from server import LIMIT_S, Server, wait_for


class Leaks(unittest.TestCase):
    def test_10000_requests(self):
        # A KV cache within one huge page: a larger one is touched page by page as callers happen to meet, 2 MiB at a time.
        with Server("--ctx", "2048", "--loops", "1", kind="_RELEASE") as s:
            dice = random.Random(1)
            kinds = [dice.random() for _ in range(10_000)]

            def one(session, kind):
                body = {"prompt": "Once upon a time", "max_tokens": 8, "ignore_eos": True}
                if kind < 1 / 3:  # cut off
                    with requests.post(s.url + "/v1/completions", json={**body, "max_tokens": 500, "stream": True}, stream=True,
                                       timeout=LIMIT_S) as r:
                        next(r.iter_lines())
                elif kind < 0.5:
                    session.post(s.url + "/v1/chat/completions", json={"messages": [{"role": "user", "content": "x"}], "max_tokens": 4},
                                 timeout=LIMIT_S)
                elif kind < 0.6:
                    session.post(s.url + "/v1/completions", json={"prompt": 5}, timeout=LIMIT_S)
                elif kind < 0.7:
                    session.post(s.url + "/v1/completions", json={**body, "n": 3, "logprobs": 5}, timeout=LIMIT_S)
                elif kind < 0.75:
                    session.get(s.url + "/metrics", timeout=LIMIT_S)
                else:
                    session.post(s.url + "/v1/completions", json=body, timeout=LIMIT_S)

            def batch(todo):
                def client(part):
                    with requests.Session() as session:
                        for kind in part:
                            one(session, kind)
                threads = [threading.Thread(target=client, args=(todo[i::8],)) for i in range(8)]
                for t in threads:
                    t.start()
                for t in threads:
                    t.join(LIMIT_S * 10)
                wait_for("all to be quiet", s.idle)
                return s.rss_kib()
            first = batch(kinds[:1000])
            second = batch(kinds[1000:])
            self.assertLess(second, first * 1.05 + 1024, f"{first} KiB after 1,000 requests, {second} KiB after 10,000")
