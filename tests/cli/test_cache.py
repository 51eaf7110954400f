"""`autoglm cache` beside a real server: what it holds, one of its answers, forgetting them, warming up."""
import json
import os
import pathlib
import subprocess
import tempfile
import unittest

BIN = os.environ.get("AUTOGLM_TEST_BIN")


@unittest.skipUnless(BIN, "AUTOGLM_TEST_BIN is not set")
class Cache(unittest.TestCase):
    def setUp(self):
        from server import Server
        folder = tempfile.TemporaryDirectory(prefix="autoglm-cache-")
        self.addCleanup(folder.cleanup)
        self.s = Server("--cache-bytes", "16MiB", "--history", "full", "--history-file", str(pathlib.Path(folder.name, "asked")),
                        model="null")
        self.addCleanup(self.s.stop)

    def cache(self, *args, url=True):
        more = ["--url", self.s.url] if url else []
        done = subprocess.run([BIN, "cache", *args, *more], capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    def json(self, *args):
        code, out, err = self.cache(*args, "--json")
        self.assertEqual((code, err), (0, ""))
        return json.loads(out)

    def ask(self, prompt):
        r = self.s.post("/v1/completions", {"prompt": prompt, "temperature": 0, "max_tokens": 4}, headers={"x-tenant": "acme"})
        return r.headers["x-cache"], r.headers["x-cache-key"]

    def test_looking_and_forgetting(self):
        self.assertEqual(self.ask("one")[0], "miss")
        how, key = self.ask("one")
        self.assertEqual(how, "hit")
        self.assertEqual(self.json("stats")["entries"], 1)
        self.assertEqual(self.json("get", key)["key"], key)
        code, out, _ = self.cache("stats")
        self.assertEqual(code, 0)
        self.assertIn("entries    1\n", out)
        self.assertEqual(self.json("purge", key)["purged"], 1)
        code, _, err = self.cache("get", key)
        self.assertEqual(code, 1)
        self.assertIn("no answer in the cache", err)
        self.ask("two")
        self.assertEqual(self.json("purge", "--tenant", "other")["purged"], 0)
        self.assertEqual(self.json("purge", "--tenant", "acme")["purged"], 1)
        self.ask("three")
        self.assertEqual(self.json("purge", "--all")["purged"], 1)

    def test_warming_up(self):
        from server import wait_for
        self.ask("one")
        self.ask("two")
        wait_for("records", lambda: self.s.metric("autoglm_history_records_total") == 2)
        self.json("purge", "--all")
        done = self.json("warm")
        self.assertEqual((done["running"], done["wanted"], done["done"], done["computed"]), (False, 2, 2, 2))
        self.assertEqual(self.ask("one")[0], "hit")
        self.assertIn("running", self.json("warm", "--no-wait"))

    def test_what_is_refused(self):
        for args, url, word in ((("look",), True, "none of"), (("stats",), False, "--url"), (("get",), True, "which one"),
                                (("purge",), True, "Say one"), (("purge", "k", "--all"), True, "Say one"),
                                (("warm", "x"), True, "too many"), (("get", "xyz"), True, "hexadecimal")):
            code, out, err = self.cache(*args, url=url)
            self.assertNotEqual(code, 0)
            self.assertEqual(out, "")
            self.assertIn(word, err)
        done = subprocess.run([BIN, "cache", "stats", "--url", "http://127.0.0.1:1"], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 1)


if __name__ == "__main__":
    unittest.main()
