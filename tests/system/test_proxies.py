"""The Unix socket, and who a request is from when a proxy brings it: curl and plain sockets."""
import pathlib
import socket
import subprocess
import tempfile
import unittest

from server import LIMIT_S, Server, wait_for

PROXY_V2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes([203, 0, 113, 9, 127, 0, 0, 1, 0x11, 0x11, 0, 80])


class Proxies(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="autoglm-unix-")
        cls.path = pathlib.Path(cls.folder.name, "socket")
        cls.s = Server("--unix", str(cls.path), "--trusted-proxies", "127.0.0.1,unix")

    @classmethod
    def tearDownClass(cls):
        cls.s.stop()
        assert not cls.path.exists()
        cls.folder.cleanup()

    def client_of(self, request_id):
        line = wait_for("its access line", lambda: [entry for entry in self.s.lines() if entry.get("request_id") == request_id])
        return line[0]["client"]

    def test_unix_socket(self):
        for more in ([], ["--http2-prior-knowledge"]):
            done = subprocess.run(["curl", "-sS", "--unix-socket", self.path, "-H", "x-request-id: local", *more,
                                   "http://localhost/v1/models"], stdout=subprocess.PIPE, check=True)
            self.assertIn(b'"data"', done.stdout)
        self.assertEqual(self.client_of("local"), "unix")

    def test_forwarded(self):
        for number, (flags, client) in enumerate(((["--http1.1"], "198.51.100.7"), (["--http2-prior-knowledge"], "198.51.100.7"))):
            subprocess.run(["curl", "-sS", "-o", "/dev/null", *flags, "-H", f"x-request-id: forwarded-{number}", "-H",
                            f"X-Forwarded-For: 192.0.2.1, {client}", self.s.url + "/v1/models"], check=True)
            self.assertEqual(self.client_of(f"forwarded-{number}"), client)

    def test_proxy_protocol(self):
        with socket.create_connection(("127.0.0.1", self.s.port), timeout=LIMIT_S) as s:
            s.sendall(PROXY_V2 + b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nx-request-id: proxied\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: s.recv(4096), b""))
        self.assertTrue(answer.startswith(b"HTTP/1.1 200 "), answer)
        self.assertEqual(self.client_of("proxied"), "203.0.113.9")

    def test_nobody_is_local(self):
        """Whoever a proxy brings may be anybody, whatever it says, or says nothing."""
        for more in ([], ["-H", "X-Forwarded-For: 127.0.0.1"], ["--unix-socket", self.path]):
            for path in ("/admin/v1/connections", "/admin/v1/cache"):
                done = subprocess.run(["curl", "-sS", "-w", "%{http_code}", *more, f"http://localhost:{self.s.port}{path}"],
                                      stdout=subprocess.PIPE, check=True)
                self.assertTrue(done.stdout.endswith(b"403"), (more, done.stdout))
        with Server("--trusted-proxies", "10.0.0.0/8") as s:
            self.assertEqual(s.get("/admin/v1/connections", headers={"X-Forwarded-For": "10.0.0.1"}).status_code, 200)


if __name__ == "__main__":
    unittest.main()
