"""A server that has given up what it does not need still serves, and cannot do what it gave up."""
import http.client
import json
import os
import pathlib
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import unittest

import tiny_models
from server import LIMIT_S, Keyed, Server, binary, wait_for

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The leak checker watches the process from another one, which the sandbox refuses.
NO_LEAKS = {"ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"}


def status_of(server, name):
    text = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    return re.search(rf"^{name}:\s+(.*)$", text, re.M).group(1)


def certificate(folder, name):
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                    "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", cert],
                   check=True, capture_output=True)
    return cert, key


def curl(*args):
    done = subprocess.run(["curl", "-sS", "--max-time", str(LIMIT_S), *map(str, args)], capture_output=True, text=True)
    return done.stdout + done.stderr


def can_sandbox():
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([binary(), "serve", "-m", f"{folder}/none.gguf", "--port", "0", "--sandbox"], capture_output=True,
                              text=True, timeout=LIMIT_S, env={**os.environ, **NO_LEAKS})
    return "--sandbox needs" not in done.stderr


class Sandbox(unittest.TestCase):
    def setUp(self):
        if not can_sandbox():
            self.skipTest("this kernel has no Landlock or no seccomp")

    def test_it_serves_all_the_same(self):
        with tempfile.TemporaryDirectory(prefix="autoglm-harden-") as name:
            folder = pathlib.Path(name)
            for sub in ("models", "certs", "log", "kept", "elsewhere"):
                (folder / sub).mkdir()
            model = tiny_models.write(str(folder / "models"), "llama")
            cert, key = certificate(folder / "certs", "one")
            config = folder / "certs/autoglm.yaml"

            def settings(cert, key, strict="no"):
                config.write_text(f"server: {{tls-cert: {cert}, tls-key: {key}, strict: {strict}}}\n")
            settings(cert, key)
            flags = ("--sandbox", "--config", str(config), "--unix", str(folder / "log/socket"), "--weights-image", "on",
                     "--responses-db", str(folder / "kept/responses.db"))

            def said(message):
                return [e for e in k.s.lines() if e.get("msg") == message]
            for start in ("writes the image", "reads it"):
                log = folder / f"log/{start}.log"  # of its own: the port that is looked for stands there
                with Keyed(*flags, "--log-file", str(log), model=model, env=NO_LEAKS, ready=False, log_file=log) as k:
                    base = f"https://localhost:{k.s.port}"
                    asks = ("--cacert", cert)
                    wait_for("the server to be ready", lambda: "ok" in curl(*asks, f"{base}/readyz"))
                    made = k.keys("create", "--tenant", "gold")
                    asks += ("-H", f"Authorization: Bearer {made['key']}")
                    wait_for("the key to be known", lambda: "tiny" in curl(*asks, f"{base}/v1/models"))
                    body = ("-H", "content-type: application/json", "-d", '{"prompt": "Once", "max_tokens": 3, "ignore_eos": true}')
                    for version in ("--http1.1", "--http2"):
                        answer = curl(*asks, *body, version, "-i", f"{base}/v1/completions")
                        self.assertRegex(answer.splitlines()[0], r"HTTP/(1.1|2) 200", answer)
                        self.assertIn('"completion_tokens":3', answer.replace(" ", ""))
                    kept = json.loads(curl(*asks, *body[:2], "-d", '{"input": "Once", "max_output_tokens": 16}', f"{base}/v1/responses"))
                    self.assertIn(kept["id"], curl(*asks, f"{base}/v1/responses/{kept['id']}"))
                    self.assertIn("tiny", curl(*asks, "--unix-socket", folder / "log/socket", f"{base}/v1/models"))
                    wait_for("the image to be there", lambda: any(p.suffix == ".agimg" for p in (folder / "models").iterdir()))
                    self.assertEqual(status_of(k.s, "Seccomp"), "2")
                    self.assertEqual(status_of(k.s, "NoNewPrivs"), "1")

                    times = len(said("settings reloaded"))
                    settings(cert, key, "yes")
                    k.s.signal(signal.SIGHUP)
                    wait_for("the settings to be taken over", lambda: len(said("settings reloaded")) > times)
                    self.assertIn("strict", curl(*asks, *body[:2], "-d", '{"prompt": "a", "nonsense": 1}', f"{base}/v1/completions"))
                    times = len(said("settings not reloaded"))
                    settings(*certificate(folder / "elsewhere", "two"))  # readable, but not the server's to read
                    k.s.signal(signal.SIGHUP)
                    wait_for("the others to be refused", lambda: len(said("settings not reloaded")) > times)
                    self.assertIn("ermission denied", said("settings not reloaded")[-1]["error"])
                    settings(cert, key)
                    self.assertIn("tiny", curl(*asks, f"{base}/v1/models"))
                    k.s.stop()


