/* The playground: a conversation with a model of the server that sent this page, over the same API that programs use.
 * Whatever comes from a model, a server or a person is set as text, never as HTML; the page's policy forbids the rest.
 * An exchange is a question and its answer. One at a time is being asked; exchanges that failed are not sent again. */
'use strict';

const $ = id => document.getElementById(id);
const api = path => new URL(path, document.baseURI).href;
const talk = [];          // exchanges: {question, thought, answer, error, figures, node, body}
let running = null;       // the AbortController of the answer that is being made
let edited = null;        // the exchange whose question is in the draft
let kept = '';            // the draft that an edit took the place of
const keyNote = $('key-note').textContent;
const narrow = matchMedia('(max-width: 60rem)');

function make(tag, name, children = []) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  for (const child of [].concat(children)) node.append(child);
  return node;
}

function button(name, className, act) {
  const node = make('button', className, name);
  node.type = 'button';
  node.addEventListener('click', act);
  return node;
}

function say(text, failed = false) {
  $('status').textContent = text;
  $('status').classList.toggle('failed', failed);
}

/* Where a clipboard is only given to pages that came over TLS, the text is selected for the keyboard instead. */
async function copy(text, node) {
  try {
    await navigator.clipboard.writeText(text);
    say('Copied.');
  } catch {
    getSelection().selectAllChildren(node);
    say(document.execCommand('copy') ? 'Copied.' : 'Selected: copy it with the keyboard.');
  }
}

/* Markdown, as much as answers need: fenced code, headings, lists, rules, paragraphs; `code`, **bold**, *italics*. Each
 * pattern reads a text once, whatever the text. */

function* blocksOf(text) {
  const lines = text.split('\n');
  for (let i = 0; i < lines.length;) {
    const line = lines[i];
    const fence = /^ {0,3}(`{3,9}|~{3,9}) *([\w+#.-]*)/.exec(line);
    const head = /^#{1,6} +(.*)/.exec(line);
    const item = /^ {0,8}(?:[-*+]|(\d{1,9})[.)]) +/.exec(line);
    if (fence) {
      const from = ++i;
      while (i < lines.length && !lines[i].trim().startsWith(fence[1])) i++;
      yield {kind: 'code', language: fence[2], text: lines.slice(from, i++).join('\n')};
    } else if (head) {
      yield {kind: 'h4', text: head[1]};
      i++;
    } else if (/^ {0,3}(-{3,}|\*{3,}|_{3,}) *$/.test(line)) {
      yield {kind: 'hr', text: ''};
      i++;
    } else if (item) {
      const ordered = item[1] !== undefined, items = [];
      for (; i < lines.length && lines[i].trim(); i++) {
        const next = /^ {0,8}(?:[-*+]|(\d{1,9})[.)]) +(.*)/.exec(lines[i]);
        if (next && (next[1] !== undefined) !== ordered) break;
        if (next) items.push(next[2]);
        else items[items.length - 1] += '\n' + lines[i].trim();
      }
      yield {kind: ordered ? 'ol' : 'ul', start: item[1], items, text: items.join('\n')};
    } else if (line.trim()) {
      const from = i;
      while (i < lines.length && lines[i].trim() && (i === from || !/^ {0,3}(`{3}|~{3}|#{1,6} )/.test(lines[i]))) i++;
      yield {kind: 'p', text: lines.slice(from, i).join('\n')};
    } else {
      i++;
    }
  }
}

