"""Commands with their n-th allocation, open, read or mapping failing, for every n: right, or failed for a reason."""
import os
import re
import subprocess
import unittest

from server import LIMIT_S, REPORTS, binary, tiny_model

POINTS_MAX = 400  # of one kind; where a command has more, every k-th of them


class Faults(unittest.TestCase):
    def attempt(self, args, kind, n, text):
        done = subprocess.run([binary(), *args], input=text, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=LIMIT_S,
                              env={**os.environ, "AUTOGLM_FAULT": f"{kind}:{n}"})
        self.assertIn(done.returncode, (0, 1), (kind, n, done.stderr))
        for word in REPORTS:
            self.assertNotIn(word, done.stderr, f"{kind}:{n} {args}")
        return done

    def loop(self, args, text=""):
        want = subprocess.run([binary(), *args], input=text, stdout=subprocess.PIPE, text=True, timeout=LIMIT_S).stdout
        for kind in ("alloc", "open", "read", "mmap", "thread"):
            last = 1  # how many points there are: doubled until one is not reached, then stepped through
            while "fault: fired" in self.attempt(args, kind, last, text).stderr:
                last *= 2
            for n in range(1, last, max(1, last // POINTS_MAX)):
                done = self.attempt(args, kind, n, text)
                if done.returncode == 0:
                    self.assertEqual(re.sub(r'_ms":[0-9.]+', "", done.stdout), re.sub(r'_ms":[0-9.]+', "", want), (kind, n))
                else:
                    self.assertRegex(done.stderr, r"autoglm", (kind, n))

    def test_inspect(self):
        self.loop(["inspect", tiny_model(), "--json"])

    def test_tokenize(self):
        self.loop(["tokenize", "-m", tiny_model(), "Once upon a time"])

    def test_run(self):
        self.loop(["run", tiny_model(), "Once upon a time", "--raw", "-t", "0", "-n", "3", "--ctx", "256", "--threads", "2", "--json"])
