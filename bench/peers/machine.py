"""The machine that is measured: what it is, who uses it, and waiting until nobody does."""
import os
import pathlib
import platform
import re
import sys
import time

QUIET = 0.05  # share of the machine that others may use while we measure


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def cpu_flags():
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    return found.group(1).split() if found else []


def about():
    text = pathlib.Path("/proc/cpuinfo").read_text()
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.M)
    wanted = re.compile(r"avx|fma$|f16c|amx|sse4|asimd|i8mm|bf16|sve")
    return {"processor": name.group(1) if name else platform.machine(), "cores": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "kernel": platform.release(), "flags": [f for f in cpu_flags() if wanted.match(f)],
            "amx": "amx_int8" in cpu_flags()}


def available_bytes():
    return int(re.search(r"MemAvailable:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text()).group(1)) * 1024


class Patience:
    """Waits for a quiet machine, so many seconds in all, and keeps count of what others took anyway."""

    def __init__(self, wait_s):
        self.left_s, self.waited, self.told = wait_s, wait_s > 0, False
        self.used, self.all = 0.0, 0.0

    @staticmethod
    def busy():
        """(seconds of all processors in use, seconds in all)"""
        v = [int(x) / os.sysconf("SC_CLK_TCK") for x in open("/proc/stat").readline().split()[1:9]]
        return sum(v) - v[3] - v[4], sum(v)

    def wait(self):
        while self.left_s > 0:
            before = self.busy()
            time.sleep(0.3)
            after = self.busy()
            share = (after[0] - before[0]) / max(after[1] - before[1], 0.01)
            self.used, self.all = self.used + after[0] - before[0], self.all + after[1] - before[1]
            if share <= QUIET:
                return
            if not self.told:
                say(f"  other work is running: waiting (at most {self.left_s:.0f} s in all)")
                self.told = True
            time.sleep(1.7)
            self.left_s -= 2

    def gone(self):
        return self.waited and self.left_s <= 0
