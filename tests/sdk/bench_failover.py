"""What the death of a node costs an answer: kills the node that serves a stream in the middle of it, again and again.

    python bench_failover.py [--runs 100] [--off-runs 100]

Two nodes have the same model behind a real llama.cpp server each; the client asks a third one, which has nothing. The
answer decodes deterministically, so an undisturbed run says what every other must. Prints how long the client waited
at the break, and whether the text is the same to the byte; then the same with failover off, where nothing but an honest
error will do. Ends with 1 when a promise is broken.
"""

import argparse
import contextlib
import json
import pathlib
import random
import re
import sys
import tempfile
import time
import urllib.request

import mesh
import tiny_gguf

MODEL = "tiny-shared"
TOKENS = 600
PROMPT = [{"role": "user", "content": "Tell me all about llamas, and do not stop."}]
# What the issue of this bench promises.
GAP_P95_SECONDS = 2.0


class Stream:
    """A streamed answer: its text, when each piece came, and how it ended."""

    def __init__(self, url, headers=(), body=()):
        body = {
            "model": MODEL, "messages": PROMPT, "stream": True, "temperature": 0, "max_tokens": TOKENS, "ignore_eos": True,
            "stream_options": {"include_usage": True}, **dict(body),
        }
        request = urllib.request.Request(
            f"{url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json", **dict(headers)}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self.response = opener.open(request, timeout=60)
        self.node = self.response.headers["x-atmosphere-node"]
        self.text, self.ids, self.comments, self.error, self.usage, self.dones = "", set(), [], None, None, 0
        self.reasons, self.roles, self.arrivals, self.pieces = [], 0, [], 0

    def read(self, pieces=None):
        """Reads on, up to so many pieces of text or to the end."""
        while pieces is None or self.pieces < pieces:
            line = self.response.readline()
            if not line:
                return
            line = line.decode().rstrip("\r\n")
            if line.startswith(":"):
                self.comments.append(line[1:].strip())
            elif line == "data: [DONE]":
                self.dones += 1
            elif line.startswith("data: "):
                self.event(json.loads(line[6:]))

    def event(self, event):
        if event.get("error"):
            self.error = event["error"]
            return
        self.ids.add(event["id"])
        self.usage = event.get("usage") or self.usage
        for choice in event["choices"]:
            self.roles += "role" in choice["delta"]
            if choice.get("finish_reason"):
                self.reasons.append(choice["finish_reason"])
            text = choice["delta"].get("content")
            if text:
                self.text += text
                self.pieces += 1
                self.arrivals.append(time.monotonic())

    def longest_gap(self, since):
        """The longest time without text from then on."""
        after = [max(at, since) for at in self.arrivals if at >= since]
        return max((b - a for a, b in zip([since, *after], after)), default=0.0)


