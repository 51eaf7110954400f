"""What bench/headline/run measured, as tables in Markdown, as a plot, and as the generated part of a page."""
import html

import results
import setups
from results import table

PLACE = results.Place("bench/headline/run")


class Goal:
    def __init__(self, words, least, of):
        self.words, self.least, self.of = words, least, of


def closed(r, name):
    return r["samples"].get(name, {}).get("closed")


def rate(sample):
    return sample["requests"]["ok"] / sample["elapsed_s"] if sample else None


def over(a, b):
    return a / b if a and b else None


def mean(r, name, phase):
    sample = r["samples"].get(name, {}).get(phase)
    return sample["latency_ms"]["mean"] if sample else None


def least(values):
    values = [v for v in values if v]
    return min(values) if values else None


def no_cache(r):
    return rate(closed(r, f"{setups.OURS}, without response cache"))


# Against a traditional set-up each goal is that against the better one.
GOALS = (
    Goal("mean latency of a traditional set-up over ours, at the rate that it can just bear", 4.2, lambda r: least(
        over(mean(r, name, name), mean(r, setups.OURS, name)) for name in (setups.SYNC, setups.SERIAL))),
    Goal("requests/s over the better traditional set-up's", 6.6, lambda r: least(
        over(rate(closed(r, setups.OURS)), rate(closed(r, name))) for name in (setups.SYNC, setups.SERIAL))),
    Goal("the same with the response cache off", 3, lambda r: least(
        over(no_cache(r), rate(closed(r, name))) for name in (setups.SYNC, setups.SERIAL))),
    Goal("requests/s over the peer's with parallel slots", 2, lambda r: over(rate(closed(r, setups.OURS)), rate(closed(r, setups.PEER)))),
    Goal("share of their time that threads compute, at saturation, response cache off", 0.89, lambda r: (
        closed(r, f"{setups.OURS}, without response cache") or {}).get("busy")),
)


def number(v, digits=0):
    return "–" if v is None else f"{v:,.{digits}f}"


def share(v):
    return "–" if v is None else f"{100 * v:.0f} %"


def rows(r):
    for name, kept in r["samples"].items():
        c = kept.get("closed")
        if c is None:
            continue
        cells = [name, number(rate(c), 2), number(c["latency_ms"]["mean"]), number(c["latency_ms"]["p99"]), share(c["busy"]), share(c["hits"])]
        for phase in (setups.SYNC, setups.SERIAL):
            o = kept.get(phase)
            cells += [number(o["latency_ms"]["mean"]), number(o["latency_ms"]["p99"])] if o else ["–", "–"]
        yield cells


def heads(r):
    at = {}
    for name in (setups.SYNC, setups.SERIAL):
        c = closed(r, name)
        at[name] = f"{0.8 * rate(c):.2f}" if c else "?"
    return ("set-up", "requests/s ", "mean, ms ", "p99, ms ", "computing ", "cache hits ", f"at {at[setups.SYNC]}/s: mean, ms ", "p99, ms ",
            f"at {at[setups.SERIAL]}/s: mean, ms ", "p99, ms ")


def goals(r):
    for g in GOALS:
        v = g.of(r)
        met = "not measured" if v is None else "met" if v >= g.least else "**missed**"
        yield [g.words, number(v, 2), f"at least {g.least:g}", met]


def text(r):
    load, m = r["same"]["load"], r["machine"]
    about = (f"{r['date']}, {r['model']}, {r['threads']} threads, {m['processor']}, {m['cores']} cores, Linux {m['kernel']}; "
             f"{r['version']} ({r['revision']}); other work took {100 * r['others']:.0f} % of the machine. {load['seconds']} s each, "
             f"{load['clients']} clients; a pool of {load['pool']:,} chats by Zipf {load['zipf']:g}, prompts of {load['prompt']} words, "
             f"{load['shared']} of them one of {load['prefixes']} system prompts, answers of {load['answer']} tokens; "
             f"the history tells of {load['earlier']:,} earlier requests.")
    lost = [f"**{name} failed: {why}**" for name, why in r["lost"].items()]
    started = table(("set-up", "how it was started"), [[name, f"`{words}`"] for name, words in r["words"].items()])
    parts = [*results.warnings(r), *lost, about, table(("what is compared", "measured ", "goal", ""), goals(r)), table(heads(r), rows(r)), started]
    return "\n\n".join(parts) + "\n"


LEFT, WIDTH, STEP, TOP = 330, 240, 26, 84


def plot(r):
    """Requests a second on the left, the mean latency at the traditional rates on the right."""
    names = [n for n in r["samples"] if closed(r, n)]
    most = max((rate(closed(r, n)) for n in names), default=1)
    slow = max((v for n in names if (v := mean(r, n, n) or mean(r, n, setups.SERIAL))), default=1)
    right, out = LEFT + WIDTH + 70, []
    for i, name in enumerate(names):
        y, k = TOP + i * STEP, 0 if name == setups.OURS else 1 if name in (setups.SYNC, setups.SERIAL) else 2
        x = rate(closed(r, name))
        out.append(f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{html.escape(name)}</text>'
                   f'<rect class="k{k}" x="{LEFT}" y="{y + 3}" width="{WIDTH * x / most:.1f}" height="{STEP - 10}" rx="2"/>'
                   f'<text x="{LEFT + WIDTH * x / most + 5:.1f}" y="{y + 14}">{x:.1f}</text>')
        ms = mean(r, name, name if name == setups.SYNC else setups.SERIAL)
        if ms:
            out.append(f'<rect class="k{k}" x="{right}" y="{y + 3}" width="{WIDTH * ms / slow:.1f}" height="{STEP - 10}" rx="2"/>'
                       f'<text x="{right + WIDTH * ms / slow + 5:.1f}" y="{y + 14}">{ms:,.0f}</text>')
    high = TOP + len(names) * STEP + 14
    note = "; a quick run, means nothing" if r["quick"] else ""
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 {high}" role="img"><title>what all of it brings together</title>'
            f'<style>{results.STYLE}</style><rect class="b" width="960" height="{high}"/>'
            '<text class="t" x="20" y="26">One machine, one model, one load</text>'
            f'<text class="s" x="20" y="46">{html.escape(r["model"])}, {r["threads"]} threads, {html.escape(r["machine"]["processor"])}, '
            f'{r["date"]}{note}</text><text x="{LEFT}" y="{TOP - 10}">requests/s, {r["same"]["load"]["clients"]} clients</text>'
            f'<text x="{right}" y="{TOP - 10}">mean latency at a rate that it can bear, ms</text>{"".join(out)}</svg>\n')


def put(path, r):
    PLACE.put(path, text(r), plot(r), "requests a second and latencies by set-up")
