"""32 clients stream for a minute under the thread sanitizer."""
import random
import threading
import time
import unittest

import requests

from server import LIMIT_S, Server, text_of, wait_for


class Threads(unittest.TestCase):
    def test_32_clients_for_a_minute(self):
        with Server("--ctx", "16384", "--loops", "2", "--threads", "2", kind="_TSAN") as s:
            end, errors, done = time.monotonic() + 60, [], []

            def client(i):
                dice = random.Random(i)
                try:
                    while time.monotonic() < end:
                        body = {"prompt": "word " * dice.randrange(1, 80), "max_tokens": dice.randrange(1, 40), "stream": True,
                                "temperature": 1, "seed": i, "ignore_eos": True, "n": dice.choice((1, 1, 2))}
                        if dice.random() < 0.25:
                            with requests.post(s.url + "/v1/completions", json=body, stream=True, timeout=LIMIT_S) as r:
                                for _, line in zip(range(dice.randrange(5)), r.iter_lines()):
                                    pass
                        elif dice.random() < 0.1:
                            s.metrics()
                        else:
                            text_of(s.stream(**body))
                        done.append(1)
                except Exception as e:  # the thread's, told in the test's own
                    errors.append(repr(e))
            threads = [threading.Thread(target=client, args=(i,)) for i in range(32)]
            for t in threads:
                t.start()
            for t in threads:
                t.join(60 + 2 * LIMIT_S)
            self.assertEqual(errors, [])
            self.assertGreater(len(done), 32)
            wait_for("all to be quiet", s.idle)
