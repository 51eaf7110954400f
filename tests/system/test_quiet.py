"""What a server does beside computing: next to nothing while nobody asks, and next to no system calls while it answers."""
import collections
import pathlib
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

from server import LIMIT_S, Server, long_model

IDLE_S, ROUNDS = 2, 5


def threads(pid):
    """{thread: (name, seconds on a processor, how often it went to sleep)}"""
    found = {}
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        try:
            status = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
            ran = int((task / "schedstat").read_text().split()[0])
        except OSError:
            continue  # it has ended
        found[int(task.name)] = (status["Name"].strip(), ran / 1e9, int(status["voluntary_ctxt_switches"]))
    return found


class Idle(unittest.TestCase):
    def test_a_server_that_nobody_asks_sleeps(self):
        with Server("--threads", "2", "--ctx", "4096", kind="_RELEASE") as s:
            s.complete(max_tokens=50)  # every thread has worked, and none may go on looking for work
            with socket.create_connection(("127.0.0.1", s.port), timeout=LIMIT_S) as c:
                s.session.close()
                for _ in range(ROUNDS):  # time that was stolen from the machine may be charged to a thread that woke
                    time_then, then = time.monotonic(), threads(s.process.pid)
                    ready, _, _ = select.select([c], [], [], IDLE_S)
                    time_now, now = time.monotonic(), threads(s.process.pid)
                    self.assertEqual([], ready)
                    self.assertEqual(set(then), set(now))
                    self.assertGreaterEqual({name for name, _, _ in now.values()}, {"ag-engine", "ag-compute-1", "ag-http-0"})
                    used = {now[t][0]: now[t][1] - then[t][1] for t in now}
                    slept = {now[t][0]: now[t][2] - then[t][2] for t in now}
                    share, wakes = (sum(x.values()) / (time_now - time_then) for x in (used, slept))
                    if share < 0.01 and wakes < 20:
                        break
            self.assertLess(share, 0.01, used)
            self.assertLess(wakes, 20, slept)


@unittest.skipUnless(shutil.which("strace"), "strace is not installed")
class Answering(unittest.TestCase):
    """One compute thread: with more, one that lost its core is waited for asleep, which is a system call by design."""

    def attach(self, pid, out):
        tracer = subprocess.Popen(["strace", "-f", "-o", out, "-p", str(pid)], stdin=subprocess.DEVNULL,
                                  stderr=subprocess.PIPE, text=True)
        said = tracer.stderr.readline()
        if "attached" not in said:
            tracer.kill()
            tracer.communicate()
            self.skipTest(f"strace may not look at processes here: {said.strip()}")
        return tracer

    def calls(self, s, ask):
        """What each thread asked of the system meanwhile: {thread: Counter}; and how many steps there were."""
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder) / "calls"
            tracer = self.attach(s.process.pid, str(out))
            before = s.metric("autoglm_steps_total")
            ask()
            steps = s.metric("autoglm_steps_total") - before
            tracer.send_signal(signal.SIGINT)
            tracer.communicate(timeout=LIMIT_S)
            found = collections.defaultdict(collections.Counter)
            for line in out.read_text(errors="replace").splitlines():
                thread, call = line.split(None, 1)
                if not call.startswith(("<", "---", "+++")):
                    found[int(thread)][call.split("(")[0]] += 1
        return found, steps

    def check_engine(self, clients, tokens):
        with Server("--threads", "1", "--ctx", "8192", kind="_RELEASE", model=long_model()) as s:
            s.complete(max_tokens=4)
            got = [0] * clients

            def ask_one(i):
                chunks = s.stream(prompt="Once upon", max_tokens=tokens, ignore_eos=True, temperature=0)
                got[i] = sum(len(c["choices"]) for c in chunks)

            def ask_all():
                asking = [threading.Thread(target=ask_one, args=(i,)) for i in range(clients)]
                for t in asking:
                    t.start()
                for t in asking:
                    t.join(LIMIT_S)
            names = {t: name for t, (name, _, _) in threads(s.process.pid).items()}
            found, steps = self.calls(s, ask_all)
        self.assertGreater(min(got), 0)
        self.assertGreaterEqual(steps, tokens)
        loops = sum(name.startswith("ag-http-") for name in names.values())
        engine = collections.Counter()
        for thread, calls in found.items():
            if names.get(thread) == "ag-engine":
                engine.update(calls)
        wakes = engine.pop("write", 0)
        self.assertGreater(wakes, 0, found)
        self.assertLessEqual(wakes, loops * steps + clients, engine)
        # Sleeping before and after, memory for more tokens: all of it far from once a step.
        self.assertLess(sum(engine.values()), steps / 4, engine)

    def test_one_stream(self):
        self.check_engine(1, 300)

    def test_many_streams_wake_a_loop_once_a_step(self):
        self.check_engine(8, 300)


if __name__ == "__main__":
    unittest.main()
