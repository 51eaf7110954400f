"""Calls of tools and reasoning, in every form that families write, through the vendors' own packages. The model recites what a
large one might say."""
import json
import os
import pathlib
import tempfile
import unittest

import anthropic
import openai

import recite
from server import LIMIT_S, Server, strictly

WORDS = {"hermes": "<tool_call>", "glm45": "<tool_call><arg_key>", "mistral": "[TOOL_CALLS]", "llama3": "<|python_tag|>", "glm4": "[gMASK]<sop>"}
CALLS = [("get_weather", {"city": "Köln", "days": 3}), ("add", {"a": [1, 2.5], "note": "x < \"y\" 🙂"})]
WEATHER, ADD = (json.dumps(arguments, ensure_ascii=False) for _, arguments in CALLS)
ANSWERS = {
    "hermes": f'Both.\n<tool_call>\n{{"name": "get_weather", "arguments": {WEATHER}}}\n</tool_call>\n'
              f'<tool_call>{{"name":"add","arguments":{ADD}}}</tool_call>',
    "glm45": "Both.\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Köln</arg_value>\n<arg_key>days</arg_key><arg_value>3"
             '</arg_value></tool_call><tool_call>add<arg_key>a</arg_key>\n\n<arg_value>[1, 2.5]</arg_value><arg_key>note</arg_key> '
             '<arg_value>x < "y" 🙂</arg_value>\n\n</tool_call>',
    "mistral": f'Both.[TOOL_CALLS][{{"name": "get_weather", "arguments": {WEATHER}}}, {{"name":"add","arguments":{ADD}}}]',
    "llama3": f'<|python_tag|>{{"name": "get_weather", "parameters": {WEATHER}}}; {{"name":"add","parameters":{ADD}}}',
    "glm4": f"get_weather\n{WEATHER}\nadd\n {ADD}",
}
CONTROL = {"mistral": ["[TOOL_CALLS]"], "llama3": ["<|python_tag|>"], "glm45": []}
SCHEMAS = {"get_weather": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
           "add": {"type": "object", "properties": {"a": {"type": "array"}, "note": {"type": "string"}}}}
OPENAI_TOOLS = [{"type": "function", "function": {"name": n, "description": "d", "parameters": p}} for n, p in SCHEMAS.items()]
ANTHROPIC_TOOLS = [{"name": n, "description": "d", "input_schema": p} for n, p in SCHEMAS.items()]
MESSAGES = [{"role": "user", "content": "What now?"}]
_folder = tempfile.TemporaryDirectory(prefix="autoglm-recite-")


def reciting(name, text, words, control=()):
    path = pathlib.Path(_folder.name, f"{name}.gguf")
    template = "{# " + words + " #}" + recite.TURNS
    return Server(model=recite.write(str(path), text, template, control))


class Talk:
    """Both packages at a server."""

    def __init__(self, s):
        self.openai = openai.OpenAI(base_url=s.url + "/v1", api_key="x", timeout=LIMIT_S, max_retries=0)
        self.anthropic = anthropic.Anthropic(base_url=s.url, api_key="x", timeout=LIMIT_S, max_retries=0)
        self.model = self.openai.models.list().data[0].id

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.openai.close()
        self.anthropic.close()

    def chat(self, messages=MESSAGES, tools=OPENAI_TOOLS, **more):
        return self.openai.chat.completions.create(model=self.model, messages=messages, **({"tools": tools} if tools else {}), **more)

    def chat_streamed(self, **more):
        """The message that a client would put together, and how it ended."""
        said = {"content": "", "reasoning": "", "calls": []}
        finish = None
        for chunk in self.chat(stream=True, **more):
            strictly(chunk)
            choice = chunk.choices[0]
            assert finish is None, "nothing comes after the end"
            finish = choice.finish_reason
            said["content"] += choice.delta.content or ""
            said["reasoning"] += getattr(choice.delta, "reasoning_content", None) or ""
            for call in choice.delta.tool_calls or []:
                if call.index == len(said["calls"]):
                    said["calls"].append([call.id, call.function.name, ""])
                said["calls"][call.index][2] += call.function.arguments
        return said, finish

    def message(self, messages=MESSAGES, tools=ANTHROPIC_TOOLS, **more):
        return self.anthropic.messages.create(model=self.model, max_tokens=500, messages=messages, **({"tools": tools} if tools else {}), **more)

    def message_streamed(self, messages=MESSAGES, tools=ANTHROPIC_TOOLS, **more):
        with self.anthropic.messages.stream(model=self.model, max_tokens=500, messages=messages, tools=tools, **more) as stream:
            return stream.get_final_message()


