/* The openai package of npm against a server: node openai.cjs URL CASE. Says nothing when all is well. */
"use strict";
const assert = require("node:assert/strict");
const { OpenAI } = require("openai");

const [url, name] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "x", maxRetries: 0, timeout: 120000 });
const messages = [{ role: "user", content: "Begin." }];
const text = (parts) => parts.map((p) => p.choices[0]?.text ?? p.choices[0]?.delta.content ?? "").join("");

async function collect(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
}

const cases = {
  async models(model) {
    const names = [];
    for await (const m of client.models.list()) names.push(m.id);
    assert.deepEqual(names, [model, "gpt-4o"]);
    assert.equal((await client.models.retrieve("gpt-4o")).object, "model");
  },

  async completions(model) {
    const ask = { model, prompt: "Once upon a time", max_tokens: 12, temperature: 0 };
    const whole = await client.completions.create(ask);
    assert.equal(whole.object, "text_completion");
    assert.equal(whole.choices[0].finish_reason, "length");
    assert.equal(whole.usage.completion_tokens, 12);
    const parts = await collect(await client.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } }));
    assert.equal(text(parts), whole.choices[0].text);
    assert.equal(parts.at(-1).usage.completion_tokens, 12);
  },

  async chat(model) {
    const ask = { model, messages, max_completion_tokens: 12, temperature: 0, logprobs: true, top_logprobs: 2 };
    const whole = await client.chat.completions.create(ask);
    assert.equal(whole.object, "chat.completion");
    assert.equal(whole.choices[0].message.role, "assistant");
    assert.equal(whole.choices[0].logprobs.content.length, 12);
    const parts = await collect(await client.chat.completions.create({ ...ask, stream: true }));
    assert.equal(text(parts), whole.choices[0].message.content);
    assert.equal(parts.flatMap((p) => p.choices[0].logprobs?.content ?? []).length, 12);
    const final = await client.chat.completions.stream(ask).finalChatCompletion();
    assert.equal(final.choices[0].message.content, whole.choices[0].message.content);
    assert.equal(final.choices[0].finish_reason, "length");
  },

  async raw(model) {
    const { data, response, request_id } = await client.chat.completions.create({ model, messages, max_tokens: 3, store: false }).withResponse();
    assert.equal(response.headers.get("x-request-id"), request_id);
    assert.equal(response.headers.get("x-autoglm-ignored-fields"), "store");
    assert.equal(data._request_id, request_id);
  },

  async json(model) {
    const ask = { model, messages, max_tokens: 40, seed: 5, response_format: { type: "json_object" } };
    const whole = await client.chat.completions.create(ask);
    assert.equal(typeof JSON.parse(whole.choices[0].message.content), "object");
    const parts = await collect(await client.chat.completions.create({ ...ask, stream: true }));
    assert.deepEqual(JSON.parse(text(parts)), JSON.parse(whole.choices[0].message.content));
  },

  async embeddings(model) {
    const ask = { model, input: ["Once upon a time", "there was a cat"] };
    const whole = await client.embeddings.create(ask); /* asks for base64, and decodes it */
    const plain = await client.embeddings.create({ ...ask, encoding_format: "float" });
    const cut = await client.embeddings.create({ ...ask, dimensions: 4 });
    assert.equal(whole.object, "list");
    assert.deepEqual(whole.data.map((d) => d.index), [0, 1]);
    assert.deepEqual(whole.usage, plain.usage);
    for (let i = 0; i < 2; i++) {
      assert.deepEqual(Float32Array.from(plain.data[i].embedding), Float32Array.from(whole.data[i].embedding));
      const size = Math.hypot(...whole.data[i].embedding.slice(0, 4));
      cut.data[i].embedding.forEach((x, k) => assert.ok(Math.abs(x - whole.data[i].embedding[k] / size) < 1e-5));
      assert.equal(cut.data[i].embedding.length, 4);
    }
    await assert.rejects(client.embeddings.create({ ...ask, input: [] }), OpenAI.BadRequestError);
  },
  async responses(model) {
    const ask = { model, input: "Begin.", max_output_tokens: 12, temperature: 0 };
    const whole = await client.responses.create(ask);
    assert.equal(whole.object, "response");
    assert.ok(["completed", "incomplete"].includes(whole.status));
    assert.ok(whole.output_text.length > 0);
    const events = await collect(await client.responses.create({ ...ask, stream: true }));
    assert.deepEqual(events.map((e) => e.sequence_number), [...events.keys()]);
    assert.equal(events.filter((e) => e.type === "response.output_text.delta").map((e) => e.delta).join(""), whole.output_text);
    const id = events.at(-1).response.id;
    const kept = await client.responses.retrieve(id);
    assert.equal(kept.output_text, whole.output_text);
    const stream = client.responses.stream(ask);
    assert.equal((await stream.finalResponse()).output_text, whole.output_text);
    const next = await client.responses.create({ ...ask, input: "And then?", previous_response_id: id });
    const items = [];
    for await (const item of client.responses.inputItems.list(next.id, { order: "asc", limit: 1 })) items.push(item.role);
    assert.deepEqual(items, ["user", "assistant", "user"]);
    await client.responses.delete(id);
    await assert.rejects(client.responses.retrieve(id), OpenAI.NotFoundError);
    await assert.rejects(client.responses.cancel(next.id), OpenAI.BadRequestError);
    let job = await client.responses.create({ ...ask, background: true });
    assert.equal(job.status, "queued");
    while (["queued", "in_progress"].includes(job.status)) job = await client.responses.retrieve(job.id);
    assert.equal(job.output_text, whole.output_text);
    assert.equal((await client.responses.cancel(job.id)).status, job.status);
  },

  async errors(model) {
    await assert.rejects(client.chat.completions.create({ model: "other", messages }), OpenAI.NotFoundError);
    const wrong = client.chat.completions.create({ model, messages, temperature: 99 });
    await assert.rejects(wrong, (e) => e instanceof OpenAI.BadRequestError && e.param === "temperature" && Boolean(e.requestID));
  },

  async leaving(model) {
    const stream = await client.completions.create({ model, prompt: "Once", max_tokens: 400, stream: true });
    for await (const part of stream) {
      assert.equal(part.object, "text_completion");
      break; /* which closes the connection */
    }
    assert.ok(stream.controller.signal.aborted);
  },

  async tools(model) {
    const tools = ["get_weather", "add"].map((n) => ({ type: "function", function: { name: n, parameters: { type: "object", properties: {} } } }));
    const called = (m) => m.tool_calls.map((c) => [c.type, c.function.name, JSON.parse(c.function.arguments)]);
    const whole = await client.chat.completions.create({ model, messages, tools });
    assert.equal(whole.choices[0].finish_reason, "tool_calls");
    assert.equal(whole.choices[0].message.content, "Both.");
    assert.equal(whole.choices[0].message.reasoning_content, "hm");
    assert.deepEqual(called(whole.choices[0].message), [["function", "get_weather", { city: "Köln" }], ["function", "add", {}]]);
    const final = await client.chat.completions.stream({ model, messages, tools }).finalChatCompletion();
    assert.deepEqual(called(final.choices[0].message), called(whole.choices[0].message));
    assert.equal(final.choices[0].finish_reason, "tool_calls");
    const back = [...messages, whole.choices[0].message, ...whole.choices[0].message.tool_calls.map((c) => ({ role: "tool", tool_call_id: c.id, content: "21" }))];
    assert.ok((await client.chat.completions.create({ model, messages: back, tools, max_tokens: 1 })).usage.prompt_tokens > 0);
  },
};

(async () => cases[name]((await client.models.list()).data[0].id))().catch((e) => {
  console.error(e);
  process.exit(1);
});
