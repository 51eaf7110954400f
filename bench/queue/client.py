"""A client that notes when each piece of an answer arrives, and what a server tells and uses of itself."""
import asyncio
import json
import os
import pathlib
import random
import re
import time
import urllib.parse

import servers

# Common words are one token each, with the space before them, in the vocabularies of most models.
WORDS = ("the of and to in is for that on with as was by at from are this be or an have not it but one all they were their "
         "has more about when can will time there who some other new two first year people way day man world life hand part "
         "place case week work home water room mother area money story fact month right study book eye job word business "
         "side kind head house service friend father power hour game line end member law car city community name").split()


def words(seed, count):
    r = random.Random(str(seed))
    return " ".join(r.choice(WORDS) for _ in range(count))


class Answer:
    """What came of a request: `times` of its pieces in seconds of the monotonic clock, text, usage, or an error."""

    def __init__(self):
        self.begun, self.times, self.text, self.status = time.monotonic(), [], "", None
        self.usage, self.finish, self.error = None, None, None
        self.first = asyncio.Event()  # a piece came, or the end

    def first_ms(self):
        return 1e3 * (self.times[0] - self.begun) if self.times else None

    def whole(self):
        return self.status == 200 and self.error is None and self.finish is not None

    def take(self, event):
        now = time.monotonic()
        if event.get("error"):
            self.error = str(event["error"].get("message", event["error"]))
        self.usage = event.get("usage") or self.usage
        for choice in event.get("choices", []):
            if choice.get("text"):
                self.times.append(now)
                self.text += choice["text"]
                self.first.set()
            self.finish = choice.get("finish_reason") or self.finish


async def parts(reader, head):
    """The body as it comes, whichever way its length is told."""
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.I)
    if b"transfer-encoding: chunked" in head.lower():
        while n := int((await reader.readline()).split(b";")[0], 16):
            yield (await reader.readexactly(n + 2))[:n]
    else:
        yield await (reader.readexactly(int(length[1])) if length else reader.read())


async def exchange(reader, answer, enough):
    head = await reader.readuntil(b"\r\n\r\n")
    answer.status, rest = int(head.split(b" ", 2)[1]), b""
    async for part in parts(reader, head):
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
                answer.take(json.loads(line[5:]))
        if enough is not None and len(answer.times) >= enough:
            return
    if answer.status != 200:
        answer.error = rest.decode(errors="replace")[:300]


async def ask(url, body, answer=None, headers=None, enough=None):
    """Streams a completion. After `enough` pieces the connection is closed, as it is when the task is cancelled."""
    answer = answer or Answer()
    at, writer = urllib.parse.urlsplit(url), None
    data = json.dumps({"stream": True, "stream_options": {"include_usage": True}, "temperature": 0, **body}).encode()
    more = "".join(f"{k}: {v}\r\n" for k, v in (headers or {}).items())
    head = (f"POST /v1/completions HTTP/1.1\r\nHost: {at.netloc}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\nConnection: close\r\n{more}\r\n")
    try:
        reader, writer = await asyncio.open_connection(at.hostname, at.port, limit=1 << 20)
        writer.write(head.encode() + data)
        await exchange(reader, answer, enough)
    except (OSError, EOFError, ValueError) as e:
        answer.error = f"{type(e).__name__}: {e}"
    finally:
        answer.first.set()
        if writer:
            writer.transport.abort()
    return answer


async def delete(url, request_id):
    """Takes a request out by its id: the status, None without an answer."""
    at, writer = urllib.parse.urlsplit(url), None
    try:
        reader, writer = await asyncio.open_connection(at.hostname, at.port)
        writer.write(f"DELETE /v1/queue/{request_id} HTTP/1.1\r\nHost: {at.netloc}\r\nConnection: close\r\n\r\n".encode())
        return int((await reader.readline()).split(b" ")[1])
    except (OSError, ValueError, IndexError):
        return None
    finally:
        if writer:
            writer.transport.abort()


def metrics(url):
    """{name: sum over its labels} of what /metrics says; buckets are left out."""
    found = {}
    for name, _, value in servers.metrics(url):
        if not name.endswith("_bucket"):
            found[name] = found.get(name, 0.0) + value
    return found


def over(url, histogram, bound):
    """(observations above the bucket of `bound`, all of them) of a histogram without other labels; None: it is unknown."""
    counts = {m[1]: value for name, labels, value in servers.metrics(url)
              if name == histogram + "_bucket" and (m := re.search(r'le="([^"]+)"', labels))}
    return (counts["+Inf"] - counts[bound], counts["+Inf"]) if counts else None


def family(pid):
    """A process and all that descend from it."""
    found = [pid]
    for at in found:
        for path in pathlib.Path(f"/proc/{at}/task").glob("*/children"):
            try:
                found += [int(x) for x in path.read_text().split()]
            except OSError:
                continue  # the thread has ended
    return found


def taken(pid):
    """Descriptors and memory that a server holds, with its children."""
    descriptors = rss = 0
    for at in family(pid):
        try:
            status = pathlib.Path(f"/proc/{at}/status").read_text()
            descriptors += len(os.listdir(f"/proc/{at}/fd"))
        except OSError:
            continue
        # Of its own: pages of files that it has mapped, such as the model's, come and go with what is asked.
        rss += 1024 * sum(int(n) for n in re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+)", status, re.M))
    return {"descriptors": descriptors, "rss": rss}