class Tools(unittest.TestCase):
    def called(self, calls):
        self.assertEqual([(name, json.loads(arguments)) for _, name, arguments in calls], CALLS)
        self.assertEqual(len({i for i, _, _ in calls}), len(calls))

    def test_every_form_in_both_dialects(self):
        for form, text in ANSWERS.items():
            said = "Both." if text.startswith("Both.") else None
            with self.subTest(form=form), reciting(form, text, WORDS[form], CONTROL.get(form, ())) as s, Talk(s) as talk:
                whole = strictly(talk.chat()).choices[0]
                strictly(whole.message)
                calls = [(c.id, c.function.name, c.function.arguments) for c in whole.message.tool_calls]
                self.called(calls)
                self.assertEqual((whole.finish_reason, whole.message.content), ("tool_calls", said))
                for i, _, _ in calls:
                    self.assertRegex(i, r"^[0-9a-f]{9}$" if form == "mistral" else r"^call_[0-9a-f]{24}$")
                streamed, finish = talk.chat_streamed()
                self.called(streamed["calls"])
                self.assertEqual((finish, streamed["content"]), ("tool_calls", said or ""))

                for m in (strictly(talk.message()), talk.message_streamed()):
                    uses = [b for b in m.content if b.type == "tool_use"]
                    self.assertEqual([(b.name, b.input) for b in uses], CALLS)
                    self.assertEqual((m.stop_reason, [b.text for b in m.content if b.type == "text"]), ("tool_use", [said] if said else []))

                one = talk.chat(parallel_tool_calls=False).choices[0].message
                self.assertEqual([c.function.name for c in one.tool_calls], ["get_weather"])
                m = talk.message(tool_choice={"type": "auto", "disable_parallel_tool_use": True})
                self.assertEqual([b.name for b in m.content if b.type == "tool_use"], ["get_weather"])
                none = talk.chat(tool_choice="none").choices[0]
                self.assertEqual((none.message.tool_calls, none.finish_reason), (None, "stop"))
                self.assertIn("get_weather", none.message.content)
                other = talk.chat(tools=[{"type": "function", "function": {"name": "other", "description": "d"}}]).choices[0].message
                self.assertEqual((other.tool_calls, other.content), (None, none.message.content))
                short = talk.chat(max_tokens=5).choices[0]
                self.assertEqual((short.finish_reason, short.message.tool_calls), ("length", None))

    def test_templates_as_they_are_published(self):
        """The tools are in the prompt, and calls of the family's form are read."""
        folder = pathlib.Path(os.environ["AUTOGLM_TEST_DATA"], "templates")
        for name, form in (("GLM-4-9B-Chat", "glm4"), ("Qwen-Qwen2.5-7B-Instruct", "hermes"), ("NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", "hermes")):
            source = folder / f"{name}.jinja"
            if not source.exists():
                self.skipTest("no published templates")
            path = recite.write(str(pathlib.Path(_folder.name, f"{name}.gguf")), ANSWERS[form], source.read_text())
            with self.subTest(name=name), Server(model=path) as s, Talk(s) as talk:
                self.called([(c.id, c.function.name, c.function.arguments) for c in talk.chat().choices[0].message.tool_calls])
                tokens = s.post("/tokenize", {"messages": MESSAGES, "tools": OPENAI_TOOLS}).json()["tokens"]
                prompt = s.post("/detokenize", {"tokens": tokens}).json()["content"]
                self.assertIn("get_weather", prompt)
                self.assertLess(prompt.index("get_weather"), prompt.index("What now?"))

    def test_a_forced_choice_is_kept(self):
        """The model, which wants to say something else, is held to a call; what its arguments are is its own affair."""
        named = {"type": "function", "function": {"name": "add"}}
        for form in ("hermes", "llama3", "glm4"):
            with self.subTest(form=form), reciting("forced-" + form, "I would rather not.", WORDS[form]) as s, Talk(s) as talk:
                more = dict(max_tokens=40, seed=3, temperature=1)
                for choice, tools in ((named, OPENAI_TOOLS), ("required", OPENAI_TOOLS[1:])):
                    c = talk.chat(tool_choice=choice, tools=tools, **more).choices[0]
                    self.assertEqual([t.function.name for t in c.message.tool_calls], ["add"])
                    self.assertIsInstance(json.loads(c.message.tool_calls[0].function.arguments), dict)
                    self.assertIn(c.finish_reason, ("tool_calls", "length"))
                    said, finish = talk.chat_streamed(tool_choice=choice, tools=tools, **more)
                    self.assertEqual((said["calls"][0][1:], finish), (["add", c.message.tool_calls[0].function.arguments], c.finish_reason))
                for choice, tools in (({"type": "tool", "name": "add"}, ANTHROPIC_TOOLS), ({"type": "any"}, ANTHROPIC_TOOLS[1:])):
                    m = talk.message(tool_choice=choice, tools=tools)
                    self.assertEqual([(b.type, b.name) for b in m.content], [("tool_use", "add")])
                self.some_tool_is_called(talk)

    def some_tool_is_called(self, talk):
        """Which one, the model says."""
        names = set()
        for seed in range(12):
            more = dict(tool_choice="required", max_tokens=70, seed=seed, temperature=1)
            c = talk.chat(**more).choices[0]
            called = [(t.function.name, t.function.arguments) for t in c.message.tool_calls]
            self.assertEqual((len(called), c.message.content), (1, None))
            self.assertIsInstance(json.loads(called[0][1]), dict)
            said, finish = talk.chat_streamed(**more)
            self.assertEqual(([call[1:] for call in said["calls"]], finish), ([[*called[0]]], c.finish_reason))
            names.add(called[0][0])
        self.assertEqual(names, {t["function"]["name"] for t in OPENAI_TOOLS})
        m = talk.message(tool_choice={"type": "any"})
        self.assertEqual([b.type for b in m.content], ["tool_use"])
        self.assertIn(m.content[0].name, names)
        with self.assertRaises(openai.BadRequestError) as caught:
            talk.chat(tool_choice="required", max_tokens=4)
        self.assertIn("at least", str(caught.exception))
        odd = [{"type": "function", "function": {"name": name}} for name in ("fine", 'no"t')]
        with self.assertRaises(openai.BadRequestError) as caught:
            talk.chat(tool_choice="required", tools=odd)
        self.assertEqual(caught.exception.param, "tools")

    def test_what_cannot_be_forced_is_refused(self):
        named = {"type": "function", "function": {"name": "add"}}
        for form in ("glm45", "mistral", "none"):
            with self.subTest(form=form), reciting("refused-" + form, "No.", WORDS.get(form, "")) as s, Talk(s) as talk:
                for choice in ("required", named):
                    with self.assertRaises(openai.BadRequestError) as caught:
                        talk.chat(tool_choice=choice)
                    self.assertEqual(caught.exception.param, "tool_choice")
                for choice in ({"type": "any"}, {"type": "tool", "name": "add"}):
                    with self.assertRaises(anthropic.BadRequestError):
                        talk.message(tool_choice=choice)

    def test_results_come_back(self):
        """Both dialects make the same prompt of the same conversation."""
        with reciting("back", "Sunny.", WORDS["hermes"]) as s, Talk(s) as talk:
            asked = [{"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "type": "function", "function": {
                "name": "get_weather", "arguments": WEATHER}}]}, {"role": "tool", "tool_call_id": "c1", "content": "21 °C"}]
            a = talk.chat(messages=MESSAGES + asked)
            self.assertEqual((a.choices[0].message.content, a.choices[0].finish_reason), ("Sunny.", "stop"))
            used = [{"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "get_weather", "input": CALLS[0][1]}]},
                    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "21 °C"}]}]
            m = talk.message(messages=MESSAGES + used)
            self.assertEqual((m.content[0].text, m.stop_reason), ("Sunny.", "end_turn"))
            tokens = s.post("/tokenize", {"messages": MESSAGES + asked, "tools": OPENAI_TOOLS}).json()["tokens"]
            text = s.post("/detokenize", {"tokens": tokens}).json()["content"]
            self.assertIn("calls c1 get_weather", text)
            self.assertIn("tool: 21 °C for c1", text)
            self.assertEqual(a.usage.prompt_tokens, len(tokens))
            self.assertEqual(m.usage.input_tokens + m.usage.cache_read_input_tokens, len(tokens))
            counted = talk.anthropic.messages.count_tokens(model=talk.model, messages=MESSAGES + used, tools=ANTHROPIC_TOOLS)
            self.assertEqual(counted.input_tokens, len(tokens))


