"""Headless Chromium, driven over its DevTools protocol: pages, keys, and what the console said."""
import base64
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import tempfile

from websockets.sync.client import connect

from server import LIMIT_S, wait_for

# Keys by name, as the protocol wants them: code, key code, and the text that they type.
KEYS = {"Enter": ("Enter", 13, "\r"), "Tab": ("Tab", 9, ""), "Escape": ("Escape", 27, ""), " ": ("Space", 32, " "),
        "ArrowDown": ("ArrowDown", 40, ""), "End": ("End", 35, "")}
SHIFT = 8


def chromium():
    """The browser's program, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One browser with one page. Events that nobody asked for are kept, so that a test can look at all that went wrong."""

    def __init__(self, width=1200, height=800):
        self.dir = tempfile.TemporaryDirectory(prefix="autoglm-browser-", ignore_cleanup_errors=True)
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        self.process = subprocess.Popen(
            [chromium(), "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={self.dir.name}", *root,
             "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions", "--disable-sync",
             "--disable-background-networking", "--disable-component-update", "--no-proxy-server", "--hide-scrollbars",
             f"--window-size={width},{height}", "about:blank"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        self.ids, self.events, self.socket = itertools.count(1), [], None
        try:
            port_file = pathlib.Path(self.dir.name, "DevToolsActivePort")
            port, path = wait_for("Chromium's port", lambda: port_file.exists() and port_file.read_text().split("\n")[1:]
                                  and port_file.read_text().split("\n")[:2])
            self.socket = connect(f"ws://127.0.0.1:{port}{path}", max_size=64 << 20, compression=None, proxy=None)
            self.session = None
            page = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
            self.session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network", "Audits"):
                self.call(domain + ".enable")
        except BaseException:
            self.close()
            raise

    def call(self, method, **params):
        number = next(self.ids)
        message = {"id": number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.socket.send(json.dumps(message))
        while True:
            got = json.loads(self.socket.recv(LIMIT_S))
            if got.get("id") == number:
                if "error" in got:
                    raise AssertionError(f"{method}: {got['error']}")
                return got["result"]
            self.events.append(got)

    def eval(self, expression):
        """The value of an expression, awaited; what a page throws fails the test."""
        got = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True)
        if "exceptionDetails" in got:
            raise AssertionError(f"{expression[:1000]}: {got['exceptionDetails']}")
        return got["result"].get("value")

    def wait(self, expression, limit_s=LIMIT_S):
        """Asks the page until the expression is true."""
        try:
            return wait_for(expression, lambda: self.eval(expression), limit_s)
        except AssertionError as e:
            raise AssertionError(f"{e}\nthe page says:\n{self.eval('document.body.innerText')[:2000]}\n{self.troubles()}") from None

    def goto(self, url):
        self.call("Page.navigate", url=url)
        self.wait(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def key(self, key, modifiers=0):
        code, number, text = KEYS[key]
        press = {"key": key, "code": code, "windowsVirtualKeyCode": number, "modifiers": modifiers}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **press)
        self.call("Input.dispatchKeyEvent", type="keyUp", **press)

    def type(self, text):
        self.call("Input.insertText", text=text)

    def focused(self):
        """The id, else the name or text, of what has the focus."""
        return self.eval("(e => e.id || e.name || e.textContent.trim())(document.activeElement)")

    def screen(self, width, height, scale=1, touch=False, dark=False, still=False):
        """A screen of that size, and what its owner prefers."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=touch)
        self.call("Emulation.setTouchEmulationEnabled", enabled=touch)
        self.call("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"}])

    def shot(self, path):
        png = self.call("Page.captureScreenshot", format="png")["data"]
        pathlib.Path(path).write_bytes(base64.b64decode(png))

    def troubles(self):
        """What the console was told of errors, exceptions and broken policies; failed requests are among them."""
        self.eval("0")  # what was said before this has arrived
        found = []
        for event in self.events:
            p = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(json.dumps(p["exceptionDetails"]))
            if event.get("method") == "Runtime.consoleAPICalled" and p["type"] in ("error", "warning", "assert"):
                found.append(json.dumps(p["args"]))
            if event.get("method") == "Log.entryAdded" and p["entry"]["level"] in ("error", "warning"):
                found.append(f"{p['entry']['text']} {p['entry'].get('url', '')}")
            if event.get("method") == "Audits.issueAdded":
                found.append(json.dumps(p["issue"]))
        return found

    def close(self):
        if self.socket:
            self.socket.close()
        self.process.kill()
        self.process.wait()
        self.dir.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.close()
