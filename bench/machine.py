"""What the benchmarks share: the machine they run on, a free port, a server for as long as it is needed."""
import contextlib
import os
import pathlib
import platform
import re
import resource
import socket
import subprocess
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
QUIET = 0.05  # share of the machine that others may use while we measure


class Machine:
    """Who uses the processors."""

    def __init__(self, wait_s, say):
        self.left_s, self.say, self.used, self.all = wait_s, say, 0.0, 0.0

    @staticmethod
    def busy():
        """(seconds of all processors in use, seconds in all)"""
        v = [int(x) / os.sysconf("SC_CLK_TCK") for x in open("/proc/stat").readline().split()[1:9]]
        return sum(v) - v[3] - v[4], sum(v)

    @staticmethod
    def ours():
        t = os.times()
        return t.user + t.system + t.children_user + t.children_system

    def wait(self):
        """Until others leave the machine alone, as long as there is patience left."""
        told = False
        while self.left_s > 0:
            before = self.busy()
            time.sleep(0.5)
            after = self.busy()
            if after[0] - before[0] <= QUIET * max(after[1] - before[1], 0.01):
                return
            if not told:
                self.say(f"  other work is running: waiting (at most {self.left_s:.0f} s more)")
                told = True
            time.sleep(1.5)
            self.left_s -= 2

    @contextlib.contextmanager
    def watch(self):
        """What others take of the machine in here; every process that is ours must begin and end inside."""
        busy, ours = self.busy(), self.ours()
        yield
        now = self.busy()
        self.used += max(0.0, now[0] - busy[0] - (self.ours() - ours))
        self.all += now[1] - busy[1]

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
        process = subprocess.Popen([*command, "--port", str(port)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   env={**os.environ, **(environment or {})})
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
    """What a process and the children that it has waited for have used."""
    v = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
    return sum(int(x) for x in v[11:15]) / os.sysconf("SC_CLK_TCK")


def run_counted(command):
    """(exit status, stdout, processor seconds that it used)"""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, stdout=subprocess.PIPE)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.returncode, done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def processor():
    text = pathlib.Path("/proc/cpuinfo").read_text()
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.M)
    return name.group(1) if name else platform.machine()


def version(binary):
    return subprocess.run([binary, "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[0]


def revision():
    try:
        said = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True)
        return said.stdout.strip() or None
    except OSError:
        return None
