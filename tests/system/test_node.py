"""The openai package of npm against the server: every method that is served here, streams included."""
import hashlib
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

import recite
from server import LIMIT_S, Server

NODE = pathlib.Path(__file__).resolve().parent.parent / "node"
CACHE = NODE.parent.parent / ".cache" / "node"


def modules():
    """The packages of tests/node, installed once for each lock file."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise unittest.SkipTest("node and npm are not installed")
    lock = (NODE / "package-lock.json").read_bytes()
    folder = CACHE / hashlib.sha256(lock).hexdigest()[:16]
    whole = folder / "whole"
    if not whole.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(NODE / name, folder)
        command = ["timeout", str(LIMIT_S), "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True)
        if done.returncode:
            shutil.rmtree(folder)
            raise unittest.SkipTest("npm could not install the openai package")
        whole.touch()
    return folder / "node_modules"


class Node(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.modules = modules()
        cls.s = Server("--alias", "gpt-4o")

    @classmethod
    def tearDownClass(cls):
        cls.s.stop()

    def run_case(self, name, s=None):
        done = subprocess.run(["node", NODE / "openai.cjs", (s or self.s).url, name], env={**os.environ, "NODE_PATH": str(self.modules)},
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT_S)
        self.assertEqual((done.returncode, done.stdout), (0, ""))

    def test_models(self):
        self.run_case("models")

    def test_completions(self):
        self.run_case("completions")

    def test_chat(self):
        self.run_case("chat")

    def test_raw_answers(self):
        self.run_case("raw")

    def test_json(self):
        self.run_case("json")

    def test_embeddings(self):
        self.run_case("embeddings")

    def test_responses(self):
        self.run_case("responses")

    def test_errors(self):
        self.run_case("errors")

    def test_a_client_that_leaves(self):
        self.run_case("leaving")

    def test_tools(self):
        text = ("<think>hm</think>\nBoth.<tool_call>{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Köln\"}}</tool_call>\n"
                "<tool_call>\n{\"name\":\"add\", \"arguments\":{}}\n</tool_call>")
        with tempfile.TemporaryDirectory() as folder:
            path = recite.write(str(pathlib.Path(folder, "calls.gguf")), text, "{# <think> </think> <tool_call> #}" + recite.TURNS)
            with Server(model=path) as s:
                self.run_case("tools", s)


if __name__ == "__main__":
    unittest.main()
