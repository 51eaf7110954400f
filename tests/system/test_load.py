"""Many at once: everyone gets the answer that they would get alone, and nothing is left behind."""
import random
import threading
import unittest

import requests

from server import LIMIT_S, Server, text_of, wait_for

PROMPTS = ["Once upon a time", "The little dog", "One day, a girl named Sue", "Tim and his mom", "word " * 40, "a" * 300, "请解释", "?"]


class Load(unittest.TestCase):
    def test_32_streams_at_once(self):
        with Server("--ctx", "16384", "--loops", "2") as s:
            asks = [dict(prompt=PROMPTS[i % len(PROMPTS)], max_tokens=24, temperature=1, seed=i // len(PROMPTS), ignore_eos=True)
                    for i in range(32)]
            alone = [s.complete(**a)["choices"][0]["text"] for a in asks]
            together, start = [None] * 32, threading.Barrier(32)

            def one(i):
                start.wait()
                together[i] = text_of(s.stream(**asks[i])).get(0)
            threads = [threading.Thread(target=one, args=(i,)) for i in range(32)]
            for t in threads:
                t.start()
            for t in threads:
                t.join(LIMIT_S)
            self.assertEqual(together, alone)
            wait_for("all to be quiet", s.idle)
            self.assertEqual(s.metric("autoglm_output_tokens_total"), 2 * 32 * 24)

    def test_a_cache_too_small_for_all(self):
        """More sequences than pages: some wait or are set back, and nobody's answer changes."""
        with Server("--ctx", "1024", "--max-running", "16") as s:
            asks = [dict(prompt=PROMPTS[i % 4] * 4, max_tokens=100, temperature=1, seed=i, ignore_eos=True) for i in range(16)]
            alone = [s.complete(**a)["choices"][0]["text"] for a in asks]
            got = [None] * 16

            def one(i):
                got[i] = s.complete(**asks[i])["choices"][0]["text"]
            threads = [threading.Thread(target=one, args=(i,)) for i in range(16)]
            for t in threads:
                t.start()
            for t in threads:
                t.join(LIMIT_S)
            self.assertEqual(got, alone)

    def test_half_of_them_leave(self):
        with Server("--ctx", "16384") as s:
            want = s.complete(PROMPTS[0], max_tokens=60, ignore_eos=True)["choices"][0]["text"]
            got, dice = [], random.Random(1)

            def stay():
                got.append(text_of(s.stream(prompt=PROMPTS[0], max_tokens=60, temperature=0, ignore_eos=True))[0])

            def leave(after):
                body = {"prompt": PROMPTS[1], "max_tokens": 200, "ignore_eos": True, "stream": True}
                with requests.post(s.url + "/v1/completions", json=body, stream=True, timeout=LIMIT_S) as r:
                    for _, line in zip(range(after), r.iter_lines()):
                        pass
            threads = [threading.Thread(target=stay) if i % 2 else threading.Thread(target=leave, args=(dice.randrange(6),)) for i in range(24)]
            for t in threads:
                t.start()
            for t in threads:
                t.join(LIMIT_S)
            self.assertEqual(got, [want] * 12)
            wait_for("all to be quiet", s.idle)
