"""autoglm run: one answer from arguments or stdin, and a chat on a terminal."""
import json
import os
import pty
import re
import select
import signal
import subprocess
import tempfile
import time
import unittest

from server import LIMIT_S, TEMPLATE, binary, long_model, tiny_model


def run(*args, stdin=subprocess.DEVNULL, text=None, want=0):
    more = {"input": text} if text is not None else {"stdin": stdin}
    done = subprocess.run([binary(), "run", tiny_model(), *args, "--ctx", "2048"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, errors="replace", timeout=LIMIT_S, **more)
    assert done.returncode == want, (done.returncode, done.stdout, done.stderr)
    return done


class Run(unittest.TestCase):
    def test_a_prompt_is_continued(self):
        once = run("Once upon a time", "--raw", "-t", "0", "-n", "20").stdout
        self.assertTrue(once.strip())
        self.assertTrue(once.endswith("\n"))
        self.assertEqual(run("--raw", "-t", "0", "-n", "20", text="Once upon a time\n").stdout, once)

    def test_json(self):
        a = json.loads(run("Once upon a time", "--raw", "-t", "0", "-n", "9", "--json").stdout)
        self.assertEqual((a["completion_tokens"], a["finish_reason"]), (9, "length"))
        self.assertEqual(run("Once upon a time", "--raw", "-t", "0", "-n", "9").stdout.rstrip("\n"), a["text"].rstrip("\n"))

    def test_seeds(self):
        one = [run("Once", "--raw", "-t", "1", "--seed", "3", "-n", "20").stdout for _ in range(2)]
        self.assertEqual(one[0], one[1])
        self.assertNotEqual(one[0], run("Once", "--raw", "-t", "1", "--seed", "4", "-n", "20").stdout)

    def test_usage(self):
        for args in (["x", "y"], ["x", "-n", "-1"], ["x", "-t", "11"], ["x", "--seed", "1.5"], ["x", "--nonsense"], ["x", "-n"]):
            with self.subTest(args=args):
                run(*args, want=2)

    def test_a_long_prompt(self):
        self.assertIn("context", run("--raw", text="word " * 5000, want=1).stderr)

    def test_broken_utf8(self):
        done = subprocess.run([binary(), "run", tiny_model(), "--raw"], input=b"a\xff", stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=LIMIT_S)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"not UTF-8", done.stderr)

    def test_a_system_message_that_is_not_utf8(self):
        with tempfile.TemporaryDirectory() as folder:
            template = os.path.join(folder, "chat.jinja")
            with open(template, "w") as f:
                f.write(TEMPLATE)
            done = subprocess.run([binary(), "run", tiny_model(), "Once", "--system", b"a\xff", "--chat-template", template],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=LIMIT_S)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"--system is not UTF-8 (at byte 1)", done.stderr)

    def test_sigint_stops_the_answer(self):
        p = subprocess.Popen([binary(), "run", long_model(), "Once", "--raw", "--ctx", "65536", "-t", "1", "--seed", "1"],
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertTrue(p.stdout.read(1))
        p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=LIMIT_S)
        self.assertEqual(p.returncode, 130, err)
        self.assertNotIn(b"Sanitizer", err)


class Terminal:
    """A chat with a pseudo terminal as its person."""

    def __init__(self, folder, *args):
        self.seen, self.model = b"", long_model()
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="vt100", HOME=folder, XDG_STATE_HOME="", LC_ALL="C.UTF-8")
            os.execv(binary(), [binary(), "run", self.model, "--ctx", "65536", *args])

    def wait(self, pattern):
        """Reads until the pattern comes; what was before is forgotten."""
        end = time.monotonic() + LIMIT_S
        while True:
            found = re.search(pattern, self.seen)
            if found:
                before, self.seen = self.seen[:found.end()], self.seen[found.end():]
                return before
            if not select.select([self.fd], [], [], max(0, end - time.monotonic()))[0]:
                raise AssertionError(f"{pattern!r} did not come: {self.seen[-2000:]!r}")
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                data = b""
            if not data:
                raise AssertionError(f"ended before {pattern!r}: {self.seen[-2000:]!r}")
            self.seen += data

    def type(self, text):
        os.write(self.fd, text)

    def leave(self, text):
        """Types until the program has left: a key pressed between two modes of a terminal may be lost."""
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            self.type(text)
            while select.select([self.fd], [], [], 1)[0]:
                try:
                    data = os.read(self.fd, 65536)
                except OSError:
                    data = b""
                if not data:
                    return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
                self.seen += data
        raise AssertionError(f"it does not leave: {self.seen[-2000:]!r}")


class Chat(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory(prefix="autoglm-run-")
        self.addCleanup(self.dir.cleanup)
        self.template = os.path.join(self.dir.name, "t.jinja")
        with open(self.template, "w") as f:
            f.write(TEMPLATE)

    def chat(self, *args):
        return Terminal(self.dir.name, "--chat-template", self.template, "-t", "0", *args)

    def test_a_conversation(self):
        t = self.chat("-n", "8")
        t.wait(rb">>> ")
        t.type(b"Hello\n")
        t.wait(rb"Hello\r*\n(?s:.*)>>> ")
        t.type(b"/help\n")
        t.wait(rb"/clear(?s:.*)>>> ")
        t.type(b"/nothing\n")
        t.wait(rb"There is no /nothing(?s:.*)>>> ")
        t.type(b"/clear\n")
        t.wait(rb">>> ")
        t.type(b"\x10\x10\x10\x10\n")  # Ctrl-P: back through the lines to Hello
        t.wait(rb"Hello(?s:.*)>>> ")
        self.assertEqual(t.leave(b"/exit\n"), 0, t.seen)
        history = os.path.join(self.dir.name, ".local/state/autoglm/history")
        self.assertIn("Hello", open(history).read())
        self.assertEqual(os.stat(history).st_mode & 0o077, 0)

    def test_an_answer_that_ends_inside_a_character_is_kept(self):
        """At this temperature every other token or so is a byte; without its answer a question would stand beside the next one."""
        with open(self.template, "w") as f:
            f.write("{%- for m in messages -%}{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}"
                    "{{ raise_exception('out of turn') }}{%- endif -%}{{ m.content }} {% endfor -%}")
        t = self.chat("-n", "1", "-t", "10", "--seed", "1", "--no-history")
        t.wait(rb">>> ")
        for i in range(24):
            t.type(b"word%d\n" % i)
            self.assertNotIn(b"out of turn", t.wait(rb"word%d\r*\n(?s:.*)>>> " % i))
        self.assertEqual(t.leave(b"/exit\n"), 0, t.seen)

    def test_ctrl_c_stops_the_answer_not_the_program(self):
        t = self.chat("--no-history")
        t.wait(rb">>> ")
        t.type(b"Tell me\n")
        t.wait(rb"Tell me\r*\n(?s:.{60})")  # more than the editor itself would write
        t.type(b"\x03")
        t.wait(rb"\[stopped\](?s:.*)>>> ")
        t.type(b"rubbish\x03")  # while a line is written it takes the line away
        t.type(b"/help\n")
        t.wait(rb"/clear(?s:.*)>>> ")
        t.type(b"\x00")  # what Ctrl-D is when it comes a moment too early
        self.assertEqual(t.leave(b"\x04"), 0, t.seen)
        self.assertFalse(os.path.exists(os.path.join(self.dir.name, ".local/state/autoglm/history")))
