"""The playground at "/": the files as HTTP sends them, and the page in a headless browser, as people use it."""
import base64
import json
import re
import subprocess
import unittest

import requests

from browser import SHIFT, Browser, chromium
from server import LIMIT_S, Server, events, long_model, text_of, wait_for

FILES = {"/": "text/html; charset=utf-8", "/playground.css": "text/css; charset=utf-8",
         "/playground.js": "text/javascript; charset=utf-8"}
KEY = "sk-only-for-the-page"
# What the server may send as an event stream, and the events in it: all three ends of lines, comments, fields without a
# value, several lines of data, and letters of several bytes.
STREAM = ("\ufeff: hello\n\ndata: one\n\ndata: two\r\ndata:  lines\r\n\r\nevent: error\rdata:x\r\rid: 7\nretry: 5\n"
          "data\n\nevent: none\n\ndata: ünï😀\n\ndata: cut off").encode()
EVENTS = [["message", "one"], ["message", "two\n lines"], ["error", "x"], ["message", ""], ["message", "ünï😀"]]
# Text that would be a page if anything took it for one.
HOSTILE = ("<img src=x onerror=alert(1)> <script>alert(1)</script> **<b>bold</b>** `<i>`\n\n# <u>head</u>\n\n"
           "- <a href='javascript:alert(1)'>x</a>\n- two\n\n```html\n<iframe src=//evil.example></iframe>\n" + "w" * 400 + "\n```\n" + "l" * 400)


