"""An answer of a real llama.cpp server whose node is killed in the middle of it; `scripts/bench-failover` has the figures."""

import contextlib

import bench_failover
from bench_failover import Bench, Stream


def test_the_death_of_a_node_costs_a_pause_and_not_the_answer(tmp_path):
    with contextlib.ExitStack() as stack:
        bench = Bench(tmp_path, stack)
        undisturbed = Stream(bench.front.url)
        undisturbed.read()
        assert undisturbed.pieces > 200 and undisturbed.usage["completion_tokens"] == bench_failover.TOKENS
        for at in (10, 150):
            stream, _, _ = bench.broken(at)
            assert stream.error is None
            assert stream.text == undisturbed.text
            assert (stream.dones, stream.roles, len(stream.ids), stream.reasons) == (1, 1, 1, ["length"])
            assert stream.usage == {**undisturbed.usage, "prompt_tokens_details": stream.usage["prompt_tokens_details"]}
            assert any("continued" in comment and "by=replay" in comment for comment in stream.comments)
            bench.whole()
        stream, _, _ = bench.broken(10, {"x-atmosphere-failover": "off"})
        assert stream.error and stream.dones == 0 and undisturbed.text.startswith(stream.text)
        bench.whole()
        # A request that decodes by chance is continued from what was said, since llama.cpp can do that.
        stream, _, _ = bench.broken(30, body={"temperature": 0.8})
        # llama.cpp names no role when its first token is half a character: at most one, that is.
        assert stream.error is None and (stream.dones, len(stream.ids)) == (1, 1) and stream.roles <= 1
        assert any("by=prefill" in comment for comment in stream.comments)
        usage = stream.usage
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
