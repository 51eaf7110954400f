"""A real server for a test: started on a free port, waited for by what it says, and stopped with a look at how it went."""
import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import threading
import time

import requests

LIMIT_S = 120  # for anything a test waits for; sanitizer builds on a busy machine are slow

# A conversation as the tiny story model can be given one: it only has to be stable.
TEMPLATE = ("{%- for m in messages -%}{{ m.role }}: {{ m.content }}\n{%- endfor -%}"
            "{%- if add_generation_prompt -%}assistant:{%- endif -%}")
# Keeps the tiny models, the random one too, from ending and from writing single bytes: ids 2 to 258 of their vocabularies
# are the end and the 256 bytes. What is left is text that can be cut and compared.
PLAIN = {str(i): -100 for i in range(2, 259)}
REPORTS = ("AddressSanitizer", "LeakSanitizer", "ThreadSanitizer", "runtime error:", "assertion failed")


def binary(kind=""):
    return os.environ["AUTOGLM_TEST_BIN" + kind]


_models = tempfile.TemporaryDirectory(prefix="autoglm-models-")


def tiny_model():
    """stories260K where the test data is there, else a random model of that size."""
    path = pathlib.Path(os.environ["AUTOGLM_TEST_DATA"]) / "models/stories260K-F32.gguf"
    if path.exists():
        return str(path)
    import tiny_models
    made = pathlib.Path(_models.name, "tiny-llama-F32.gguf")
    return str(made) if made.exists() else tiny_models.write(_models.name, "llama")


def long_model():
    """The same, with a context long enough for answers that do not end while a test looks at them."""
    path = pathlib.Path(_models.name, "long.gguf")
    if not path.exists():
        data = bytearray(pathlib.Path(tiny_model()).read_bytes())
        key = b"llama.context_length"
        at = data.index(key) + len(key)
        assert data[at:at + 4] == b"\x04\0\0\0", "context_length is a u32"
        data[at + 4:at + 8] = (1 << 20).to_bytes(4, "little")
        path.write_bytes(data)
    return str(path)


def wait_for(what, check, limit_s=LIMIT_S):
    """Asks until the answer is true; the pause only saves processor time."""
    end = time.monotonic() + limit_s
    while True:
        answer = check()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {limit_s} s")
        time.sleep(0.01)


