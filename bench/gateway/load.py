"""Load by h2load, and what it saw: rates, and the time of every answer."""
import pathlib
import re
import subprocess
import tempfile

import stacks


class Failed(Exception):
    """An answer that was none."""


def quantile(ordered, q):
    return ordered[min(int(q * len(ordered)), len(ordered) - 1)]


def h2load(url, seconds, clients, body=None, key=None, core=None, streams=None):
    """Requests over kept connections: each client asks again when it has its answer; over HTTP/1.1, or where `streams` says so
    over HTTP/2, so many at once on each connection.
    {"clients", "answers", "rate", "p50_us", "p99_us"}"""
    with tempfile.TemporaryDirectory(prefix="autoglm-h2load-") as folder:
        log = pathlib.Path(folder, "log")
        how = ["-m", streams] if streams else ["--h1"]
        command = [stacks.tool("h2load", "nghttp2-client"), *how, "-t", 1, "-c", clients, "-D", seconds, f"--log-file={log}", url]
        if body is not None:
            file = pathlib.Path(folder, "body.json")
            file.write_text(body)
            command += ["-d", file, "-H", "content-type: application/json"]
        if key:
            command += ["-H", f"authorization: Bearer {key}"]
        done = subprocess.run(stacks.pinned(core, command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        lines = [line.split("\t") for line in log.read_text().splitlines()] if log.exists() else []
    failed = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", done.stdout)
    if done.returncode or not lines or failed is None:
        raise Failed("h2load failed: " + done.stdout.strip()[-300:])
    bad = [line[1] for line in lines if not line[1].startswith("2")]
    if bad:
        raise Failed(f"{len(bad)} of {len(lines)} answers were not 2xx, the first {bad[0]}")
    times = sorted(int(line[2]) for line in lines)
    return {"clients": clients, "answers": len(times), "rate": len(times) / seconds, "p50_us": quantile(times, 0.5),
            "p99_us": quantile(times, 0.99)}
