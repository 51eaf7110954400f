"""The share of their time that compute threads computed: ours say so themselves, others are looked at by perf.

Waiting counts for nothing, whether asleep or spinning at a barrier: in the peer's program that is OpenMP's library, and functions
named after barriers.
"""
import re
import shutil
import subprocess
import tempfile
import time

import servers

HZ = 199
WAITING = re.compile(r"barrier|gomp_|sched_yield|futex|pause", re.I)


def figures(url):
    """What its threads computed, in seconds, and requests by what became of them at the response cache."""
    found = {"busy": 0.0}
    for name, labels, value in servers.metrics(url):
        if name == "autoglm_compute_busy_seconds_total":
            found["busy"] += value
        elif name == "autoglm_cache_requests_total":
            found[labels.split('"')[1]] = value
    return found


class Busy:
    """Inside `with`. `share`: None where it cannot be told. `hits`: of the response cache, by requests that it was asked for."""

    def __init__(self, url, pid, threads, ours):
        self.url, self.pid, self.threads, self.ours = url, pid, threads, ours
        self.share = self.hits = self.perf = None

    def __enter__(self):
        self.began = time.monotonic()
        if self.ours:
            self.before = figures(self.url)
        elif shutil.which("perf"):
            self.data = tempfile.NamedTemporaryFile(prefix="autoglm-perf-")
            self.perf = subprocess.Popen(["perf", "record", "-q", "-e", "cpu-clock", "-F", str(HZ), "-p", str(self.pid), "-o",
                                          self.data.name], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return self

    def __exit__(self, kind, *_):
        took = time.monotonic() - self.began
        if self.perf:
            self.perf.terminate()
            self.perf.wait()
        if kind:
            return
        if self.ours:
            after = {k: v - self.before.get(k, 0) for k, v in figures(self.url).items()}
            self.share = after.pop("busy") / took / self.threads
            asked = sum(after.values())
            self.hits = sum(after.get(fate, 0) for fate in ("hit", "stale", "coalesced")) / asked if asked else None
        elif self.perf:
            said = subprocess.run(["perf", "script", "-i", self.data.name, "-F", "ip,sym,dso"], stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, text=True)
            lines = said.stdout.splitlines()
            busy = sum(1 for line in lines if "kernel" not in line and not WAITING.search(line))
            self.share = busy / HZ / took / self.threads if lines else None
