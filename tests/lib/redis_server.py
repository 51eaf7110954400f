"""A real redis-server for a test, on a free port, without a file; and a few words of its protocol."""
import shutil
import signal
import socket
import subprocess
import tempfile

from server import LIMIT_S, wait_for


def is_there():
    return shutil.which("redis-server") is not None


def free_port():
    """One that leaves room for a Cluster's node, which listens 10,000 higher as well."""
    while True:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        if port + 10000 < 1 << 16:
            return port


class Ended(AssertionError):
    """It ended instead of listening."""


class Redis:
    """tls: a certificate, its key and the authority of clients' ones; then it listens on tls_port too."""

    def __init__(self, *flags, port=None, tls=None):
        self.dir = tempfile.TemporaryDirectory(prefix="autoglm-redis-")
        self.path = self.dir.name + "/redis.sock"
        for left in reversed(range(5)):  # a port that was free may be taken by now
            self.port, self.flags = port or free_port(), flags
            if tls:
                self.tls_port = free_port()
                self.flags += ("--tls-port", str(self.tls_port), "--tls-cert-file", tls[0], "--tls-key-file", tls[1],
                               "--tls-ca-cert-file", tls[2])
            try:
                self.start()
                return
            except Ended:
                if port or not left:
                    raise

    def start(self):
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", self.path, "--save", "",
             "--appendonly", "no", "--dir", self.dir.name, *self.flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for("Redis to listen", self.listens)

    def listens(self):
        if self.process.poll() is not None:
            raise Ended("redis-server has ended")
        try:
            with socket.socket(socket.AF_UNIX) as s:  # which is nobody else's, and answers once it listens everywhere
                s.settimeout(LIMIT_S)
                s.connect(self.path)
                s.sendall(b"PING\r\n")
                return bool(s.recv(1))
        except OSError:
            return False

    def say(self, *words):
        """The first line of its answer; of a string, the string."""
        with socket.create_connection(("127.0.0.1", self.port), LIMIT_S) as s:
            parts = [str(w).encode() for w in words]
            s.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts))
            f = s.makefile("rb")
            line = f.readline().decode().rstrip("\r\n")
            return f.readline().decode().rstrip("\r\n") if line.startswith("$") and line != "$-1" else line

    def list(self, *words):
        """The strings of an array."""
        with socket.create_connection(("127.0.0.1", self.port), LIMIT_S) as s:
            s.sendall((" ".join(words) + "\r\n").encode())
            f = s.makefile("rb")
            return [f.read(int(f.readline()[1:]) + 2)[:-2].decode() for _ in range(int(f.readline()[1:]))]

    def url(self, password=""):
        return f"redis://{':' + password + '@' if password else ''}127.0.0.1:{self.port}"

    def tls_url(self, password=""):
        return f"rediss://{':' + password + '@' if password else ''}localhost:{self.tls_port}"

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        self.go_on()
        self.process.kill()
        self.process.wait(LIMIT_S)

    def __enter__(self):
        return self

    def __exit__(self, *why):
        self.kill()
        self.dir.cleanup()