class Bench:
    """Three nodes and two servers."""

    def __init__(self, directory, stack):
        gguf = pathlib.Path(directory) / "tiny.gguf"
        tiny_gguf.write(str(gguf))
        servers = [mesh.LlamaServer(gguf, MODEL) for _ in range(2)]
        for server in servers:
            stack.callback(server.stop)
        self.front = mesh.Node("front", directory)
        stack.callback(self.front.kill)
        self.holders = {}
        for name, server in zip(("first", "second"), servers):
            self.holders[name] = mesh.Node(name, directory, [server.url], [self.front.seed])
            stack.callback(self.holders[name].kill)
        self.whole()

    def whole(self):
        """Waits until both have the model, and neither rests after a failure."""
        mesh.eventually("both have the model", lambda: self.front.holders(MODEL) == set(self.holders))
        # An advert outlives its node, so each is asked: what answers has come back.
        for name in self.holders:
            mesh.eventually(f"{name} answers", lambda: self.post("/v1/chat/completions", f"{MODEL}@{name}"))
        mesh.eventually("neither rests", lambda: len(self.post("/v1/mesh/route", MODEL)["decision"]["candidates"]) == 2)

    def post(self, path, model):
        """The answer to a short chat, or None when there is none."""
        body = json.dumps({"model": model, "messages": PROMPT, "max_tokens": 1}).encode()
        request = urllib.request.Request(f"{self.front.url}{path}", body, {"content-type": "application/json"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with contextlib.suppress(OSError):
            with opener.open(request, timeout=20) as response:
                return json.load(response)
        return None

    def broken(self, at, headers=(), body=()):
        """An answer whose node is killed after so many pieces; the stream, and when it was killed."""
        stream = Stream(self.front.url, headers, body)
        stream.read(at)
        victim = self.holders[stream.node]
        victim.kill()
        killed = time.monotonic()
        stream.read()
        ended = time.monotonic()
        victim.start()
        return stream, killed, ended


def percentile(values, share):
    values = sorted(values)
    return values[round((len(values) - 1) * share)]


def row(name, values):
    return f"{name:<34}{percentile(values, 0.5) * 1000:>8.0f}{percentile(values, 0.95) * 1000:>8.0f}{max(values) * 1000:>8.0f}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--off-runs", type=int)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    off_runs = arguments.runs if arguments.off_runs is None else arguments.off_runs
    chance = random.Random(arguments.seed)
    broken_promises = []
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        bench = Bench(directory, stack)
        undisturbed = []
        for _ in range(3):
            stream = Stream(bench.front.url)
            began = time.monotonic()
            stream.read()
            undisturbed.append((stream, stream.longest_gap(began)))
        reference = undisturbed[0][0].text
        if any(stream.text != reference for stream, _ in undisturbed):
            sys.exit("the servers do not decode deterministically: nothing can be compared")
        print(f"{len(reference)} characters in {undisturbed[0][0].pieces} pieces; killed after 5 to {TOKENS // 2} of them")
        print(f"\n{'milliseconds without text':<34}{'p50':>8}{'p95':>8}{'most':>8}")
        print(row("undisturbed", [gap for _, gap in undisturbed]))
        gaps, same, ways, odd = [], 0, {}, []
        for run in range(arguments.runs):
            stream, killed, _ = bench.broken(chance.randint(5, TOKENS // 2))
            way = re.search(r"continued .*by=(\w+)", " ".join(stream.comments))
            ways[way and way[1]] = ways.get(way and way[1], 0) + 1
            gaps.append(stream.longest_gap(killed))
            sound = (
                stream.text == reference and stream.dones == 1 and not stream.error and len(stream.ids) == 1
                and stream.roles == 1 and stream.reasons == ["length"] and stream.usage["completion_tokens"] == TOKENS
            )
            same += sound
            if not sound:
                odd.append(f"run {run}: {len(stream.text)} characters, error {stream.error}, comments {stream.comments[-3:]}")
            bench.whole()
        if gaps:
            print(row(f"killed, {arguments.runs} times", gaps))
            print(f"\nthe same to the byte, one id, role, reason, usage and end: {same} of {arguments.runs}")
            print("gone on by: " + ", ".join(f"{way} {count}" for way, count in ways.items()))
            if same != arguments.runs:
                broken_promises.append("an answer was not the same")
            if percentile(gaps, 0.95) > GAP_P95_SECONDS:
                broken_promises.append(f"the gap's p95 is above {GAP_P95_SECONDS} s")
        honest, noticed = 0, []
        for run in range(off_runs):
            stream, killed, ended = bench.broken(chance.randint(5, TOKENS // 2), {"x-atmosphere-failover": "off"})
            fine = bool(stream.error) and stream.dones == 0 and reference.startswith(stream.text) and not stream.reasons
            honest += fine
            noticed.append(ended - killed)
            if not fine:
                odd.append(f"off, run {run}: error {stream.error}, ends {stream.dones}, reasons {stream.reasons}")
            bench.whole()
        if off_runs:
            print(f"\nwith failover off, an error and no end mark: {honest} of {off_runs}")
            print(f"{'milliseconds until the error':<34}{'p50':>8}{'p95':>8}{'most':>8}")
            print(row("killed", noticed))
            if honest != off_runs:
                broken_promises.append("an answer that broke off looked whole")
        for line in odd[:10]:
            print(line)
    for promise in broken_promises:
        print(f"NOT KEPT: {promise}")
    sys.exit(bool(broken_promises))


if __name__ == "__main__":
    main()
