"""What it is worth to send a conversation where its beginning was read: the same talks with affinity and without.

    python bench_affinity.py [--talks 8] [--turns 6] [--clients 4] [--rounds 2]

Two nodes have the same model behind a real llama.cpp server each, which keeps the prompts of its slots; the clients ask a
third node. Each talk has a long system prompt of its own and grows by a question and an answer each turn. Prints how much
of the prompts came out of the cache, as llama.cpp tells it, and how long the first token took; with and without affinity in
turns, so that a busy machine is busy for both.
"""

import argparse
import contextlib
import json
import os
import pathlib
import random
import tempfile
import threading
import time
import urllib.request

import mesh
import tiny_gguf

MODEL = "tiny-shared"
WORDS = "llama alpaca wool grass herd trek pack mountain valley river stone rope bell hay barn fence gate shear spin knit".split()


class Talk:
    """A conversation that grows."""

    def __init__(self, number, chance):
        rules = " ".join(chance.choice(WORDS) for _ in range(900))
        self.messages = [{"role": "system", "content": f"Talk {number}. {rules}"}]

    def turn(self, url, chance):
        """One more question and its answer: tokens of the prompt, those out of the cache, seconds to the first token."""
        self.messages.append({"role": "user", "content": " ".join(chance.choice(WORDS) for _ in range(12))})
        body = {
            "model": MODEL, "messages": self.messages, "stream": True, "temperature": 0, "max_tokens": 24, "ignore_eos": True,
            "stream_options": {"include_usage": True},
        }
        request = urllib.request.Request(
            f"{url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        began, first, text, usage = time.monotonic(), None, "", {}
        with opener.open(request, timeout=120) as response:
            for line in response:
                if not line.startswith(b"data: {"):
                    continue
                event = json.loads(line[6:])
                for choice in event["choices"]:
                    piece = choice["delta"].get("content") or ""
                    if piece and first is None:
                        first = time.monotonic() - began
                    text += piece
                usage = event.get("usage") or usage
        self.messages.append({"role": "assistant", "content": text})
        return usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"], first


def talks(url, arguments, seed):
    """All talks, by so many clients at once; what each turn after the first came to."""
    work = [(Talk(f"{seed}-{number}", random.Random(seed * 1000 + number)), number) for number in range(arguments.talks)]
    results, lock = [], threading.Lock()

    def client(mine):
        chance = random.Random(mine[0][1])
        for turn in range(arguments.turns):
            for talk, _ in chance.sample(mine, len(mine)):
                result = talk.turn(url, chance)
                if turn > 0:
                    with lock:
                        results.append(result)

    clients = [
        threading.Thread(target=client, args=(work[number :: arguments.clients],)) for number in range(arguments.clients)
    ]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    return results


def percentile(values, share):
    values = sorted(values)
    return values[round((len(values) - 1) * share)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--talks", type=int, default=8)
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    results = {"on": [], "off": []}
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        gguf = pathlib.Path(directory) / "tiny.gguf"
        tiny_gguf.write(str(gguf))
        for round_ in range(arguments.rounds):
            for affinity in results:
                # Everything is new each time, so that nobody profits from what another has read.
                with contextlib.ExitStack() as one:
                    place = pathlib.Path(directory) / f"{affinity}-{round_}"
                    place.mkdir()
                    servers = [mesh.LlamaServer(gguf, MODEL, slots=4) for _ in range(2)]
                    for server in servers:
                        one.callback(server.stop)
                    os.environ["ATMOSPHERE_ROUTER_AFFINITY"] = affinity
                    front = mesh.Node("front", place)
                    one.callback(front.kill)
                    for name, server in zip(("first", "second"), servers):
                        one.callback(mesh.Node(name, place, [server.url], [front.seed]).kill)
                    mesh.eventually("both have the model", lambda: front.holders(MODEL) == {"first", "second"})
                    results[affinity] += talks(front.url, arguments, round_)
    print(f"{arguments.talks} talks of {arguments.turns} turns, {arguments.clients} clients, {arguments.rounds} rounds; turns after the first")
    print(f"{'affinity':<10}{'prompt tokens':>15}{'from the cache':>16}{'first token p50':>17}{'p95':>8}   ms")
    for affinity, turns in results.items():
        prompt, cached = sum(turn[0] for turn in turns), sum(turn[1] for turn in turns)
        firsts = [turn[2] * 1000 for turn in turns]
        print(f"{affinity:<10}{prompt:>15}{cached / prompt:>15.1%}{percentile(firsts, 0.5):>17.0f}{percentile(firsts, 0.95):>8.0f}")


if __name__ == "__main__":
    main()
