"""The machine that is measured: what it is, who uses it, and waiting until nobody does."""
import os
import pathlib
import platform
import re
import sys
import time

QUIET = 0.05  # share of the machine that others may use when a measurement begins


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


def busy():
    """(seconds of all processors in use, also by the machine's host; seconds in all)"""
    v = [int(x) / os.sysconf("SC_CLK_TCK") for x in open("/proc/stat").readline().split()[1:9]]
    return sum(v) - v[3] - v[4], sum(v)


class Patience:
    """Waits for a quiet machine, so many seconds in all."""

    def __init__(self, wait_s):
        self.left_s, self.told = wait_s, False

    def wait(self):
        while self.left_s > 0:
            before = busy()
            time.sleep(0.3)
            after = busy()
            if (after[0] - before[0]) / max(after[1] - before[1], 0.01) <= QUIET:
                return
            if not self.told:
                say(f"  other work is running: waiting (at most {self.left_s:.0f} s in all)")
                self.told = True
            self.left_s -= 0.3


def cpu_seconds(pid):
    """What a process and all that descend from it have used, those that ended included."""
    used, children = {}, {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            v = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        used[int(path.parent.name)] = sum(int(x) for x in v[11:15]) / os.sysconf("SC_CLK_TCK")
        children.setdefault(int(v[1]), []).append(int(path.parent.name))
    total, todo = 0.0, [pid]
    while todo:
        at = todo.pop()
        total += used.get(at, 0.0)
        todo += children.get(at, [])
    return total


class Watch:
    """What others take of the machine inside `with`: all but this process and those that descend from it."""

    def __init__(self, used=0.0, all_=0.0):
        self.used, self.all = used, all_

    def __enter__(self):
        self.before = (*busy(), cpu_seconds(os.getpid()))

    def __exit__(self, *_):
        used, all_ = busy()
        mine = cpu_seconds(os.getpid())
        self.used += max(0.0, used - self.before[0] - (mine - self.before[2]))
        self.all += all_ - self.before[1]

    def others(self):
        return self.used / max(self.all, 0.01)