@unittest.skipUnless(os.geteuid() == 0, "needs root")
class User(unittest.TestCase):
    def test_it_binds_as_root_and_serves_as_nobody(self):
        nobody = pwd.getpwnam("nobody")
        with tempfile.TemporaryDirectory(prefix="autoglm-user-") as name:
            folder = pathlib.Path(name)
            folder.chmod(0o755)
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            port = next(p for p in range(1023, 500, -1) if self.is_free(p))
            with Server("--user", "nobody", "--port", str(port), "--keys-db", str(folder / "keys.db"), model="null",
                        env=NO_LEAKS, ready=False) as s:
                self.assertEqual(s.port, port)
                self.assertEqual(status_of(s, "Uid").split(), [str(nobody.pw_uid)] * 4)
                self.assertEqual(status_of(s, "Gid").split(), [str(nobody.pw_gid)] * 4)
                self.assertNotIn("0", status_of(s, "Groups").split())
                self.assertEqual(status_of(s, "NoNewPrivs"), "1")
                self.assertEqual(int(status_of(s, "CapEff"), 16), 0)
                self.assertEqual((folder / "keys.db").stat().st_uid, nobody.pw_uid)
                threads = pathlib.Path(f"/proc/{s.process.pid}/task")
                for task in threads.iterdir():
                    try:
                        status = (task / "status").read_text()
                    except OSError:
                        continue  # it has ended
                    self.assertRegex(status, rf"Uid:\s+{nobody.pw_uid}\s")
                wait_for("the server to be ready", lambda: s.get("/readyz").status_code == 200)

    @staticmethod
    def is_free(port):
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", port)) != 0

    def test_users_that_cannot_be(self):
        for user, word in (("no such user", "no user"), ("nobody:no such group", "no group"), ("nobody:", "NAME")):
            done = subprocess.run([binary(), "serve", "-m", "null", "--port", "0", "--user", user], capture_output=True, text=True,
                                  timeout=LIMIT_S)
            self.assertIn(done.returncode, (1, 2))
            self.assertIn(word, done.stderr)