function inline(text) {
  const parts = [];
  let at = 0;
  for (const m of text.matchAll(/`([^`\n]+)`|\*\*([^*]+)\*\*|\*([^*\s][^*\n]*)\*/g)) {
    if (m.index > at) parts.push(text.slice(at, m.index));
    parts.push(m[1] !== undefined ? make('code', '', m[1])
      : m[2] !== undefined ? make('strong', '', m[2]) : make('em', '', m[3]));
    at = m.index + m[0].length;
  }
  parts.push(text.slice(at));
  return parts;
}

function nodeOf(block) {
  if (block.kind === 'ul' || block.kind === 'ol') {
    const list = make(block.kind, '', block.items.map(text => make('li', '', inline(text))));
    if (block.start) list.start = Number(block.start);
    return list;
  }
  if (block.kind !== 'code') return make(block.kind, '', inline(block.text));
  const code = make('code', '', block.text), pre = make('pre', '', code);
  pre.tabIndex = 0; // what scrolls can be reached by keyboard
  pre.setAttribute('aria-label', 'Code');
  const bar = [make('span', '', block.language || 'code'), button('Copy', 'quiet', () => copy(code.textContent, code))];
  return make('div', 'code', [make('div', 'bar', bar), pre]);
}

/* Blocks that are as they were stay as they are, so that a selection or the focus in them survives what follows. */
function render(where, text) {
  let i = 0;
  for (const block of blocksOf(text)) {
    const old = where.children[i++], key = block.kind + (block.language || '') + (block.start || '');
    if (old && old.key === key && old.source === block.text) continue;
    if (old && old.key === key && block.kind === 'code') old.querySelector('pre code').textContent = block.text;
    const node = old && old.key === key && block.kind === 'code' ? old : nodeOf(block);
    node.key = key;
    node.source = block.text;
    if (!old) where.append(node);
    else if (old !== node) old.replaceWith(node);
  }
  while (where.children.length > i) where.lastChild.remove();
}

/* Server-sent events: lines end in LF, CR LF or CR, wherever the network cut them; an event ends with an empty line. */

async function* eventsOf(stream) {
  const reader = stream.getReader(), decoder = new TextDecoder();
  let rest = '', type = '', data = [];
  try {
    for (let end = false; !end;) {
      const {done, value} = await reader.read();
      rest += done ? decoder.decode() : decoder.decode(value, {stream: true});
      end = done;
      for (let m; (m = /\r\n|\n|\r/.exec(rest));) {
        if (m[0] === '\r' && m.index + 1 === rest.length && !done) break; // its LF may be on the way
        const line = rest.slice(0, m.index);
        rest = rest.slice(m.index + m[0].length);
        if (line === '') {
          if (data.length) yield {type: type || 'message', data: data.join('\n')};
          type = '';
          data = [];
          continue;
        }
        const colon = line.indexOf(':'); // 0: a comment
        const field = colon < 0 ? line : line.slice(0, colon);
        const text = colon < 0 ? '' : line.slice(colon + (line[colon + 1] === ' ' ? 2 : 1));
        if (field === 'event') type = text;
        if (field === 'data') data.push(text);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/* Requests. */

function headers() {
  const key = $('key').value.trim();
  return {'Content-Type': 'application/json', ...(key && {Authorization: 'Bearer ' + key})};
}

/* The server's own sentence, where there is one. */
class Refused extends Error {
  constructor(status, error, id) {
    super(error && error.message ? String(error.message) : `The server answered ${status}.`);
    this.status = status;
    this.id = (error && error.request_id) || id || '';
  }
}

async function request(path, options) {
  let r;
  try {
    r = await fetch(api(path), {cache: 'no-store', credentials: 'omit', ...options, headers: headers()});
  } catch (e) {
    if (e.name === 'AbortError') throw e;
    throw new Error(/[^\x21-\x7e]/.test($('key').value.trim()) ? 'The API key holds characters that cannot be sent.'
                                                              : 'The server cannot be reached.');
  }
  $('key').setAttribute('aria-invalid', String(r.status === 401));
  $('key-note').textContent = keyNote;
  if (r.ok) return r;
  const said = await r.json().catch(() => null);
  const refused = new Refused(r.status, said && said.error, r.headers.get('x-request-id'));
  if (r.status === 401) {
    openPanel('key');
    $('key-note').textContent = refused.message;
  }
  throw refused;
}

function bodyOf(exchanges) {
  const messages = [];
  if ($('system').value.trim()) messages.push({role: 'system', content: $('system').value});
  for (const x of exchanges) {
    if (!x.answer && x !== exchanges.at(-1)) continue;
    messages.push({role: 'user', content: x.question});
    if (x.answer) messages.push({role: 'assistant', content: x.answer});
  }
  const body = {model: $('model').value, messages, stream: true, stream_options: {include_usage: true}};
  for (const field of $('fields').querySelectorAll('input[name]'))
    if (field.value !== '') body[field.name] = field.valueAsNumber;
  const stops = $('stop').value.split('\n').filter(line => line !== '');
  if (stops.length) body.stop = stops;
  return body;
}

/* The key is never part of it: the shell puts it in. */
function curlOf(body) {
  const quote = text => "'" + text.replaceAll("'", "'\\''") + "'";
  const key = $('key').value.trim() ? '-H "Authorization: Bearer $AUTOGLM_API_KEY"' : '';
  return [`curl -N ${quote(api('v1/chat/completions'))}`, "-H 'Content-Type: application/json'", key,
    `-d ${quote(JSON.stringify(body))}`].filter(part => part).join(' \\\n  ');
}

function showCurl() {
  const last = talk.at(-1), draft = $('draft').value;
  const next = [...talk.filter(x => x !== edited), {question: draft}];
  $('curl').textContent = curlOf(last && !draft ? last.body : bodyOf(next));
}

/* Models. A server that is still loading has none yet, and is asked again. */

async function loadModels() {
  clearTimeout(loadModels.timer);
  try {
    const {data} = await (await request('v1/models')).json();
    const had = $('model').value;
    $('model').replaceChildren(...data.map(model => {
      const option = make('option', '', model.id);
      option.value = model.id;
      return option;
    }));
    if (data.some(model => model.id === had)) $('model').value = had;
    $('model').disabled = data.length === 0;
    say(data.length ? '' : 'The model is still being loaded.');
    if (!data.length) {
      $('model').append(make('option', '', 'no model yet'));
      loadModels.timer = setTimeout(loadModels, 1000);
    }
  } catch (e) {
    say(e.message, true);
    if (e.status !== 401) loadModels.timer = setTimeout(loadModels, 5000);
  }
  update();
}

/* An exchange on the page. */

function show(x) {
  const title = text => make('h3', 'unseen', text);
  x.text = make('div', 'text');
  x.thinking = make('div', 'text');
  x.thoughts = make('details', 'thoughts', [make('summary', '', 'Thoughts'), x.thinking]);
  x.failure = make('div', 'failure');
  x.list = make('dl', 'figures');
  x.actions = make('div', 'actions', [
    button('Copy', 'quiet', () => copy(x.answer, x.text)),
    button('Try again', 'quiet last', () => answer(x)),
    button('Edit', 'quiet last', () => edit(x)),
  ]);
  const mine = make('article', 'question', [title('You'), make('div', 'text', x.question)]);
  const theirs = make('article', 'answer', [make('h3', 'who'), x.thoughts, x.text, x.failure, x.list, x.actions]);
  x.node = make('section', 'exchange', [mine, theirs]);
  $('talk').append(x.node);
  draw(x);
}

function draw(x) {
  const low = innerHeight + scrollY > document.documentElement.scrollHeight - 120;
  render(x.text, x.answer);
  render(x.thinking, x.thought);
  x.thoughts.hidden = !x.thought;
  x.node.classList.toggle('busy', x.busy);
  x.text.classList.toggle('waiting', x.busy && !x.answer);
  x.text.setAttribute('aria-busy', String(x.busy));
  x.failure.hidden = !x.error;
  x.failure.replaceChildren(x.error || '', ...(x.id ? [make('small', '', 'Request ' + x.id)] : []));
  x.list.replaceChildren(...x.figures.map(
    ([name, value]) => make('div', '', [make('dt', '', name), make('dd', '', value)])));
  x.actions.firstChild.hidden = !x.answer;
  if (low) scrollTo(0, document.documentElement.scrollHeight);
}

function time(ms) { return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(ms < 10000 ? 2 : 1)} s`; }

