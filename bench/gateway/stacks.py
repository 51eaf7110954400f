"""The servers that bench/gateway/run compares, each on a port of its own and, where it says so, on a core of its own."""
import contextlib
import hashlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.append(str(ROOT / "bench/serving"))
import servers as m  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
CACHE = ROOT / ".cache/gateway"
KEY = "sk-bench-gateway"
READY_S = 120


class Missing(Exception):
    """A program that cannot be had here; the text says why."""


def tool(name, package):
    """Where a program is; Debian keeps servers where not everyone's PATH looks."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        raise Missing(f"{name} is not installed (package {package})")
    return found


def said(command, pattern):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    found = re.search(pattern, done.stdout)
    return found.group(1) if found else "of unknown version"


def venv():
    """The Python with LiteLLM and gunicorn in it; a stamp tells that its installation was finished."""
    folder, wanted = CACHE / "venv", (HERE / "requirements.txt").read_text()
    stamp, python = folder / "installed.txt", folder / "bin/python"
    if not (stamp.exists() and stamp.read_text() == wanted and python.exists()):
        print(f"installing LiteLLM and gunicorn in {folder.relative_to(ROOT)} (some minutes)", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        done = subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r",
                               HERE / "requirements.txt"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise Missing("LiteLLM and gunicorn cannot be installed: " + done.stdout.strip()[-300:])
        stamp.write_text(wanted)
    return python


def package_version(python, name):
    return said([python, "-c", f"import importlib.metadata as m; print('v', m.version({name!r}))"], r"v (\S+)")


def pinned(core, command):
    return ["taskset", "-c", str(core), *map(str, command)] if core is not None else [str(c) for c in command]


def tree_rss(pid):
    """Bytes of memory of a process and of all that it started."""
    total, todo = 0, [pid]
    while todo:
        at = todo.pop()
        try:
            status = pathlib.Path(f"/proc/{at}/status").read_text()
            todo += [int(x) for x in pathlib.Path(f"/proc/{at}/task/{at}/children").read_text().split()]
        except OSError:
            continue  # it has ended
        found = re.search(r"VmRSS:\s+(\d+)", status)
        total += int(found.group(1)) * 1024 if found else 0
    return total


@contextlib.contextmanager
def running(command, url, environment=None):
    """A process of its own session, ready when `url` answers, and gone at the end with all that it started."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   env={**os.environ, **(environment or {})}, start_new_session=True)
        try:
            m.await_url(url, process, READY_S, log)
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


NO_CACHE = ("--cache-bytes", 0)  # equal requests are answered each
TUNED = ("--log-level", "warn", "--requests-per-connection", 0)


@contextlib.contextmanager
def ours(binary, model, core=None, key=True, flags=TUNED, cache=NO_CACHE):
    """(address, process) of the gateway with the model without weights."""
    port = m.free_port()
    command = [binary, "serve", "-m", model, "--port", port, "--loops", 1, *cache, *flags]
    url = f"http://127.0.0.1:{port}"
    with running(pinned(core, command), url + "/readyz", {"AUTOGLM_API_KEY": KEY} if key else {}) as process:
        yield url, process


@contextlib.contextmanager
def nginx(body, core=None):
    """One worker that sends these bytes for GET /answer.json, as nginx's own documentation sets it up for static files."""
    program, port = tool("nginx", "nginx-light"), m.free_port()
    with tempfile.TemporaryDirectory(prefix="autoglm-nginx-") as folder:
        home = pathlib.Path(folder)
        home.chmod(0o755)
        (home / "www").mkdir()
        (home / "www/answer.json").write_bytes(body)
        (home / "nginx.conf").write_text(f"""
worker_processes 1; daemon off; pid {home}/pid; error_log stderr error;
events {{ worker_connections 1024; }}
http {{
    access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; open_file_cache max=16;
    types {{ application/json json; }}
    client_body_temp_path {home}/t1; proxy_temp_path {home}/t2; fastcgi_temp_path {home}/t3;
    uwsgi_temp_path {home}/t4; scgi_temp_path {home}/t5;
    server {{ listen 127.0.0.1:{port}; root {home}/www; }}
}}
""")
        command = pinned(core, [program, "-p", folder, "-c", home / "nginx.conf"])
        with running(command, f"http://127.0.0.1:{port}/answer.json") as process:
            yield f"http://127.0.0.1:{port}", process