class Core(unittest.TestCase):
    def test_no_core_dump_where_there_are_keys(self):
        def core(s):
            limits = pathlib.Path(f"/proc/{s.process.pid}/limits").read_text()
            return re.search(r"^Max core file size\s+(\S+)\s+(\S+)", limits, re.M).groups()
        with Keyed(model="null") as k:
            self.assertEqual(core(k.s), ("0", "0"))
        with Server(model="null", env={"AUTOGLM_API_KEY": "secret"}, ready=False) as s:
            self.assertEqual(core(s), ("0", "0"))
        with tempfile.TemporaryDirectory(prefix="autoglm-jwks-") as folder:
            key = {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": "a", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
            path = pathlib.Path(folder, "keys.json")
            path.write_text(json.dumps({"keys": [key]}))
            with Server("--jwt-jwks", str(path), "--jwt-issuer", "i", "--jwt-audience", "a", model="null", ready=False) as s:
                self.assertEqual(core(s), ("0", "0"))


class Unit(unittest.TestCase):
    """deploy/autoglm.service"""

    def test_its_flags_are_known(self):
        text = (ROOT / "deploy/autoglm.service").read_text()
        flags = re.findall(r"^ExecStart=\S+ serve (.*)$", text, re.M)[0].split()
        known = subprocess.run([binary(), "serve", "--help"], capture_output=True, text=True, timeout=LIMIT_S).stdout
        for flag in flags:
            if flag.startswith("--"):
                self.assertRegex(known, rf"(?m)^ +(-\w, )?{flag}\b")

    def test_its_settings_can_be_read(self):
        """What its head installs is there, and the settings file goes with its flags."""
        text = (ROOT / "deploy/autoglm.service").read_text()
        for name in re.findall(r"\b(deploy/\S+)", text):
            self.assertTrue((ROOT / name).exists(), name)
        flags = re.findall(r"^ExecStart=\S+ serve (.*)$", text, re.M)[0].split()
        self.assertIn("/etc/autoglm/autoglm.yaml", flags)
        flags[flags.index("/etc/autoglm/autoglm.yaml")] = str(ROOT / "deploy/autoglm.yaml")
        done = subprocess.run([binary(), "serve", *flags, "--openapi"], capture_output=True, text=True, timeout=LIMIT_S)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        with tempfile.TemporaryDirectory(prefix="autoglm-unit-") as folder:
            moved = pathlib.Path(folder, "autoglm.yaml")
            moved.write_text((ROOT / "deploy/autoglm.yaml").read_text().replace("/var/lib/autoglm", folder))
            done = subprocess.run([binary(), "serve", "--config", str(moved), "--port", "0"], capture_output=True, text=True,
                                  timeout=LIMIT_S)
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"{folder}/model.gguf", done.stderr)

    def calls(self):
        """What the unit lets through beside groups, and the groups. Further lines add to the first one, unless one begins with ~."""
        text = (ROOT / "deploy/autoglm.service").read_text()
        lines = re.findall(r"^SystemCallFilter=(.*)$", text, re.M)
        self.assertTrue(lines and all(line and not line.startswith("~") for line in lines), lines)
        words = {word for line in lines for word in line.split()}
        groups = {word for word in words if word.startswith("@")}
        return words - groups, groups

    def test_it_lets_the_sandbox_lock_itself_in(self):
        named, _ = self.calls()
        self.assertLessEqual({"landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "seccomp"}, named)

    @unittest.skipUnless(shutil.which("systemd-analyze"), "systemd-analyze is not installed")
    def test_it_lets_through_what_the_sandbox_does(self):
        """What a server may use by its own list is not taken from it by the unit."""
        allowed, groups = self.calls()
        groups, seen = list(groups), set()
        while groups:
            group = groups.pop()
            done = subprocess.run(["systemd-analyze", "syscall-filter", group], capture_output=True, text=True, timeout=LIMIT_S)
            self.assertEqual(done.returncode, 0, done.stderr)
            words = {line.strip() for line in done.stdout.splitlines()[1:] if not line.strip().startswith("#")} - seen - {""}
            seen |= words
            groups += [word for word in words if word.startswith("@")]
            allowed |= words
        own = set(re.findall(r"SCMP_SYS\((\w+)\)", (ROOT / "src/cli/harden_calls.c").read_text()))
        self.assertGreater(len(own), 100)
        self.assertEqual(own - allowed, set())
        self.assertIn("prctl", allowed)

    @unittest.skipUnless(shutil.which("systemd-analyze"), "systemd-analyze is not installed")
    def test_systemd_understands_it(self):
        with tempfile.TemporaryDirectory(prefix="autoglm-unit-") as folder:
            unit = pathlib.Path(folder, "autoglm.service")
            unit.write_text((ROOT / "deploy/autoglm.service").read_text().replace("/usr/local/bin/autoglm", "/bin/true"))
            done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=LIMIT_S)
            self.assertEqual((done.returncode, done.stderr), (0, ""))


if __name__ == "__main__":
    unittest.main()
