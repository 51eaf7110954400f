"""The command line itself: help, usage errors, exit statuses, and pages that are printed from tables."""
import json
import os
import pathlib
import socket
import subprocess
import unittest
import urllib.request

from server import tiny_model, wait_for

BIN = os.environ["AUTOGLM_TEST_BIN"]
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def run(*args, want=0, env=None, **more):
    done = subprocess.run([BIN, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=120, env={**os.environ, **(env or {})}, **more)
    assert done.returncode == want, (args, done.returncode, done.stdout, done.stderr)
    return done


def commands():
    lines = run("--help").stdout.splitlines()
    return [line.split()[0] for line in lines if line.startswith("  ")]


class Cli(unittest.TestCase):
    def test_help_lists_the_commands_and_each_has_help(self):
        found = commands()
        self.assertIn("serve", found)
        for name in found:
            with self.subTest(name=name):
                page = run(name, "--help")
                self.assertIn(name, page.stdout)
                self.assertRegex(page.stdout.lower(), "usage:")
                self.assertEqual(page.stderr, "")

    def test_version(self):
        text = run("--version").stdout
        self.assertRegex(text, r"^autoglm \d+\.\d+\.\d+\n")
        self.assertIn("instruction set: scalar", text)

    def test_usage_errors_are_2_and_say_the_neighbour(self):
        self.assertIn("did you mean 'serve'", run("sevre", want=2).stderr)
        self.assertIn("--help", run("frobnicate", want=2).stderr)
        self.assertIn("usage:", run(want=2).stderr)
        for name in commands():
            with self.subTest(name=name):
                done = run(name, "--no-such-option", want=2)
                self.assertTrue(done.stderr)
                self.assertEqual(done.stdout, "")

    def test_serve_help_names_every_setting(self):
        page = run("serve", "--help").stdout
        for line in (ROOT / "docs/settings.md").read_text().splitlines():
            if line.startswith("| `--"):
                self.assertIn(line.split("`")[1] + (" " if "yes or no" not in line else ""), page)

    def test_the_settings_page_is_current(self):
        printed = run("serve", "--settings-markdown").stdout
        self.assertEqual((ROOT / "docs/settings.md").read_text(), printed,
                         "docs/settings.md is old: build/autoglm serve --settings-markdown > docs/settings.md")

    def test_the_openapi_document_is_current(self):
        printed = run("serve", "--openapi").stdout
        self.assertEqual(printed, (ROOT / "docs/openapi.yaml").read_text(),
                         "docs/openapi.yaml is old: build/autoglm serve --openapi > docs/openapi.yaml")

    def test_a_model_that_is_not_there_is_1(self):
        for args in (["tokenize", "x", "-m"], ["detokenize", "1", "-m"], ["render", "-m"], ["bench", "-m"],
                     ["logits", "--tokens", "1", "-m"], ["perplexity", "-f", __file__, "-m"],
                     ["serve", "--port", "0", "-m"], ["inspect"], ["compile"]):
            with self.subTest(args=args):
                self.assertIn("not-there.gguf", run(*args, "not-there.gguf", want=1).stderr)
        self.assertIn("not-there.gguf", run("run", "not-there.gguf", "x", want=1).stderr)

    def test_render_reads_lines(self):
        def render(text):
            done = subprocess.run([BIN, "render", "--inline"], input=text, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120)
            return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]
        code, out = render(b'{"template": "a"}\r\n\n[1]\n{"template": "b"}')
        self.assertEqual((code, out[0], out[2]), (1, {"prompt": "a"}, {"prompt": "b"}))
        self.assertEqual(out[1]["error"]["message"], "a JSON object is wanted")
        code, out = render(b"x" * (65 << 20) + b'\n{"template": "b"}\n')
        self.assertEqual((code, len(out), out[1]), (1, 2, {"prompt": "b"}))
        self.assertIn("over 67108864 bytes", out[0]["error"]["message"])

    def test_closed_standard_descriptors_are_not_taken_by_others(self):
        command = ["sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-', BIN]
        self.assertEqual(subprocess.run([*command, "--version"], timeout=60).returncode, 1)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        server = subprocess.Popen([*command, "serve", "--port", str(port), "-m", tiny_model()])

        def ready():
            try:
                url = f"http://127.0.0.1:{port}/readyz"
                return server.poll() is not None or urllib.request.urlopen(url).status == 200
            except OSError:
                return False
        wait_for("ready", ready)
        server.terminate()
        self.assertEqual(server.wait(60), 0)

    def test_a_full_disk_is_a_failure(self):
        with open("/dev/full", "w") as full:
            done = subprocess.run([BIN, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
        self.assertEqual(done.returncode, 1)
        self.assertIn("cannot write", done.stderr)

    def test_a_fault_that_is_not_understood(self):
        self.assertIn("KIND:N", run("--version", want=2, env={"AUTOGLM_FAULT": "x"}).stderr)
