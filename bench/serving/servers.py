"""A server on a free port for as long as it is needed, and what a command took of the processor."""

import contextlib
import os
import re
import resource
import socket
import subprocess
import tempfile
import time
import urllib.request


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class NoServer(Exception):
    """It did not start; the text says why."""


def await_url(url, process, ready_s, log=None):
    """Returns when it answers; where it does not in time, or the process has ended, tells what the log says last."""
    end, direct = time.monotonic() + ready_s, urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        try:
            direct.open(url, timeout=5).close()
            return
        except OSError:
            if process.poll() is None and time.monotonic() < end:
                time.sleep(0.1)
                continue
            said = []
            if log:
                log.seek(0)
                said = log.read().strip().splitlines()
            raise NoServer(f"it did not start: {(said or ['it said nothing'])[-1][-300:]}") from None


@contextlib.contextmanager
def server(command, path, ready_s, environment=None):
    """A server on a free port, ready, and gone at the end. Yields its address and its process."""
    port = free_port()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **(environment or {})},
        )
        try:
            url = f"http://127.0.0.1:{port}"
            await_url(url + path, process, ready_s, log)
            yield url, process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def metrics(url):
    """(name, labels as they are written, value) of each line of what /metrics says."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url + "/metrics", timeout=60) as f:
        lines = f.read().decode().splitlines()
    found = (re.match(r"([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)$", line) for line in lines)
    return [(m[1], m[2] or "", float(m[3])) for m in found if m]


def run_counted(command):
    """(exit status, stdout, processor seconds that it used)"""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, stdout=subprocess.PIPE)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.returncode, done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def version(binary):
    return subprocess.run([binary, "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[0]


def revision(root):
    try:
        said = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty"], capture_output=True, text=True
        )
        return said.stdout.strip() or None
    except OSError:
        return None
