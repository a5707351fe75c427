"""The llama.cpp fixture itself, asked directly: what the mesh is measured against."""

import json

import openai

import mesh
from conftest import CHAT, EMBED


def direct(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60)


def test_two_servers_run_at_once(servers):
    assert [model.id for model in direct(servers["chat"]).models.list()] == [CHAT]
    assert [model.id for model in direct(servers["embed"]).models.list()] == [EMBED]


def test_chat_and_schema_work_on_the_tiny_model(servers):
    answer = direct(servers["chat"]).chat.completions.create(
        model=CHAT, messages=[{"role": "user", "content": "hello"}], max_tokens=200, response_format=schema()
    )
    assert set(json.loads(answer.choices[0].message.content)) == {"size", "colour"}


def test_a_left_generation_frees_its_slot(servers):
    server = servers["chat"]
    stream = direct(server).chat.completions.create(**endless(CHAT), stream=True)
    next(iter(stream))
    assert server.busy_slots() == 1
    stream.close()
    mesh.eventually("the slot is idle", lambda: server.busy_slots() == 0, limit=5)


def test_embeddings_work_on_the_tiny_model(servers):
    vectors = direct(servers["embed"]).embeddings.create(model=EMBED, input=["a llama", "a stone"])
    assert [len(each.embedding) for each in vectors.data] == [64, 64]


def schema():
    """An answer with a number and one of two words."""
    properties = {"size": {"type": "integer", "minimum": 0, "maximum": 99}, "colour": {"enum": ["brown", "white"]}}
    shape = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "llama", "strict": True, "schema": shape}}


def endless(model):
    """A request that the server works on for many seconds; `ignore_eos` is llama.cpp's own, unknown to OpenAI."""
    messages = [{"role": "user", "content": "tell me all about llamas"}]
    return {"model": model, "messages": messages, "max_tokens": 16000, "extra_body": {"ignore_eos": True}}
