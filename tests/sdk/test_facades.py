"""The official clients of other protocols against a node that has nothing: what they ask is answered on another one."""

import json
import time

import anthropic
import ollama
import openai
import pytest

import mesh
from conftest import CHAT, CLAUDE, EMBED
from scripted import MODEL, THINKER, faulty

HELLO = [{"role": "user", "content": "How do I care for my llama?"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TEXT = "Grüße aus Cusco 🦙"
# What a machine with two busy cores may add to a promise in seconds.
SLACK = 2


def say(text):
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def claude(the_mesh):
    return anthropic.Anthropic(base_url=the_mesh.front.url, api_key="none", max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def llama(the_mesh):
    return ollama.Client(host=the_mesh.front.ollama_url, timeout=60)


class TestAnthropic:
    TOOLS = [{"name": "weather", "description": "The weather of a city.", "input_schema": SCHEMA}]

    def test_a_message(self, claude):
        message = claude.messages.create(model=CHAT, max_tokens=8, system="Be brief.", messages=HELLO)
        assert message.type == "message" and message.role == "assistant" and message.model
        assert message.stop_reason in ("max_tokens", "end_turn")
        assert 0 < message.usage.output_tokens <= 8 and message.usage.input_tokens > 0

    def test_a_stream_comes_to_the_same(self, claude):
        # The SDK has dropped the temperature, as newer models of its own have.
        options = {"model": CHAT, "max_tokens": 16, "messages": HELLO, "extra_body": {"seed": 42, "temperature": 0.7}}
        whole = claude.messages.create(**options)
        with claude.messages.stream(**options) as stream:
            text = "".join(stream.text_stream)
            final = stream.get_final_message()
        assert text == final.content[0].text == whole.content[0].text
        assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)

    def test_the_sequence_of_events(self, claude):
        kinds = [event.type for event in claude.messages.create(model=MODEL, max_tokens=9, messages=say("hi"), stream=True)]
        assert kinds == [
            "message_start", "content_block_start", "content_block_delta", "content_block_delta", "content_block_stop",
            "message_delta", "message_stop",
        ]

    @pytest.mark.parametrize("stream", [False, True])
    def test_tools(self, claude, stream):
        options = {"model": MODEL, "max_tokens": 99, "tools": self.TOOLS, "tool_choice": {"type": "any"}}
        messages = say("What is the weather in Cusco?")

        def ask():
            if not stream:
                return claude.messages.create(**options, messages=messages)
            with claude.messages.stream(**options, messages=messages) as events:
                return events.get_final_message()

        first = ask()
        assert first.stop_reason == "tool_use"
        call = first.content[-1]
        assert (call.type, call.name, call.input) == ("tool_use", "weather", {"city": "Cusco"})
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
        messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
        second = ask()
        assert (second.content[0].text, second.stop_reason) == ("It is sunny.", "end_turn")

    def test_thoughts_and_cached_tokens(self, claude, scripted):
        thinking = {"type": "enabled", "budget_tokens": 2000}
        with claude.messages.stream(model=THINKER, max_tokens=4000, thinking=thinking, messages=say("think")) as stream:
            message = stream.get_final_message()
        assert [block.type for block in message.content] == ["thinking", "text"]
        assert (message.content[0].thinking, message.content[1].text) == ("Let me see.", TEXT)
        assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (5, 4)
        assert scripted.requests[-1]["reasoning_effort"] == "low"

    def test_schemas(self, claude):
        config = {"format": {"type": "json_schema", "schema": {**SCHEMA, "properties": {"city": {"enum": ["Cusco"]}}}}}
        message = claude.messages.create(model=CHAT, max_tokens=99, messages=HELLO, output_config=config)
        assert json.loads(message.content[0].text) == {"city": "Cusco"}

    def test_tokens_are_counted(self, claude):
        # By the backend that has the model, or estimated and so marked.
        for model, marked in ((CHAT, False), (CLAUDE, False), (MODEL, True)):
            raw = claude.messages.with_raw_response.count_tokens(model=model, messages=say("x" * 400))
            assert ("x-atmosphere-estimate" in raw.headers) == marked, model
            count = raw.parse().input_tokens
            assert 50 < count < 500
            if model == CHAT:
                usage = claude.messages.create(model=model, max_tokens=1, messages=say("x" * 400)).usage
                assert count == usage.input_tokens + usage.cache_read_input_tokens

    def test_models(self, claude):
        models = {model.id for model in claude.models.list()}
        assert {CHAT, MODEL, EMBED} <= models
        assert claude.models.retrieve(CHAT).type == "model"

    def test_errors_are_what_the_client_knows(self, claude):
        with pytest.raises(anthropic.NotFoundError, match="did you mean"):
            claude.messages.create(model=CHAT + "x", max_tokens=9, messages=HELLO)
        with pytest.raises(anthropic.BadRequestError, match="tools"):
            tools = [{"type": "web_search_20250305", "name": "web_search"}]
            claude.messages.create(model=CHAT, max_tokens=9, messages=HELLO, tools=tools)
        with pytest.raises(anthropic.RateLimitError) as error:
            claude.messages.create(model=faulty("anthropic", "busy"), max_tokens=9, messages=say("busy"))
        assert error.value.response.headers["retry-after"] == "7"

    @pytest.mark.parametrize("how", ["die", "fail"])
    def test_a_stream_that_breaks_raises(self, claude, how):
        seen = []
        with pytest.raises(anthropic.APIStatusError):
            for event in claude.messages.create(model=faulty("anthropic", how), max_tokens=9, messages=say(how), stream=True):
                seen.append(event.type)
        assert "content_block_delta" in seen and "message_stop" not in seen

    def test_leaving_a_stream_ends_the_far_work(self, claude, scripted):
        before = scripted.left
        stream = claude.messages.create(model=MODEL, max_tokens=9, messages=say("endless"), stream=True)
        next(iter(stream))
        stream.close()
        mesh.eventually("the backend is left", lambda: scripted.left == before + 1, limit=1 + SLACK)


class TestResponses:
    TOOLS = [{"type": "function", "name": "weather", "parameters": SCHEMA, "strict": True}]

    def test_a_response(self, client):
        response = client.responses.create(model=CHAT, input="How do I care for my llama?", max_output_tokens=8)
        assert response.status in ("completed", "incomplete") and response.model
        assert 0 < response.usage.output_tokens <= 8
        assert response.store is False

    def test_a_stream_is_the_typed_sequence(self, client):
        events = list(client.responses.create(model=MODEL, input="hi", stream=True))
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert [event.type for event in events] == [
            "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
            "response.output_text.delta", "response.output_text.delta", "response.output_text.done",
            "response.content_part.done", "response.output_item.done", "response.completed",
        ]
        assert events[-1].response.output_text == TEXT
        assert events[-1].response.usage.input_tokens_details.cached_tokens == 4

    def test_the_clients_own_helper_follows_it(self, client):
        with client.responses.stream(model=THINKER, input="think") as stream:
            list(stream)
            final = stream.get_final_response()
        assert [item.type for item in final.output] == ["reasoning", "message"]
        assert final.output[0].content[0].text == "Let me see." and final.output_text == TEXT

    @pytest.mark.parametrize("stream", [False, True])
    def test_tools(self, client, stream):
        def ask(items):
            options = {"model": MODEL, "input": items, "tools": self.TOOLS, "tool_choice": "required"}
            if not stream:
                return client.responses.create(**options)
            with client.responses.stream(**options) as events:
                list(events)
                return events.get_final_response()

        items = say("What is the weather in Cusco?")
        first = ask(items)
        call = first.output[0]
        assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "weather", {"city": "Cusco"})
        call = call.model_dump(include={"type", "call_id", "name", "arguments"})
        items += [call, {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"}]
        assert ask(items).output_text == "It is sunny."

    def test_schemas(self, client):
        schema = {**SCHEMA, "properties": {"city": {"enum": ["Cusco"]}}, "additionalProperties": False}
        text = {"format": {"type": "json_schema", "name": "place", "schema": schema, "strict": True}}
        response = client.responses.create(model=CHAT, input="Where?", text=text, max_output_tokens=99)
        assert json.loads(response.output_text) == {"city": "Cusco"}

    def test_what_needs_a_memory_is_refused(self, client):
        for wish in ({"previous_response_id": "resp_1"}, {"background": True}, {"store": True}, {"tools": [{"type": "web_search"}]}):
            with pytest.raises(openai.BadRequestError) as error:
                client.responses.create(model=CHAT, input="hi", **wish)
            assert error.value.param.startswith(next(iter(wish)))
        with pytest.raises(openai.NotFoundError):
            client.responses.create(model="none", input="hi")

    @pytest.mark.parametrize("how", ["die", "fail"])
    def test_a_stream_that_breaks_raises(self, client, how):
        seen = []
        with pytest.raises(openai.APIError):
            for event in client.responses.create(model=faulty("openai", how), input=how, stream=True):
                seen.append(event.type)
        assert "response.output_text.delta" in seen and "response.completed" not in seen
        assert seen[-1] == "response.failed"


class TestOllama:
    TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Weather.", "parameters": SCHEMA}}]

    def test_models(self, llama):
        models = {model.model: model for model in llama.list().models}
        assert {CHAT, MODEL, EMBED} <= set(models)
        shown = llama.show(CHAT)
        assert "completion" in shown.capabilities and shown.modelinfo["general.architecture"]
        assert CHAT in {model.model for model in llama.ps().models}
        with pytest.raises(ollama.ResponseError, match="did you mean") as error:
            llama.show(CHAT + "x")
        assert error.value.status_code == 404

    def test_a_chat_streamed_and_whole(self, llama):
        options = {"seed": 42, "temperature": 0.7, "num_predict": 16, "num_ctx": 4096}
        whole = llama.chat(model=CHAT, messages=HELLO, options=options)
        parts = list(llama.chat(model=CHAT, messages=HELLO, options=options, stream=True))
        assert "".join(part.message.content for part in parts) == whole.message.content
        last = parts[-1]
        assert last.done and last.done_reason == whole.done_reason and not any(part.done for part in parts[:-1])
        assert last.eval_count == whole.eval_count > 0 and last.prompt_eval_count > 0
        assert last.total_duration > 0 and last.eval_duration > 0

    def test_a_prompt(self, llama):
        options = {"num_predict": 4}
        assert llama.generate(model=CHAT, prompt="Once upon a time", options=options).done
        raw = list(llama.generate(model=CHAT, prompt="Once upon a time", raw=True, options=options, stream=True))
        assert raw[-1].done and raw[-1].eval_count == 4
        assert llama.generate(model=CHAT).done_reason == "load"

    @pytest.mark.parametrize("stream", [False, True])
    def test_tools(self, llama, stream):
        messages = say("What is the weather in Cusco?")

        def ask():
            if not stream:
                return llama.chat(model=MODEL, messages=messages, tools=self.TOOLS).message
            parts = [part.message for part in llama.chat(model=MODEL, messages=messages, tools=self.TOOLS, stream=True)]
            calls = [call for part in parts for call in part.tool_calls or []]
            return ollama.Message(role="assistant", content="".join(part.content or "" for part in parts), tool_calls=calls or None)

        first = ask()
        call = first.tool_calls[0].function
        assert (call.name, call.arguments) == ("weather", {"city": "Cusco"})
        messages += [first, {"role": "tool", "tool_name": "weather", "content": "sunny"}]
        assert ask().content == "It is sunny."

    def test_thoughts_are_asked_of_models_that_think(self, llama):
        message = llama.chat(model=THINKER, messages=say("think"), think=True).message
        assert (message.thinking, message.content) == ("Let me see.", TEXT)
        with pytest.raises(ollama.ResponseError, match="does not support thinking"):
            llama.chat(model=MODEL, messages=say("think"), think=True)

    def test_schemas(self, llama):
        schema = {**SCHEMA, "properties": {"city": {"enum": ["Cusco"]}}}
        message = llama.chat(model=CHAT, messages=HELLO, format=schema, options={"num_predict": 99}).message
        assert json.loads(message.content) == {"city": "Cusco"}

    def test_vectors(self, llama):
        both = llama.embed(model=EMBED, input=["a llama", "a stone"])
        assert [len(vector) for vector in both.embeddings] == [64, 64] and both.prompt_eval_count > 0
        assert len(llama.embeddings(model=EMBED, prompt="a llama").embedding) == 64

    @pytest.mark.parametrize("how", ["die", "fail"])
    def test_a_stream_that_breaks_raises(self, llama, how):
        seen = []
        with pytest.raises(ollama.ResponseError):
            for part in llama.chat(model=faulty("ollama", how), messages=say(how), stream=True):
                seen.append(part)
        assert seen and not any(part.done for part in seen)

    def test_openais_clients_find_theirs_on_the_same_port(self, the_mesh):
        client = openai.OpenAI(base_url=f"{the_mesh.front.ollama_url}/v1", api_key="none", max_retries=0, timeout=60)
        assert client.chat.completions.create(model=CHAT, messages=HELLO, max_tokens=4).choices


class TestAnthropicBehindTheMesh:
    """A backend that speaks only Anthropic's messages (to us), asked by clients of other protocols."""

    def test_openais_client(self, client):
        options = {"model": CLAUDE, "messages": HELLO, "max_tokens": 12, "temperature": 0, "extra_body": {"top_k": 1}}
        whole = client.chat.completions.create(**options)
        assert whole.choices[0].message.content and whole.usage.completion_tokens <= 12
        chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == whole.choices[0].message.content
        assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens > 0

    def test_anthropics_own_client_there_and_back(self, claude):
        with claude.messages.stream(model=CLAUDE, max_tokens=12, messages=HELLO) as stream:
            message = stream.get_final_message()
        assert message.content[0].text and message.stop_reason in ("max_tokens", "end_turn")

    def test_ollamas_client(self, llama):
        options = {"num_predict": 12, "temperature": 0, "top_k": 1}
        parts = list(llama.chat(model=CLAUDE, messages=HELLO, options=options, stream=True))
        assert parts[-1].done and parts[-1].prompt_eval_count > 0

    def test_what_it_cannot_is_refused_by_name(self, client):
        with pytest.raises(openai.BadRequestError) as error:
            client.chat.completions.create(model=CLAUDE, messages=HELLO, seed=7)
        assert error.value.param == "seed"


class TestLiteLLM:
    """LiteLLM's own way to each protocol."""

    @pytest.fixture(scope="class")
    @classmethod
    def ways(cls, the_mesh):
        # Slow to import, so that those who run single tests do not wait for it.
        import litellm

        litellm.num_retries = 0
        litellm.suppress_debug_info = True
        front = the_mesh.front
        return litellm, {
            "openai": {"model": f"openai/{CHAT}", "api_base": f"{front.url}/v1", "api_key": "none"},
            "anthropic": {"model": f"anthropic/{CHAT}", "api_base": front.url, "api_key": "none"},
            "ollama_chat": {"model": f"ollama_chat/{CHAT}", "api_base": front.ollama_url},
        }

    @pytest.mark.parametrize("way", ["openai", "anthropic", "ollama_chat"])
    def test_completion_whole_and_streamed(self, ways, way):
        litellm, known = ways
        answer = litellm.completion(**known[way], messages=HELLO, max_tokens=8, timeout=60)
        assert answer.choices[0].message.content and answer.usage.completion_tokens <= 8
        chunks = list(litellm.completion(**known[way], messages=HELLO, max_tokens=8, stream=True, timeout=60))
        assert any(chunk.choices[0].delta.content for chunk in chunks)
        assert any(chunk.choices[0].finish_reason for chunk in chunks)

    @pytest.mark.parametrize("way", ["openai", "anthropic", "ollama_chat"])
    def test_an_unknown_model_is_not_found(self, ways, way):
        litellm, known = ways
        options = {**known[way], "model": known[way]["model"] + "x"}
        with pytest.raises(Exception) as error:
            litellm.completion(**options, messages=HELLO, timeout=60)
        assert getattr(error.value, "status_code", None) in (404, 500) and "did you mean" in str(error.value)