LOOKUP = """
    ngx.req.read_body()
    local red = require("nginx.redis"):new()
    assert(red:connect("unix:" .. ngx.var.redis))
    local answer = red:get(ngx.md5(ngx.req.get_body_data() or ""))
    red:set_keepalive(60000, 16)
    if answer == ngx.null then return ngx.exit(404) end
    ngx.header.content_type = "application/json"
    ngx.header.content_length = #answer
    ngx.print(answer)
"""


@contextlib.contextmanager
def nginx_redis(asked, answer, core=None):
    """A cache as it is put in front of a model: nginx's Lua looks in Redis for the hash of a request's body. Both on that core."""
    program, port, modules = tool("nginx", "nginx"), m.free_port(), pathlib.Path("/usr/lib/nginx/modules")
    wanted = modules / "ndk_http_module.so", modules / "ngx_http_lua_module.so"
    if not all(x.exists() for x in wanted) or not pathlib.Path("/usr/share/lua/5.1/nginx/redis.lua").exists():
        raise Missing("nginx has no Lua or no Redis (packages libnginx-mod-http-lua, lua-nginx-redis)")
    with tempfile.TemporaryDirectory(prefix="autoglm-nginx-") as folder:
        home = pathlib.Path(folder)
        home.chmod(0o755)
        socket = home / "redis.sock"
        loads = " ".join(f"load_module {x};" for x in wanted)
        (home / "nginx.conf").write_text(f"""
{loads} user root; worker_processes 1; daemon off; pid {home}/pid; error_log stderr error;
events {{ worker_connections 1024; }}
http {{
    access_log off; keepalive_requests 1000000000; client_body_buffer_size 64k;
    client_body_temp_path {home}/t1; proxy_temp_path {home}/t2; fastcgi_temp_path {home}/t3;
    uwsgi_temp_path {home}/t4; scgi_temp_path {home}/t5;
    server {{
        listen 127.0.0.1:{port};
        location = /ready {{ return 200; }}
        location / {{ set $redis {socket}; content_by_lua_block {{ {LOOKUP} }} }}
    }}
}}
""")
        redis = [tool("redis-server", "redis-server"), "--port", 0, "--unixsocket", socket, "--save", "", "--dir", home]
        key = hashlib.md5(asked.encode()).hexdigest()
        with subprocess.Popen(pinned(core, redis), stdout=subprocess.DEVNULL) as process:
            try:
                while subprocess.run(["redis-cli", "-s", socket, "-x", "set", key], input=answer, capture_output=True).stdout != b"OK\n":
                    if process.poll() is not None:
                        raise Missing("redis-server does not start")
                    time.sleep(0.05)
                with running(pinned(core, [program, "-p", folder, "-c", home / "nginx.conf"]), f"http://127.0.0.1:{port}/ready") as front:
                    yield f"http://127.0.0.1:{port}", front
            finally:
                process.terminate()


@contextlib.contextmanager
def litellm(backend, core=None):
    python, port = venv(), m.free_port()
    with tempfile.TemporaryDirectory(prefix="autoglm-litellm-") as folder:
        conf = pathlib.Path(folder, "config.yaml")
        conf.write_text(f"model_list:\n  - model_name: 'null'\n    litellm_params:\n      model: openai/null\n"
                        f"      api_base: {backend}/v1\n      api_key: x\nlitellm_settings:\n  telemetry: false\n"
                        f"general_settings:\n  dangerously_permit_weak_or_unset_master_key: true\n")
        command = pinned(core, [python, python.with_name("litellm"), "--config", conf, "--port", port, "--num_workers", 1])
        quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "NO_PROXY": "127.0.0.1"}
        with running(command, f"http://127.0.0.1:{port}/health/liveliness", quiet) as process:
            yield f"http://127.0.0.1:{port}", process


@contextlib.contextmanager
def gunicorn(backend, workers, core=None):
    python, port = venv(), m.free_port()
    command = pinned(core, [python, python.with_name("gunicorn"), "--chdir", HERE, "--worker-class", "sync", "--workers", workers,
                            "--bind", f"127.0.0.1:{port}", "--backlog", 2048, "sync_app:app"])
    with running(command, f"http://127.0.0.1:{port}/readyz", {"BACKEND": backend}) as process:
        yield f"http://127.0.0.1:{port}", process