class Reasoning(unittest.TestCase):
    def both(self, talk):
        whole, m, streamed = talk.chat(tools=None).choices[0].message, talk.message(tools=None), talk.chat_streamed(tools=None)[0]
        self.assertEqual((whole.content, whole.reasoning_content), ("It is 4.", "Two and\ntwo?"))
        self.assertEqual((streamed["content"], streamed["reasoning"]), ("It is 4.", "Two and\ntwo?"))
        for m in (m, talk.message_streamed(tools=[])):
            self.assertEqual([b.type for b in m.content], ["thinking", "text"])
            self.assertEqual((m.content[0].thinking, m.content[1].text), ("Two and\ntwo?", "It is 4."))

    def test_the_answer_opens_it(self):
        with reciting("answer", "<think>\nTwo and\ntwo?\n</think>\n\nIt is 4.", "<think> </think>") as s, Talk(s) as talk:
            self.both(talk)

    def test_markers_that_are_control_tokens(self):
        with reciting("control", "<think>\nTwo and\ntwo?\n</think>\n\nIt is 4.", "<think> </think>", ["<think>", "</think>"]) as s, \
                Talk(s) as talk:
            self.both(talk)

    def test_the_prompt_opens_it(self):
        path = pathlib.Path(_folder.name, "prompt.gguf")
        template = recite.TURNS.replace("{{ '\\n' }}", "{{ '<think>\\n' }}{%- if enable_thinking is false %}{{ '</think>\\n' }}{% endif %}")
        with Server(model=recite.write(str(path), "Two and\ntwo?\n</think>\n\nIt is 4.", template)) as s, Talk(s) as talk:
            self.both(talk)
            plain = talk.chat(tools=None, extra_body={"chat_template_kwargs": {"enable_thinking": False}}).choices[0].message
            self.assertEqual(plain.content, "Two and\ntwo?\n</think>\n\nIt is 4.")
            self.assertEqual(talk.message(tools=None, thinking={"type": "disabled"}).content[0].text, plain.content)

    def test_it_is_cut(self):
        with reciting("cut", "<think>\nTwo and\ntwo?\n</think>\n\nIt is 4.", "<think> </think>") as s, Talk(s) as talk:
            c = talk.chat(tools=None, max_tokens=6).choices[0]
            self.assertEqual((c.finish_reason, c.message.content), ("length", ""))
            self.assertTrue("Two and\ntwo?".startswith(c.message.reasoning_content))


if __name__ == "__main__":
    unittest.main()
