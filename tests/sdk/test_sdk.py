"""The official OpenAI SDK against a mesh: drop-in, whatever node it is pointed at."""

import base64
import json
import struct
import threading
import time

import openai
import pytest

import mesh
from conftest import CHAT, EMBED, SHARED
from test_fixture import endless, schema

HELLO = [{"role": "user", "content": "How do I care for my llama?"}]
# What a machine with two busy cores may add to a promise in seconds.
SLACK = 2


def test_models_of_the_whole_mesh_are_listed(client):
    models = {model.id for model in client.models.list()}
    assert {CHAT, SHARED, EMBED} <= models
    assert client.models.retrieve(CHAT).id == CHAT


def test_chat(client):
    answer = client.chat.completions.create(model=CHAT, messages=HELLO, max_tokens=8)
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage.completion_tokens <= 8
    assert answer.usage.prompt_tokens > 0


def test_the_route_is_told_in_headers(client, the_mesh):
    raw = client.chat.completions.with_raw_response.create(model=CHAT, messages=HELLO, max_tokens=4)
    for header in ("x-atmosphere-node", "x-atmosphere-model", "x-atmosphere-decision", "x-request-id"):
        assert raw.headers.get(header), header
    assert raw.headers["x-atmosphere-model"] == CHAT


def test_stream_with_usage(client):
    stream = client.chat.completions.create(
        model=CHAT, messages=HELLO, max_tokens=12, seed=7, stream=True, stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    chunks = list(stream)
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 12
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1] if chunk.choices][-1] == "length"


def test_a_seed_gives_the_same_answer_streamed_or_not(client):
    options = {"model": CHAT, "messages": HELLO, "max_tokens": 16, "seed": 42, "temperature": 0.7}
    whole = client.chat.completions.create(**options).choices[0].message.content
    again = client.chat.completions.create(**options).choices[0].message.content
    pieces = client.chat.completions.create(**options, stream=True)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in pieces if chunk.choices)
    assert whole == again == streamed


def test_completion(client):
    answer = client.completions.create(model=CHAT, prompt="A llama is", max_tokens=6)
    assert answer.usage.completion_tokens <= 6


def test_json_schema_output(client):
    answer = client.chat.completions.create(model=CHAT, messages=HELLO, max_tokens=200, response_format=schema())
    said = json.loads(answer.choices[0].message.content)
    assert 0 <= said["size"] <= 99 and said["colour"] in ("brown", "white")


def test_log_probabilities(client):
    # A schema keeps it to letters: the model's own tokens may be halves of characters, which llama.cpp tells nothing about.
    options = {"max_tokens": 8, "logprobs": True, "top_logprobs": 3, "response_format": schema()}
    answer = client.chat.completions.create(model=CHAT, messages=HELLO, **options)
    content = answer.choices[0].logprobs.content
    assert content and all(len(token.top_logprobs) == 3 for token in content)


def test_several_choices(client):
    answer = client.chat.completions.create(model=CHAT, messages=HELLO, max_tokens=4, n=2)
    assert [choice.index for choice in answer.choices] == [0, 1]


def test_stop_words(client):
    options = {"model": CHAT, "messages": HELLO, "max_tokens": 60, "seed": 3, "extra_body": {"ignore_eos": True}}
    whole = client.chat.completions.create(**options).choices[0].message.content
    # A letter that the answer has, so that it must end before it.
    stop = next(letter for letter in whole[1:] if letter.isascii() and letter.isprintable())
    cut = client.chat.completions.create(**options, stop=[stop])
    assert stop not in cut.choices[0].message.content
    assert cut.choices[0].finish_reason == "stop"


def test_embeddings_float_and_base64(client):
    texts = ["a llama in the meadow", "the stock market"]
    # The SDK asks for base64 by itself, and turns it to floats.
    by_default = client.embeddings.create(model=EMBED, input=texts)
    floats = client.embeddings.create(model=EMBED, input=texts, encoding_format="float")
    raw = client.embeddings.with_raw_response.create(model=EMBED, input=texts, encoding_format="base64")
    packed = [base64.b64decode(each["embedding"]) for each in json.loads(raw.text)["data"]]
    for index, each in enumerate(floats.data):
        assert each.index == index and len(each.embedding) == 64
        assert by_default.data[index].embedding == pytest.approx(each.embedding, abs=1e-5)
        assert struct.unpack("<64f", packed[index]) == pytest.approx(each.embedding, abs=1e-5)


