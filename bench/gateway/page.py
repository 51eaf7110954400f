"""What the samples of bench/gateway/run say, as the table of docs/gateway.md."""
import dataclasses

from results import table, warnings

OURS, NGINX, REDIS, LITELLM, SYNC = "autoglm", "nginx", "nginx and Redis", "LiteLLM", "gunicorn"
DEFAULTS, TUNED, BATCHING = "as it is", "tuned", "tuned, batching"


@dataclasses.dataclass(frozen=True)
class Row:
    experiment: str
    words: str
    figure: object  # samples of the experiment, by server → a number
    unit: str
    goal: float
    at_least: bool  # else at most


def ratio(samples, key, peer, of=OURS):
    return samples[of][key] / samples[peer][key]


ROWS = (
    Row("added", "added time at half load, p50", lambda s: s[OURS]["p50_us"], "µs", 100, False),
    Row("added", "added time at half load, p99", lambda s: s[OURS]["p99_us"], "µs", 500, False),
    Row("short", "requests/s against nginx sending the same bytes", lambda s: 100 * ratio(s, "rate", NGINX), "%", 70, True),
    Row("hit", "cached answers/s against nginx with a lookup in Redis", lambda s: 100 * ratio(s, "rate", REDIS), "%", 100, True),
    Row("stream", "streamed tokens/s over HTTP/1.1, one loop", lambda s: s[OURS]["tokens_rate"], "", 150000, True),
    Row("stream2", "the same over HTTP/2, 100 streams a connection", lambda s: s[OURS]["tokens_rate"], "", 500000, True),
    Row("proxy", "requests/s against LiteLLM", lambda s: ratio(s, "rate", LITELLM), "x", 30, True),
    Row("proxy", "memory against LiteLLM", lambda s: 100 * ratio(s, "rss", LITELLM), "%", 10, False),
    Row("sync", "requests/s against gunicorn, backend of 20 ms", lambda s: ratio(s, "rate", SYNC), "x", 4, True),
    Row("sync", "p50 latency against gunicorn", lambda s: 100 * ratio(s, "p50_us", SYNC), "%", 25, False),
    Row("tuning", "requests/s tuned against as it is", lambda s: 100 * ratio(s, "rate", DEFAULTS, TUNED), "%", 140, True),
    Row("tuning", "p99 tuned against as it is", lambda s: 100 * ratio(s, "p99_us", DEFAULTS, TUNED), "%", 75, False),
    Row("tuning", "requests/s with batching against without", lambda s: 100 * ratio(s, "rate", TUNED, BATCHING), "%", 124, True),
    Row("tuning", "p99 with batching against without", lambda s: 100 * ratio(s, "p99_us", TUNED, BATCHING), "%", 148, False),
)
EXPERIMENTS = tuple(dict.fromkeys(row.experiment for row in ROWS))
COLUMNS = (("clients", "clients ", 1, "{:,.0f}"), ("rate", "answers/s ", 1, "{:,.0f}"),
           ("p50_us", "p50, µs ", 1, "{:,.0f}"), ("p99_us", "p99, µs ", 1, "{:,.0f}"),
           ("tokens_rate", "tokens/s ", 1, "{:,.0f}"), ("rss", "memory, MiB ", 1 << 20, "{:,.1f}"))


def figure(row, samples):
    """None: it was not measured."""
    try:
        return row.figure(samples[row.experiment])
    except KeyError:
        return None


def number(v):
    return f"{v:,.0f}" if v >= 100 else f"{v:.3g}"


def goal_line(row, samples):
    v = figure(row, samples)
    asked = f"at {'least' if row.at_least else 'most'} {number(row.goal)} {row.unit}".rstrip()
    if v is None:
        return [row.words, asked, "not measured", ""]
    met = v >= row.goal if row.at_least else v <= row.goal
    return [row.words, asked, f"{number(v)} {row.unit}".rstrip(), "yes" if met else "no"]


def render(r):
    parts = warnings(r)
    about = r["machine"]
    parts.append(f"{r['date']}, {about['processor']}, {about['cores']} cores, Linux {about['kernel']}, revision {r['revision']}; "
                 f"{r['seconds']} s each, the server on {r['pins'][0]}, load and backends on {r['pins'][1]}.")
    parts.append(table(["experiment", "goal ", "measured ", "met"], [goal_line(row, r["samples"]) for row in ROWS]))
    lines = []
    for experiment, by in r["samples"].items():
        for name, sample in by.items():
            cells = [form.format(sample[key] / unit) if key in sample else "" for key, _, unit, form in COLUMNS]
            lines.append([experiment, name, *cells])
    parts.append(table(["experiment", "server", *(head for _, head, _, _ in COLUMNS)], lines))
    parts.append(table(["program", "version", "how it was started"],
                       [[name, p["version"], f"`{p['flags']}`"] for name, p in r["programs"].items()]))
    for experiment, why in r["missing"].items():
        parts.append(f"{experiment} is not there in full: {why.rstrip('.')}.")
    return "\n\n".join(parts) + "\n"
