"""A server on a free port for as long as it is needed, and what processes use of the machine meanwhile."""

import contextlib
import os
import pathlib
import resource
import socket
import subprocess
import tempfile
import time
import urllib.request

from machine import Patience


class Watch:
    """What others take of the machine inside `with`; every process of ours must begin and end in there."""

    def __init__(self):
        self.used = self.all = 0.0

    @staticmethod
    def ours():
        t = os.times()
        return t.user + t.system + t.children_user + t.children_system

    def __enter__(self):
        self.before = (*Patience.busy(), self.ours())

    def __exit__(self, *_):
        busy, all_, ours = self.before
        now = Patience.busy()
        self.used += max(0.0, now[0] - busy - (self.ours() - ours))
        self.all += now[1] - all_

    def others(self):
        return self.used / max(self.all, 0.01)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class NoServer(Exception):
    """It did not start; the text says why."""


@contextlib.contextmanager
def server(name, command, path, ready_s, environment=None):
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
            url, end = f"http://127.0.0.1:{port}", time.monotonic() + ready_s
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            while True:
                try:
                    direct.open(url + path, timeout=5).close()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > end:
                        log.seek(0)
                        raise NoServer(f"{name} did not start: {log.read()[-2000:]}") from None
                    time.sleep(0.1)
            yield url, process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def cpu_seconds(pid):
    """What a process and all that descend from it have used."""
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
