"""`autoglm keys` on a file, as a shell sees it: what it prints, what it refuses, what is left on the disk."""
import http.server
import json
import os
import pathlib
import re
import sqlite3
import stat
import subprocess
import tempfile
import threading
import unittest

BIN = os.environ.get("AUTOGLM_TEST_BIN")
KEY = re.compile(r"^ag-([0-9a-f]{12})-[A-Za-z0-9_-]{43}$")


@unittest.skipUnless(BIN, "AUTOGLM_TEST_BIN is not set")
class Keys(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="autoglm-keys-")
        self.addCleanup(folder.cleanup)
        self.dir = pathlib.Path(folder.name)
        self.db = self.dir / "keys.db"

    def keys(self, *args, db=True):
        more = ["--db", str(self.db)] if db else []
        done = subprocess.run([BIN, "keys", *map(str, args), *more], capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    def json(self, *args):
        code, out, err = self.keys(*args, "--json")
        self.assertEqual((code, err), (0, ""))
        return json.loads(out)

    def test_create_prints_the_key_alone_and_once(self):
        code, out, err = self.keys("create", "--tenant", "gold")
        self.assertEqual(code, 0, err)
        key = out.strip()
        found = KEY.match(key)
        self.assertTrue(found, out)
        self.assertIn("shown this once", err)
        code, out, err = self.keys("list")
        self.assertIn(found[1], out)
        for path in self.dir.iterdir():
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600, path)
            self.assertNotIn(key[16:].encode(), path.read_bytes(), path)
        self.assertEqual(len((self.dir / "keys.db.secret").read_bytes()), 32)

    def test_all_that_a_key_can_have(self):
        made = self.json("create", "--tenant", "gold", "--share", "friends", "--cache", "use", "--name", "der Schlüssel", "--roles", "inference,admin", "--models", "a,b",
                         "--band", 1, "--weight", 2.5, "--expires", "2100-01-01", "--limit-requests-per-second", 10, "--limit-burst", 20,
                         "--limit-tokens-per-minute", 5000)
        self.assertRegex(made.pop("key"), KEY)
        self.assertEqual(made["limits"], {"requests_per_second": 10, "burst": 20, "tokens_per_minute": 5000})
        self.assertEqual((made["roles"], made["models"], made["most_urgent_band"]), (["inference", "admin"], ["a", "b"], 1))
        self.assertEqual((made["weight"], made["expires_at"], made["name"]), (2.5, 4102444800, "der Schlüssel"))
        self.assertEqual((made["share"], made["cache"]), ("friends", "use"))
        self.assertRegex(self.keys("list")[1], r"gold +friends +use +der")
        self.assertEqual(self.json("list")["data"], [made])

    def test_rotate_revoke_and_limits(self):
        made = self.json("create", "--tenant", "gold")
        turned = self.json("rotate", made["id"])
        self.assertEqual(turned["id"], made["id"])
        self.assertNotEqual(turned["key"], made["key"])
        self.assertEqual(self.json("limits", made["id"], "--limit-concurrent", 3)["limits"], {"concurrent": 3})
        self.assertEqual(self.json("limits", "tenant:gold", "--limit-burst", 4)["limits"], {"burst": 4})
        self.assertEqual([e["subject"] for e in self.json("limits")["data"]], [f"key:{made['id']}", "tenant:gold"])
        self.assertEqual(self.json("limits", made["id"], "--limit-concurrent", 0)["limits"], {})
        self.assertTrue(self.json("revoke", made["id"])["revoked_at"])
        self.assertRegex(self.keys("list")[1], rf"{made['id']} .* revoked ")
        code, out, err = self.keys("rotate", made["id"])
        self.assertEqual((code, out), (1, ""))
        self.assertIn("revoked", err)

    def test_wrong_usage(self):
        for args, part in ((("create",), "--tenant"), (("mint",), "none of create"), (("rotate",), "which key"), (("list", "x"), "too many"),
                           (("create", "--tenant", "g", "--expires", "soon"), "12h"), (("create", "--tenant", "g", "--band", 4), "0 to 3"),
                           (("create", "--tenant", "g", "--limit-burst", -1), "--limit-burst"), (("limits", "--limit-burst", 1), "whose limits"),
                           (("list", "--tenant", "g"), "--tenant is for create"), (("limits", "tenant:g", "--band", 0), "--band is for create"),
                           (("rotate", "0123456789ab", "--limit-burst", 1), "--limit-burst is for create and limits"),
                           (("revoke", "0123456789ab", "--weight", 2), "--weight is for create"),
                           (("limits", "tenant:g", "--limit-tokens-per-month", "5e7"), "in digits"),
                           (("limits", "tenant:g", "--limit-burst", "0x10"), "in digits")):
            code, out, err = self.keys(*args)
            self.assertEqual((code, out), (2, ""), args)
            self.assertIn(part, err)
        code, out, err = self.keys("list", db=False)
        self.assertEqual(code, 2)
        self.assertIn("--db", err)
        for args, part in ((("create", "--tenant", "a b"), "'tenant'"), (("create", "--tenant", "g", "--cache", "refresh"), "'use' or 'off'"),
                           (("revoke", "0123456789ab"), "no key"), (("limits", "planet:x"), "tenant:NAME")):
            code, out, err = self.keys(*args)
            self.assertEqual((code, out), (1, ""), args)
            self.assertIn(part, err)

    def over_url(self, status, body, key="k"):
        """(exit status, stderr, bearer) of `list` at a server that answers so."""
        seen = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                seen.append(self.headers["Authorization"])
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as s:
            s.handle_error = lambda *args: None
            threading.Thread(target=s.serve_forever, args=(0.02,), daemon=True).start()
            done = subprocess.run([BIN, "keys", "list", "--url", f"http://127.0.0.1:{s.server_port}"], capture_output=True, text=True,
                                  timeout=120, env={**os.environ, "AUTOGLM_API_KEY": key})
            s.shutdown()
        self.assertEqual(done.stdout, "")
        return done.returncode, done.stderr, seen

    def test_keys_of_any_length_are_sent_or_refused(self):
        said = json.dumps({"error": {"message": "no"}}).encode()
        for n in (570, 1500, 16000):
            self.assertEqual(self.over_url(401, said, "x" * n)[2], ["Bearer " + "x" * n])
        code, err, seen = self.over_url(401, said, "x" * 16384)
        self.assertEqual((code, seen), (2, []))
        self.assertIn("AUTOGLM_API_KEY is too long", err)

    def test_what_a_server_says_is_no_command_to_the_terminal(self):
        said = json.dumps({"error": {"message": "a\x1b[31mb\x9bc\x7fd ü"}}).encode()
        code, err, _ = self.over_url(400, said)
        self.assertEqual(code, 1)
        self.assertIn("the server says: a[31mbcd ü\n", err)
        code, err, _ = self.over_url(200, b" " * (65 << 20))
        self.assertEqual(code, 1)
        self.assertIn("the answer is over 67108864 bytes", err)

    def test_files_that_will_not_do(self):
        self.db.write_text("hello, I am a text\n" * 100)
        code, out, err = self.keys("list")
        self.assertEqual((code, out), (1, ""))
        self.assertIn("no database", err)
        self.db.unlink()
        self.json("create", "--tenant", "gold")
        lock = sqlite3.connect(self.db, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        code, out, err = self.keys("create", "--tenant", "gold")
        self.assertEqual((code, out), (1, ""))
        self.assertIn("locked", err)
        lock.close()
        secret = self.dir / "keys.db.secret"
        secret.chmod(0o644)
        code, out, err = self.keys("list")
        self.assertIn("chmod 600", err)
        secret.unlink()
        code, out, err = self.keys("list")
        self.assertEqual(code, 1)
        self.assertFalse(secret.exists(), "a lost secret is not replaced by another")


if __name__ == "__main__":
    unittest.main()