/* First token: from the request to the first text or thought. Speed: tokens after the first, over the time since it. */
function figuresOf(x, at) {
  const figures = [];
  if (at.first) figures.push(['First token', time(at.first - at.sent)]);
  if (at.usage) {
    const {prompt_tokens: prompt, completion_tokens: made, prompt_tokens_details: details} = at.usage;
    const reused = details && details.cached_tokens ? ` (${details.cached_tokens} reused)` : '';
    const speed = (made - 1) * 1000 / (at.last - at.first);
    const shown = speed < 1000 ? speed.toFixed(1) : Math.round(speed).toLocaleString('en');
    if (speed > 0 && speed < Infinity) figures.push(['Speed', `${shown} tokens/s`]);
    figures.push(['Prompt', `${prompt} tokens${reused}`], ['Answer', `${made} tokens`]);
  }
  const ends = {length: 'at its limit', stopped: 'stopped by you'};
  if (ends[at.finish]) figures.push(['Ended', ends[at.finish]]);
  return figures;
}

async function answer(x) {
  if (running || !ready()) return;
  const mine = running = new AbortController(), at = {sent: performance.now()};
  Object.assign(x, {thought: '', answer: '', error: '', id: '', figures: [], busy: true});
  x.body = bodyOf(talk);
  if (!x.node) show(x);
  x.node.querySelector('.who').textContent = x.body.model;
  let frame = 0;
  const later = () => { frame = frame || requestAnimationFrame(() => { frame = 0; draw(x); }); };
  draw(x);
  update();
  scrollTo(0, document.documentElement.scrollHeight);
  say('Waiting for the first token.');
  try {
    const r = await request('v1/chat/completions', {method: 'POST', body: JSON.stringify(x.body), signal: mine.signal});
    let done = false;
    for await (const event of eventsOf(r.body)) {
      if (event.data === '[DONE]') {
        done = true;
        break;
      }
      const chunk = JSON.parse(event.data);
      if (chunk.error) throw new Refused(r.status, chunk.error, r.headers.get('x-request-id'));
      const choice = chunk.choices && chunk.choices[0];
      const delta = (choice && choice.delta) || {}, text = delta.content || '', thought = delta.reasoning_content || '';
      if (text || thought) {
        at.last = performance.now();
        if (!at.first) {
          at.first = at.last;
          say(thought ? 'Thinking.' : 'Answering.');
        }
        if (text && x.thought && !x.answer) say('Answering.');
        x.thought += thought;
        x.answer += text;
        later();
      }
      if (choice && choice.finish_reason) at.finish = choice.finish_reason;
      if (chunk.usage) at.usage = chunk.usage;
    }
    if (!done) throw new Error('The answer was broken off.');
    const took = time(performance.now() - at.sent);
    say(at.usage ? `Answered with ${at.usage.completion_tokens} tokens in ${took}.` : `Answered in ${took}.`);
  } catch (e) {
    if (mine.signal.aborted) {
      at.finish = 'stopped';
      say('Stopped.');
    } else {
      x.error = e instanceof SyntaxError ? 'The server sent an event that is not JSON.'
        : e instanceof TypeError ? 'The connection was lost.' : e.message;
      x.id = e.id || '';
      say('Failed.', true); // the sentence stands where the answer would
    }
  }
  cancelAnimationFrame(frame);
  running = null;
  x.busy = false;
  x.figures = figuresOf(x, at);
  draw(x);
  update();
}