class Server:
    def __init__(self, *flags, model=None, kind="", env=None, ready=True, chat=True, log_file=None):
        self.dir = tempfile.TemporaryDirectory(prefix="autoglm-test-")
        self.folder = pathlib.Path(self.dir.name)
        command = [binary(kind), "serve", "--port", "0", "--log-format", "json", "-m", model or tiny_model()]
        if chat and model in (None, long_model()):
            (self.folder / "chat.jinja").write_text(TEMPLATE)
            command += ["--chat-template", str(self.folder / "chat.jinja")]
        if "--cache-bytes" not in flags:  # equal requests are computed each, unless a test is about that
            command += ["--cache-bytes", "0"]
        self.process = subprocess.Popen(command + list(flags), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True, errors="replace", env={**os.environ, **(env or {})})
        self.log, self.said, self.log_file = [], threading.Condition(), log_file
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self.output = threading.Thread(target=self.process.stdout.read, daemon=True)
        self.output.start()
        self.session = requests.Session()
        self.session.trust_env = False
        try:
            self.port = self.wait_line("listening")["port"]
            self.url = f"http://127.0.0.1:{self.port}"
            if ready:
                self.wait_line("ready")
                assert self.get("/readyz").status_code == 200
        except BaseException:
            self.kill()
            raise

    def _read(self):
        for line in self.process.stderr:
            with self.said:
                self.log.append(line.rstrip("\n"))
                self.said.notify_all()
        with self.said:
            self.log.append(None)  # the end
            self.said.notify_all()

    def lines(self):
        """Log lines so far, as objects; what is no JSON (a sanitizer's report) is left to check()."""
        found = []
        if self.log_file:
            said = self.log_file.read_text().splitlines() if self.log_file.exists() else []
        else:
            said = list(self.log)
        for line in said:
            if line and line.startswith("{"):
                try:
                    found.append(json.loads(line))
                except ValueError:
                    pass
        return found

    def wait_line(self, message, number=1):
        """The number-th log line with this message."""
        def seen():
            found = [entry for entry in self.lines() if entry.get("msg") == message]
            return found[number - 1] if len(found) >= number else None
        end = time.monotonic() + LIMIT_S
        with self.said:
            while True:
                found = seen()
                if found:
                    return found
                if self.log and self.log[-1] is None:
                    raise AssertionError(f"the server ended without saying '{message}':\n" + self.tail())
                if time.monotonic() > end:
                    raise AssertionError(f"'{message}' was not said within {LIMIT_S} s:\n" + self.tail())
                self.said.wait(0.05 if self.log_file else 1)

    def tail(self):
        return "\n".join(line for line in self.log[-60:] if line is not None)

    def get(self, path, **more):
        return self.session.get(self.url + path, timeout=LIMIT_S, **more)

    def post(self, path, body=None, **more):
        if body is not None:
            more["json"] = body
        return self.session.post(self.url + path, timeout=LIMIT_S, **more)

    def complete(self, prompt="Once upon a time", **fields):
        r = self.post("/v1/completions", {"prompt": prompt, "temperature": 0, "max_tokens": 16, **fields})
        assert r.status_code == 200, r.text
        return r.json()

    def stream(self, path="/v1/completions", **fields):
        """Yields the chunks of a streamed answer as objects."""
        body = {"stream": True, **fields}
        with requests.post(self.url + path, json=body, stream=True, timeout=LIMIT_S) as r:
            assert r.status_code == 200, r.text
            assert r.headers["Content-Type"].startswith("text/event-stream"), r.headers
            yield from events(r.iter_lines())

    def metrics(self):
        """{'name{label="x"}': value}"""
        found = {}
        for line in self.get("/metrics").text.splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                found[name] = float(value)
        return found

    def metric(self, name, **labels):
        """The sum of a metric over the label sets that have these labels."""
        total = 0.0
        for key, value in self.metrics().items():
            base, _, rest = key.partition("{")
            if base == name and all(f'{k}="{v}"' in rest for k, v in labels.items()):
                total += value
        return total

    def idle(self):
        """Nothing running, nothing waiting, every KV page free or only kept for reuse."""
        names = ("autoglm_generations_running", "autoglm_generations_waiting")  # in one look: who waited may run by the next
        return sum(value for key, value in self.metrics().items() if key.partition("{")[0] in names) == 0

    def signal(self, number):
        self.process.send_signal(number)

    def check(self):
        """No sanitizer said anything."""
        text = "\n".join(line for line in self.log if line)
        if any(word in text for word in REPORTS):
            raise AssertionError(text[-8000:])

    def wait(self, limit_s=LIMIT_S):
        code = self.process.wait(limit_s)
        self.reader.join(10)
        self.session.close()
        return code

    def stop(self):
        """SIGTERM, and a clean end."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        self.end()

    def end(self):
        """It leaves by itself, and well."""
        code = self.wait()
        self.check()
        self.dir.cleanup()
        if code != 0:
            raise AssertionError(f"the server left with {code}:\n" + self.tail())

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        self.dir.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is None:
            self.stop()
        else:
            self.kill()

    def rss_kib(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status).group(1))


class Keyed:
    """A server with a file of keys, and the command that makes them."""

    def __init__(self, *flags, **more):
        self.dir = tempfile.TemporaryDirectory(prefix="autoglm-keys-")
        self.db = pathlib.Path(self.dir.name, "keys.db")
        self.s = Server("--keys-db", str(self.db), *flags, **more)

    def keys(self, *args):
        done = subprocess.run([binary(), "keys", *map(str, args), "--db", str(self.db), "--json"], capture_output=True, text=True,
                              timeout=LIMIT_S)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def client(self, key):
        import openai  # not every test has to wait for it
        return openai.OpenAI(base_url=self.s.url + "/v1", api_key=key, timeout=LIMIT_S, max_retries=0)

    def key(self, *args):
        """A key that the server knows already."""
        made = self.keys("create", *args)
        wait_for("the key to be known", lambda: self.status(made["key"]) == 200)
        return made

    def status(self, key):
        return self.s.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code

    def ask(self, key):
        body = {"prompt": "Once", "max_tokens": 2}
        return self.s.post("/v1/completions", body, headers={"Authorization": f"Bearer {key}"}).status_code

    def __enter__(self):
        self.s.__enter__()
        return self

    def __exit__(self, *why):
        if self.s.process.poll() is None:
            self.s.__exit__(*why)
        else:
            self.s.kill()  # a test ended it, and has looked how that went
        self.dir.cleanup()


def events(lines):
    """The objects of a server-sent event stream, up to [DONE], which must come."""
    done = False
    for line in lines:
        if not line:
            continue
        assert not done, f"after [DONE]: {line!r}"
        assert line.startswith(b"data: "), line
        if line == b"data: [DONE]":
            done = True
            continue
        yield json.loads(line[len(b"data: "):])
    assert done, "the stream ended without [DONE]"


def strictly(model, extra=()):
    """A vendor's package takes what comes; its models tell whether that was right. `extra`: fields that only we have."""
    again = type(model).model_validate(model.model_dump(by_alias=True), strict=True)
    assert again == model, (again, model)
    unknown = set(model.model_extra or ()) - set(extra)
    assert not unknown, f"{type(model).__name__} does not know {unknown}"
    return model


def text_of(chunks):
    """The text of a completion's or chat's stream, by choice."""
    texts = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            piece = choice["text"] if "text" in choice else choice["delta"].get("content") or ""
            texts[choice["index"]] = texts.get(choice["index"], "") + piece
    return texts