class Files(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.s = Server()

    @classmethod
    def tearDownClass(cls):
        cls.s.stop()

    def test_headers(self):
        for path, kind in FILES.items():
            with self.subTest(path):
                r = self.s.get(path)
                self.assertEqual((r.status_code, r.headers["content-type"]), (200, kind))
                self.assertEqual(r.headers["x-content-type-options"], "nosniff")
                self.assertEqual(r.headers["referrer-policy"], "no-referrer")
                self.assertEqual(r.headers["cache-control"], "no-cache")
                policy = dict(part.strip().split(" ", 1) for part in r.headers["content-security-policy"].split(";"))
                self.assertEqual(policy["default-src"], "'none'")
                self.assertEqual(policy["frame-ancestors"], "'none'")
                self.assertEqual(policy["require-trusted-types-for"], "'script'")
                self.assertNotIn("unsafe", r.headers["content-security-policy"])
                head = self.s.session.head(self.s.url + path)
                self.assertEqual((head.status_code, head.content), (200, b""))
                for name in ("content-length", "etag", "content-type", "content-security-policy"):
                    self.assertEqual(head.headers[name], r.headers[name])
                post = self.s.post(path, {})
                self.assertEqual((post.status_code, post.headers["allow"]), (405, "GET, HEAD, OPTIONS"))

    def test_tags(self):
        tags = {path: self.s.get(path).headers["etag"] for path in FILES}
        self.assertEqual(len(set(tags.values())), len(FILES))
        tag = tags["/"]
        for known in (tag, "W/" + tag, f'"other", {tag}', "*"):
            r = self.s.get("/", headers={"If-None-Match": known})
            self.assertEqual((r.status_code, r.content, r.headers["etag"]), (304, b"", tag), known)
        for other in ('"other"', tag.strip('"'), tags["/playground.js"], ""):
            self.assertEqual(self.s.get("/", headers={"If-None-Match": other}).status_code, 200, other)

    def test_nothing_else_is_there(self):
        for path in ("//", "/index.html", "/x", "/playground.css/", "/../playground.js"):
            r = requests.Request("GET", self.s.url).prepare()
            r.url = self.s.url + path
            self.assertEqual(self.s.session.send(r, timeout=LIMIT_S).status_code, 404, path)

    def test_the_guard_stands_before_it(self):
        for path in FILES:
            self.assertEqual(self.s.get(path, headers={"Host": "rebound.example"}).status_code, 403)
            self.assertEqual(self.s.get(path, headers={"Origin": "https://evil.example"}).status_code, 403)

    def test_no_outside_resources(self):
        for path in FILES:
            text = self.s.get(path).text.replace("http://www.w3.org/2000/svg", "")
            self.assertNotRegex(text, r"https?://|@import|innerHTML|outerHTML|insertAdjacentHTML|document\.write")


@unittest.skipIf(chromium() is None, "chromium is not installed: the playground is not tested in a browser")
class Page(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.s = Server(model=long_model())
        cls.b = Browser()

    @classmethod
    def tearDownClass(cls):
        cls.b.close()
        cls.s.stop()

    def setUp(self):
        self.b.screen(1200, 800)
        self.open(self.s)

    def open(self, server, ready=True):
        self.b.goto(server.url + "/")
        if ready:
            self.b.wait("!document.getElementById('model').disabled")
        self.b.events.clear()

    def assertQuiet(self, but="^$"):
        self.assertEqual([t for t in self.b.troubles() if not re.search(but, t)], [])

    def put(self, selector, value):
        self.b.eval(f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.value = {json.dumps(value)};"
                    "e.dispatchEvent(new Event('input', {bubbles: true})); e.dispatchEvent(new Event('change', {bubbles: true})); })()")

    def settings(self, **fields):
        for name, value in fields.items():
            self.put(f"[name={name}]", str(value))

    def ask(self, text, wait=True):
        self.b.eval("document.getElementById('draft').focus()")
        self.b.type(text)
        self.b.key("Enter")
        self.b.wait("document.getElementById('draft').value === ''")
        if wait:
            self.b.wait("running === null")

    def click(self, name):
        self.b.eval(f"[...document.querySelectorAll('button')].find(b => b.innerText === {json.dumps(name)} && b.checkVisibility()).click()")

    def answer_with(self, text):
        """The next answer is this text, in the server's form, in pieces of seven bytes."""
        self.b.eval("""window.fetch = async () => {
          const bytes = new TextEncoder().encode(%s.map(part => 'data: ' + part + '\\n\\n').join(''));
          return new Response(new ReadableStream({start(c) {
            for (let i = 0; i < bytes.length; i += 7) c.enqueue(bytes.slice(i, i + 7));
            c.close();
          }}), {status: 200, headers: {'x-request-id': 'req-page'}}); }""" % json.dumps(text))

    def last(self):
        nodes = ("text", "thinking", "thoughts", "failure", "list", "actions", "node")
        return self.b.eval("({...talk.at(-1), %s})" % ", ".join(f"{name}: null" for name in nodes))

    def test_chat(self):
        self.settings(temperature=0, max_tokens=12)
        self.ask("Tell me a story.")
        body = {"messages": [{"role": "user", "content": "Tell me a story."}], "temperature": 0, "max_tokens": 12}
        want = self.s.post("/v1/chat/completions", body).json()
        self.assertEqual(self.last()["answer"], want["choices"][0]["message"]["content"])
        figures = dict(self.last()["figures"])
        self.assertEqual(figures["Answer"], f"{want['usage']['completion_tokens']} tokens")
        self.assertTrue(figures["Prompt"].startswith(f"{want['usage']['prompt_tokens']} tokens"), figures)
        self.assertRegex(figures["First token"], r"^\d+(\.\d+)? m?s$")
        self.assertEqual(figures["Ended"], "at its limit")
        shown = self.b.eval("document.querySelector('.exchange .figures').innerText")
        self.assertIn("First token " + figures["First token"], shown.replace("\n", " "))
        # The second turn carries the first, and the system prompt.
        self.put("#system", "You are brief.")
        self.ask("And then?")
        roles = [m["role"] for m in self.last()["body"]["messages"]]
        self.assertEqual(roles, ["system", "user", "assistant", "user"])
        self.assertEqual(self.b.eval("document.querySelectorAll('.exchange').length"), 2)
        self.assertIn("Answered with 12 tokens", self.b.eval("document.getElementById('status').textContent"))
        self.assertQuiet()

    def test_figures(self):
        """By what the stream said and when it came: by a clock that the test moves."""
        piece = json.dumps({"choices": [{"delta": {"content": "x"}, "finish_reason": None}]})
        usage = json.dumps({"choices": [], "usage": {"prompt_tokens": 40, "completion_tokens": 21,
                                                     "prompt_tokens_details": {"cached_tokens": 32}}})
        self.answer_with([piece, piece, usage, "[DONE]"])
        self.b.eval("{ const times = [1000, 1250, 3250]; let at = 0; performance.now = () => times[Math.min(at++, 2)]; }")
        self.ask("Hello.")
        self.assertEqual(self.last()["figures"], [["First token", "250 ms"], ["Speed", "10.0 tokens/s"],
                                                  ["Prompt", "40 tokens (32 reused)"], ["Answer", "21 tokens"]])
        self.assertIn("Answered with 21 tokens in 2.25 s.", self.b.eval("document.getElementById('status').textContent"))
        self.assertQuiet()

    def test_thoughts(self):
        def part(**delta):
            return json.dumps({"choices": [{"delta": delta, "finish_reason": None}]})
        self.answer_with([part(reasoning_content="Hm, "), part(reasoning_content="<b>so</b>."), part(content="Yes."), "[DONE]"])
        self.ask("Is it?")
        self.assertEqual((self.last()["thought"], self.last()["answer"]), ("Hm, <b>so</b>.", "Yes."))
        self.assertEqual(self.b.eval("document.querySelector('.thoughts .text').textContent"), "Hm, <b>so</b>.")
        self.assertFalse(self.b.eval("document.querySelector('.thoughts').open"))
        # Where there are none, nothing of them shows; and they are not sent again.
        self.answer_with([part(content="No."), "[DONE]"])
        self.ask("Or not?")
        self.assertTrue(self.b.eval("document.querySelector('.exchange:last-child .thoughts').hidden"))
        self.assertEqual([m["content"] for m in self.last()["body"]["messages"]], ["Is it?", "Yes.", "Or not?"])
        self.assertQuiet()

    def test_edit_and_again(self):
        self.settings(temperature=1, max_tokens=8)
        self.ask("First question.")
        self.ask("Second question.")
        before = self.b.eval("talk[0].answer")
        self.settings(temperature=0)
        self.click("Try again")
        self.b.wait("running === null")
        self.assertEqual(self.last()["body"]["temperature"], 0)
        self.put("#draft", "half a thought")
        self.click("Edit")
        self.assertEqual(self.b.eval("document.getElementById('draft').value"), "Second question.")
        self.b.key("Escape")
        self.assertEqual(self.b.eval("document.getElementById('draft').value"), "half a thought")
        self.click("Edit")
        self.put("#draft", "Another question.")
        self.b.key("Enter")
        self.b.wait("running === null && talk.at(-1).question === 'Another question.' && !talk.at(-1).busy")
        self.assertEqual(self.b.eval("talk.map(x => x.question)"), ["First question.", "Another question."])
        self.assertEqual([m["content"] for m in self.last()["body"]["messages"]], ["First question.", before, "Another question."])
        self.assertEqual(self.b.eval("document.querySelectorAll('.exchange').length"), 2)
        self.click("New conversation")
        self.assertEqual(self.b.eval("[talk.length, document.getElementById('welcome').hidden]"), [0, False])
        self.assertQuiet()

    def test_stop(self):
        self.b.eval("{ const made = bodyOf; window.bodyOf = x => ({...made(x), ignore_eos: true, max_tokens: 100000}); }")
        for how in ("Escape", "Stop"):
            with self.subTest(how):
                self.ask("Tell me a long story.", wait=False)
                self.b.wait("talk.at(-1).answer.length > 20")
                self.assertEqual(self.b.eval("document.querySelector('.exchange:last-child .answer > .text').getAttribute('aria-busy')"), "true")
                if how == "Escape":
                    self.b.key("Escape")
                else:
                    self.b.eval("document.getElementById('send').click()")
                self.b.wait("running === null")
                self.assertIn(["Ended", "stopped by you"], self.last()["figures"])
                self.assertTrue(self.last()["answer"])
                wait_for("the engine to be idle", self.s.idle)
        self.assertQuiet()

    def test_errors_are_the_servers_sentences(self):
        for fields, status in (({"max_tokens": 1 << 29}, 400), ({"temperature": 0, "max_tokens": 4, "top_k": 2000000}, 400)):
            self.settings(**{"top_k": "", **fields})
            self.ask("Hello.")
            body = {"messages": [{"role": "user", "content": "Hello."}], **fields}
            want = self.s.post("/v1/chat/completions", body)
            self.assertEqual(want.status_code, status)
            self.assertEqual(self.last()["error"], want.json()["error"]["message"])
            self.assertRegex(self.b.eval("document.querySelector('.exchange:last-child .failure').innerText"), "Request req-")
        # An exchange that failed is not part of the next one.
        self.settings(top_k="", max_tokens=4)
        self.ask("Once more.")
        self.assertEqual(len(self.last()["body"]["messages"]), 1)
        self.assertEqual(self.last()["error"], "")
        # After the answer has begun.
        chunk = json.dumps({"choices": [{"delta": {"content": "Once"}}]})
        for parts, say in (([chunk, '{"error": {"message": "The engine failed.", "request_id": "req-7"}}', "[DONE]"], "The engine failed."),
                           ([chunk], "The answer was broken off."), (["{"], "The server sent an event that is not JSON.")):
            self.answer_with(parts)
            self.ask("Go on.")
            self.assertEqual((self.last()["error"], self.last()["answer"]), (say, "Once" if chunk in parts else ""))
        self.b.eval("window.fetch = async () => { throw new TypeError('Failed to fetch'); }")
        self.ask("Anybody?")
        self.assertEqual(self.last()["error"], "The server cannot be reached.")
        self.settings(temperature="11")
        self.put("#draft", "Hello.")
        self.b.key("Enter")
        self.assertEqual(self.b.eval("[document.activeElement.name, talk.length]"), ["temperature", 7])
        self.assertQuiet("status of 400")

    def test_key(self):
        with Server(env={"AUTOGLM_API_KEY": KEY}) as s:
            for width in (1200, 360):
                self.b.screen(width, 800)
                self.open(s, ready=False)
                say = s.get("/v1/models").json()["error"]["message"]
                self.b.wait(f"document.getElementById('key-note').textContent === {json.dumps(say)}")
                self.assertEqual(self.b.focused(), "key")
                self.b.type(KEY)
                self.b.eval("document.activeElement.blur()")
                self.b.wait("!document.getElementById('model').disabled")
                self.settings(max_tokens=3)
                self.b.eval("closePanel()")
                self.ask("Hello.")
                self.assertEqual(self.last()["error"], "")
                self.assertEqual(self.b.eval("sessionStorage.getItem('autoglm-key')"), KEY)
                kept = self.b.eval("JSON.stringify(localStorage) + document.documentElement.outerHTML")
                self.assertNotIn(KEY, kept)
                self.assertIn('-H "Authorization: Bearer $AUTOGLM_API_KEY"', self.b.eval("document.getElementById('curl').textContent"))
                self.b.eval("sessionStorage.clear()")
                self.assertFalse(any(KEY in (line or "") for line in s.log))
            self.assertQuiet("status of 401")

    def test_curl(self):
        self.settings(temperature=0, max_tokens=9)
        self.put("#system", "It's \"quoted\" \\ $HOME `x`\nover two lines")
        self.put("#stop", "zzz\nyyy")
        self.ask("Don't panic: 'quote' $(date)")
        line = self.b.eval("document.getElementById('curl').textContent")
        done = subprocess.run(["sh", "-c", line.replace("curl -N", "curl -sSN --noproxy '*'")], stdout=subprocess.PIPE, timeout=LIMIT_S)
        chunks = list(events(done.stdout.split(b"\n")))
        self.assertEqual(text_of(chunks)[0], self.last()["answer"])
        self.assertEqual(self.last()["body"]["stop"], ["zzz", "yyy"])
        self.b.eval("window.copied = ''; navigator.clipboard.writeText = async text => { window.copied = text; }")
        self.b.eval("document.getElementById('copy').click()")
        self.b.wait("document.getElementById('status').textContent === 'Copied.'")
        self.assertEqual(self.b.eval("window.copied"), line)
        # What is being written is shown before it is sent.
        self.put("#draft", "next")
        self.assertIn('"content":"next"', self.b.eval("document.getElementById('curl').textContent"))
        self.assertQuiet()

    def test_events(self):
        got = self.b.eval("""(async () => {
          const bytes = Uint8Array.from(atob('%s'), c => c.charCodeAt(0)), found = new Set();
          const read = async pieces => {
            const events = [], stream = new ReadableStream({start(c) { pieces.forEach(p => c.enqueue(p)); c.close(); }});
            for await (const e of eventsOf(stream)) events.push([e.type, e.data]);
            found.add(JSON.stringify(events));
          };
          for (let i = 0; i <= bytes.length; i++) await read([bytes.slice(0, i), bytes.slice(i)]);
          await read([...bytes].map(b => Uint8Array.of(b)));
          return [...found].map(JSON.parse); })()""" % base64.b64encode(STREAM).decode())
        self.assertEqual(got, [EVENTS])

    def test_text_stays_text(self):
        self.answer_with([json.dumps({"choices": [{"delta": {"content": HOSTILE}}]}), "[DONE]"])
        self.ask(HOSTILE.replace("\n", " "))
        tags = self.b.eval("[...new Set([...document.querySelectorAll('.exchange *')].map(e => e.localName))]")
        self.assertFalse({"img", "script", "a", "iframe", "b", "i", "u"} & set(tags), tags)
        blocks = self.b.eval("[...document.querySelectorAll('.answer .text > *')].map(e => e.localName)")
        self.assertEqual(blocks, ["p", "h4", "ul", "div", "p"])
        self.assertEqual(self.b.eval("document.querySelector('.answer strong').textContent"), "<b>bold</b>")
        self.assertIn("<iframe src=//evil.example>", self.b.eval("document.querySelector('.answer pre').textContent"))
        # Ends for whatever a model may say, in the order of its length.
        for text in ("`" * 200000, "**" * 100000, "```\n" * 50000, "- x\n" * 20000, "1. \n" * 20000, "#" * 100000, "*a" * 100000):
            self.assertTrue(self.b.eval(f"(render(document.createElement('div'), {json.dumps(text)}), true)"))
        self.assertQuiet()

    def test_keyboard(self):
        self.settings(temperature=0, max_tokens=4)
        self.b.eval("document.getElementById('draft').focus()")
        self.b.type("one")
        self.b.key("Enter", SHIFT)
        self.b.type("two")
        self.assertEqual(self.b.eval("document.getElementById('draft').value"), "one\ntwo")
        self.b.key("Enter")
        self.b.wait("running === null && talk.length === 1")
        self.assertEqual(self.last()["question"], "one\ntwo")
        self.assertEqual(self.b.focused(), "draft")
        # Once around: everything that can be used is reached, named, and seen to have the focus.
        self.put("#draft", "x")
        seen = []
        while True:
            self.b.key("Tab")
            if self.b.eval("document.activeElement === document.body"):
                continue  # between the last and the first
            if self.b.focused() in seen:
                break
            seen.append(self.b.focused())
            self.assertTrue(self.b.eval("""(() => {
              const e = document.activeElement, box = e.id === 'draft' ? e.closest('.box') : e, r = e.getBoundingClientRect();
              return getComputedStyle(box).outlineStyle !== 'none' && parseFloat(getComputedStyle(box).outlineWidth) >= 2
                && r.width > 0 && r.bottom > 0 && r.top < innerHeight; })()"""), seen[-1])
        want = self.b.eval("""[...document.querySelectorAll('button, input, select, textarea, summary, pre[tabindex]')]
          .filter(e => !e.disabled && e.checkVisibility()).map(e => e.id || e.name || e.textContent.trim())""")
        self.assertEqual(set(seen) - {"panel"}, set(want))  # Chromium lets whatever scrolls be reached
        self.assertEqual(seen[-1], "draft")
        nodes = self.b.call("Accessibility.getFullAXTree")["nodes"]
        for node in nodes:
            role = node.get("role", {}).get("value")
            if role in ("button", "textbox", "combobox", "spinbutton", "log", "dialog"):
                self.assertTrue(node.get("name", {}).get("value"), node)
        self.assertTrue(self.b.eval("document.getElementById('status').role === 'status' && document.getElementById('talk').role === 'log'"))
        # The settings, opened and closed again by keyboard where they lie over the page.
        self.b.screen(360, 740, touch=True)
        self.b.wait("!document.getElementById('panel').open")
        self.b.eval("document.getElementById('settings').focus()")
        self.b.key("Enter")
        self.b.wait("document.getElementById('panel').matches(':modal')")
        self.b.key("Escape")
        self.b.wait("!document.getElementById('panel').open")
        self.b.wait("document.getElementById('settings').getAttribute('aria-expanded') === 'false'")
        self.assertEqual(self.b.focused(), "settings")
        self.assertQuiet()

    def test_small_screens(self):
        for dark in (False, True):
            self.b.screen(360, 640, scale=2, touch=True, dark=dark, still=True)
            self.open(self.s)
            paper = self.b.eval("getComputedStyle(document.body).backgroundColor")
            self.assertEqual(sum(map(int, re.findall(r"\d+", paper))) < 384, dark)
            wide = "document.documentElement.scrollWidth > innerWidth || document.body.scrollWidth > innerWidth"
            self.assertFalse(self.b.eval(wide))
            self.b.eval("openPanel(); document.getElementById('more').open = true")
            self.assertFalse(self.b.eval(wide + " || document.getElementById('panel').scrollWidth > innerWidth"))
            self.b.eval("closePanel()")
            self.answer_with([json.dumps({"choices": [{"delta": {"content": HOSTILE}}]}), "[DONE]"])
            self.put("#draft", HOSTILE)
            self.b.eval("send()")
            self.b.wait("running === null")
            self.assertFalse(self.b.eval(wide))
            # Nothing moves for whoever does not want it.
            self.b.eval("document.querySelector('.answer > .text').classList.add('waiting')")
            moves = "getComputedStyle(document.querySelector('.answer > .text'), '::after').animationName"
            self.assertEqual(self.b.eval(moves), "none")
            self.b.screen(360, 640, scale=2, touch=True, dark=dark)
            self.assertEqual(self.b.eval(moves), "breathe")
        self.assertQuiet()

    def test_contrast(self):
        """4.5 to 1 for text, 3 to 1 for the edges of fields, in both palettes."""
        for dark in (False, True):
            self.b.screen(1200, 800, dark=dark)
            pairs = [("--ink", "--paper", 4.5), ("--ink", "--card", 4.5), ("--ink", "--mine", 4.5), ("--soft", "--paper", 4.5),
                     ("--soft", "--card", 4.5), ("--soft", "--shade", 4.5), ("--on-accent", "--accent", 4.5), ("--bad", "--bad-paper", 4.5),
                     ("--bad", "--paper", 4.5), ("--edge", "--card", 3), ("--accent", "--paper", 3), ("--accent", "--card", 3)]
            for front, back, least in pairs:
                a, b = (self.light(name) for name in (front, back))
                self.assertGreaterEqual((max(a, b) + 0.05) / (min(a, b) + 0.05), least, (front, back, dark))

    def light(self, name):
        """Relative luminance of a colour of the page."""
        text = self.b.eval(f"getComputedStyle(document.documentElement).getPropertyValue('{name}')").strip()
        parts = [int(text[i:i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