/* What the person does. */

function ready() {
  if (!$('model').value || $('model').disabled) return false;
  const wrong = $('fields').querySelector('input:invalid');
  if (!wrong) return true;
  openPanel();
  if ($('more').contains(wrong)) $('more').open = true;
  wrong.reportValidity();
  return false;
}

function send() {
  const question = $('draft').value.trim();
  if (!question || running || !ready()) return;
  if (edited) {
    edited.node.remove();
    talk.splice(talk.indexOf(edited), 1);
    edited = null;
  }
  setDraft('');
  const x = {question, answer: '', figures: []};
  talk.push(x);
  answer(x);
}

function edit(x) {
  if (edited) return $('draft').focus();
  kept = $('draft').value;
  edited = x;
  say('');
  setDraft(x.question);
  $('draft').focus();
}

function keep() {
  edited = null;
  setDraft(kept);
  $('draft').focus();
}

function fresh() {
  if (running) running.abort();
  edited = null;
  talk.length = 0;
  $('talk').replaceChildren();
  say('');
  setDraft('');
  $('draft').focus();
}

function setDraft(text) {
  $('draft').value = text;
  update();
}

function grow(area) {
  area.style.height = 'auto';
  area.style.height = area.scrollHeight + (area.offsetHeight - area.clientHeight) + 'px';
}