def test_a_single_text_is_embedded(client):
    assert len(client.embeddings.create(model=EMBED, input="a llama").data) == 1


def test_images_are_refused_clearly_by_a_model_that_cannot_see(client):
    content = [{"type": "text", "text": "what is this?"}, {"type": "image_url", "image_url": {"url": mesh.png()}}]
    with pytest.raises(openai.APIStatusError) as refusal:
        client.chat.completions.create(model=CHAT, messages=[{"role": "user", "content": content}], max_tokens=4)
    assert 400 <= refusal.value.status_code < 500
    assert "image" in str(refusal.value).lower()


def test_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model="tiny-chatt", messages=HELLO)
    assert error.value.code == "model_not_found"
    assert CHAT in str(error.value), "near names are told"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody-has-this")


def test_bad_requests_are_bad_requests(client):
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=CHAT, messages="not a list")
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=CHAT, messages=HELLO, response_format={"type": "nonsense"})


def test_leaving_a_stream_frees_the_far_slot(client, servers):
    server = servers["chat"]
    mesh.eventually("it is idle before", lambda: server.busy_slots() == 0)
    stream = client.chat.completions.create(**endless(CHAT), stream=True)
    next(iter(stream))
    assert server.busy_slots() == 1
    stream.close()
    mesh.eventually("the slot is idle", lambda: server.busy_slots() == 0, limit=1 + SLACK)


def test_leaving_a_whole_answer_ends_the_far_request(client, the_mesh, servers):
    # What is looked at is the connection to llama.cpp, not its slot: it writes an answer that is not streamed to its end
    # when its caller has left, also one that asked it directly.
    server, before = servers["chat"], the_mesh.tap.left
    mesh.eventually("it is idle before", lambda: server.busy_slots() == 0)
    request = {**endless(CHAT), "max_tokens": 2000}
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=1).chat.completions.create(**request)
    mesh.eventually("the far node has left the server", lambda: the_mesh.tap.left == before + 1, limit=1 + SLACK)
    mesh.eventually("the slot is idle", lambda: server.busy_slots() == 0)


def test_many_at_once(client):
    errors = []

    def one(index):
        try:
            stream = client.chat.completions.create(model=CHAT, messages=HELLO, max_tokens=20, seed=index, stream=True)
            assert any(chunk.choices and chunk.choices[0].finish_reason for chunk in stream)
        except Exception as error:  # noqa: BLE001 - told to the test below
            errors.append(error)

    threads = [threading.Thread(target=one, args=(index,)) for index in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_every_node_answers(the_mesh):
    for node in the_mesh.nodes:
        client = openai.OpenAI(base_url=f"{node.url}/v1", api_key="none", max_retries=0, timeout=60)
        answer = client.chat.completions.create(model=CHAT, messages=HELLO, max_tokens=4)
        assert answer.choices, node.name


def test_a_killed_holder_is_replaced_and_comes_back(client, the_mesh):
    """Last in the file: it takes a node away for a while."""
    raw = client.chat.completions.with_raw_response.create(model=SHARED, messages=HELLO, max_tokens=4)
    assert raw.status_code == 200
    the_mesh.back.kill()
    killed = time.monotonic()
    try:
        answer = client.chat.completions.create(model=SHARED, messages=HELLO, max_tokens=4)
        assert answer.choices
    except openai.InternalServerError as error:
        assert error.status_code == 503 and error.message
    assert time.monotonic() - killed < 2 + SLACK

    left = mesh.ADVERT_TTL_SECONDS + SLACK - (time.monotonic() - killed)
    mesh.eventually("the dead node is gone", lambda: the_mesh.front.nodes() == {"front", "spare"}, limit=left)
    assert client.chat.completions.create(model=SHARED, messages=HELLO, max_tokens=4).choices
    with pytest.raises(openai.APIStatusError) as error:
        client.chat.completions.create(model=CHAT, messages=HELLO, max_tokens=4)
    assert error.value.status_code in (404, 503)

    the_mesh.back.start()
    mesh.eventually("it is back", lambda: the_mesh.front.nodes() == {"front", "back", "spare"})
    the_mesh.wait_for_models()
    assert client.chat.completions.create(model=CHAT, messages=HELLO, max_tokens=4).choices
