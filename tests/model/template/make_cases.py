#!/usr/bin/env python3
"""Writes cases_extra.jsonl: small templates and what jinja2, set up as Hugging Face transformers do, makes of them.

usage: make_cases.py [--check] [FILE]     (needs jinja2; --check compares instead of writing)

The templates stand in cases_extra.txt: blocks separated by a line "====", each an optional first line
"#vars {json}" and then the template. The variables V below are there in every case.
"""
import datetime
import json
import os
import sys

import jinja2
import jinja2.ext
import jinja2.sandbox

HERE = os.path.dirname(os.path.abspath(__file__))
NOW = "2025-07-26T14:05:09"
V = {
    "s": "Hello World", "u": "añ你😀", "e": "", "n": None, "t": True, "f": False, "i": 42, "x": 3.5, "neg": -7,
    "l": [3, 1, 2], "el": [], "d": {"b": 1, "a": 2, "items": 9}, "ed": {},
    "nested": {"a": {"b": [1, {"c": "deep"}]}},
    "users": [{"name": "Bob", "age": 30, "tags": ["x"]}, {"name": "alice", "age": 25}, {"name": "Carol", "age": 30}],
    "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "U1"},
                 {"role": "assistant", "content": "A1", "tool_calls": None}, {"role": "user", "content": "U2"}],
    "html": "<b>\"a\" & 'b'</b>",
}


class Raised(Exception):
    pass


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_same"), [], [], body).set_lineno(line)

    def _same(self, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise Raised(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda f: datetime.datetime.fromisoformat(NOW).strftime(f)
    return env


def render(env, text, variables):
    try:
        return {"expected": env.from_string(text).render(**variables)}
    except Raised as e:
        return {"error": {"kind": "raised", "message": str(e)}}
    except (jinja2.TemplateSyntaxError, SyntaxError) as e:
        return {"error": {"kind": "syntax", "message": str(e).splitlines()[0]}}
    except jinja2.sandbox.SecurityError as e:
        return {"error": {"kind": "sandbox", "message": str(e)}}
    except Exception as e:
        return {"error": {"kind": "runtime", "message": f"{type(e).__name__}: {e}"}}


def cases():
    env = environment()
    with open(os.path.join(HERE, "cases_extra.txt"), encoding="utf-8", newline="") as f:
        blocks = f.read().split("\n====\n")
    for number, block in enumerate(blocks, 1):
        variables = dict(V)
        if block.startswith("#vars "):
            head, block = block.split("\n", 1)
            variables.update(json.loads(head[6:]))
        used = {k: v for k, v in variables.items() if k in block}
        yield {"id": f"extra-{number}", "template": block, "variables": used, "now": NOW, **render(env, block, used)}


def main():
    args = [a for a in sys.argv[1:] if a != "--check"]
    path = args[0] if args else os.path.join(HERE, "cases_extra.jsonl")
    lines = [json.dumps(c, ensure_ascii=False) + "\n" for c in cases()]
    if "--check" in sys.argv[1:]:
        with open(path, encoding="utf-8") as f:
            old = f.readlines()
        differ = [json.loads(a)["id"] for a, b in zip(lines, old) if a != b]
        if differ or len(old) != len(lines):
            sys.exit(f"{path}: {len(differ)} cases differ from jinja2 {jinja2.__version__}: {differ[:10]}")
        return
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(lines)
    print(f"{len(lines)} cases")


if __name__ == "__main__":
    main()