function update() {
  for (const x of talk) if (x.node) x.node.classList.toggle('edited', x === edited);
  $('welcome').hidden = talk.length > 0;
  $('fresh').disabled = talk.length === 0;
  $('editing').hidden = !edited;
  $('send').textContent = running ? 'Stop' : 'Send';
  $('send').disabled = !running && (!$('draft').value.trim() || $('model').disabled);
  grow($('draft'));
  showCurl();
}

/* On a narrow screen the settings lie over the page, on a wide one beside it. */
function openPanel(focus) {
  if (!$('panel').open) {
    if (narrow.matches) $('panel').showModal();
    else $('panel').setAttribute('open', '');
  }
  $('settings').setAttribute('aria-expanded', 'true');
  if (focus) $(focus).focus();
}

function closePanel() {
  if ($('panel').open) $('panel').close();
  $('settings').setAttribute('aria-expanded', 'false');
}

function place() {
  closePanel();
  if (!narrow.matches) openPanel();
}

function onKey(event) {
  const enter = event.target.id === 'draft' && event.key === 'Enter' && !event.shiftKey && !event.isComposing;
  if (enter && !matchMedia('(pointer: coarse)').matches) { // a thumb has no other way to break a line
    event.preventDefault();
    send();
  }
  if (event.key !== 'Escape' || $('panel').matches(':modal')) return;
  if (running) running.abort();
  else if (edited) keep();
}

function begin() {
  try { $('key').value = sessionStorage.getItem('autoglm-key') || ''; } catch { /* a browser that keeps nothing */ }
  $('key').addEventListener('input', () => {
    const key = $('key').value.trim();
    try {
      if (key) sessionStorage.setItem('autoglm-key', key);
      else sessionStorage.removeItem('autoglm-key');
    } catch { /* the field has it */ }
  });
  $('key').addEventListener('change', loadModels);
  $('composer').addEventListener('submit', event => {
    event.preventDefault();
    if (running) running.abort();
    else send();
  });
  $('fields').addEventListener('submit', event => event.preventDefault());
  document.addEventListener('keydown', onKey);
  document.addEventListener('input', update);
  $('model').addEventListener('change', update);
  $('fresh').addEventListener('click', fresh);
  $('keep').addEventListener('click', keep);
  $('settings').addEventListener('click', () => ($('panel').open ? closePanel() : openPanel()));
  $('close').addEventListener('click', closePanel);
  $('panel').addEventListener('close', () => $('settings').setAttribute('aria-expanded', 'false'));
  $('copy').addEventListener('click', () => copy($('curl').textContent, $('curl')));
  for (const idea of $('welcome').querySelectorAll('button'))
    idea.addEventListener('click', () => {
      setDraft(idea.textContent);
      $('draft').focus();
    });
  narrow.addEventListener('change', place);
  if (narrow.matches) place();
  loadModels();
}

begin();
