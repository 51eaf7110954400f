"""TLS with clients of others: curl, OpenSSL's command, Python's ssl; certificates changed while the server runs."""
import json
import pathlib
import signal
import socket
import ssl
import subprocess
import tempfile
import unittest

from certificates import make
from server import LIMIT_S, Server, binary, tiny_model


class TlsServer(Server):
    """Waits for what the log says alone: the helper's own requests are in cleartext."""

    def __init__(self, *flags, **more):
        super().__init__(*flags, ready=False, **more)
        self.wait_line("ready")
        self.url = f"https://127.0.0.1:{self.port}"


class Tls(unittest.TestCase):
    def setUp(self):
        made = tempfile.TemporaryDirectory(prefix="autoglm-tls-")
        self.addCleanup(made.cleanup)
        self.folder = pathlib.Path(made.name)
        self.cert, self.key = make(self.folder, "a")

    def serve(self, *flags, cert=None, key=None):
        s = TlsServer("--tls-cert", cert or self.cert, "--tls-key", key or self.key, *flags)
        self.addCleanup(s.stop)
        return s

    def curl(self, url, *more):
        done = subprocess.run(["curl", "-sS", "--max-time", str(LIMIT_S), "--cacert", self.cert, "-w", "\n%{http_code} %{http_version}",
                               *more, url], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.returncode, done.stdout

    def shown(self, s):
        """The certificate that a new connection is shown."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(("127.0.0.1", s.port), timeout=LIMIT_S) as raw, context.wrap_socket(raw) as tls:
            return ssl.DER_cert_to_PEM_cert(tls.getpeercert(True))

    def test_clients(self):
        s = self.serve()
        body = json.dumps({"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0})
        said = set()
        for version, flag in (("2", "--http2"), ("1.1", "--http1.1"), ("2", "--tls-max=1.2"), ("2", "--tlsv1.3")):
            flags = ["--tls-max", "1.2"] if "=" in flag else [flag]
            code, out = self.curl(s.url + "/v1/completions", *flags, "-H", "Content-Type: application/json", "-d", body)
            text, end = out.rsplit("\n", 1)
            self.assertEqual((code, end), (0, f"200 {version}"), out)
            said.add(json.loads(text)["choices"][0]["text"])
        self.assertEqual(len(said), 1)
        done = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{s.port}", "-CAfile", self.cert, "-alpn", "h2",
                               "-servername", "localhost", "-verify_return_error"], input="", stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors="replace", timeout=LIMIT_S)
        self.assertIn("Verify return code: 0 (ok)", done.stdout)
        self.assertIn("ALPN protocol: h2", done.stdout)
        context = ssl.create_default_context(cafile=self.cert)
        with socket.create_connection(("127.0.0.1", s.port), timeout=LIMIT_S) as raw:
            with context.wrap_socket(raw, server_hostname="localhost") as tls:
                tls.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                answer = b"".join(iter(lambda: tls.recv(4096), b""))
        self.assertTrue(answer.startswith(b"HTTP/1.1 200 "), answer)
        code, out = self.curl(f"http://127.0.0.1:{s.port}/livez")
        self.assertNotEqual(code, 0, out)

    def test_client_certificates(self):
        make(self.folder, "ca", host="authority")
        cert, key = make(self.folder, "known", host="someone", issuer="ca")
        s = self.serve("--tls-client-ca", str(self.folder / "ca.pem"))
        self.assertEqual(self.curl(s.url + "/livez", "--cert", cert, "--key", key)[0], 0)
        self.assertNotEqual(self.curl(s.url + "/livez")[0], 0)

    def test_reload(self):
        s = self.serve()
        context = ssl.create_default_context(cafile=self.cert)
        raw = socket.create_connection(("127.0.0.1", s.port), timeout=LIMIT_S)
        old = context.wrap_socket(raw, server_hostname="localhost")
        self.addCleanup(old.close)

        def still_there():
            old.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b""
            while not answer.endswith(b'{"status":"ok"}'):
                more = old.recv(4096)
                self.assertTrue(more, "the connection was dropped")
                answer += more
        still_there()
        first = self.shown(s)
        make(self.folder, "a")
        s.signal(signal.SIGHUP)
        s.wait_line("settings reloaded")
        second = self.shown(s)
        self.assertNotEqual(first, second)
        self.assertEqual(second, pathlib.Path(self.cert).read_text())
        still_there()
        make(self.folder, "b")
        pathlib.Path(self.key).write_text((self.folder / "b.key").read_text())
        s.signal(signal.SIGHUP)
        self.assertIn("does not belong to the certificate", s.wait_line("settings not reloaded")["error"])
        self.assertEqual(self.shown(s), second)
        still_there()

    def test_wrong_files_at_start(self):
        junk = self.folder / "junk"
        junk.write_text("junk\n")
        b = make(self.folder, "b")
        for flags, say in ((["--tls-cert", self.cert], "only one of them is named"),
                           (["--tls-cert", str(self.folder / "none"), "--tls-key", self.key], "none cannot be read: No such file"),
                           (["--tls-cert", str(junk), "--tls-key", self.key], "junk holds no certificate"),
                           (["--tls-cert", self.cert, "--tls-key", b[1]], "does not belong to the certificate in"),
                           (["--tls-cert", self.cert + "," + b[0], "--tls-key", self.key], "2 certificates and 1 keys")):
            done = subprocess.run([binary(), "serve", "--port", "0", "-m", tiny_model(), *flags], stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, timeout=LIMIT_S)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(say, done.stdout)


if __name__ == "__main__":
    unittest.main()
