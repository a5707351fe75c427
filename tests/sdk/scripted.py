"""A scripted OpenAI-compatible backend, for what a tiny random model cannot do: tool calls, thoughts, and failures.

What it does is said in the prompt's last message: "think", "die", "fail", "busy"; with tools it calls the first one, and
when it has been told what that one gave, it repeats it.
"""

import contextlib
import http.server
import json
import threading
import time

MODEL = "scripted"
THINKER = "scripted-thinking"


def faulty(client, how):
    """A model of its own for each failure: one that failed is left alone for a while."""
    return f"faulty-{client}-{how}"


MODELS = [MODEL, THINKER] + [faulty(client, how) for client in ("anthropic", "openai", "ollama") for how in ("die", "fail", "busy")]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, body, headers=()):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if self.path == "/v1/models":
            models = [{"id": name, "object": "model", "owned_by": "test"} for name in MODELS]
            return self.reply(200, {"object": "list", "data": models})
        return self.reply(404, {"error": {"message": "not here"}})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))))
        self.server.requests.append(body)
        last = body["messages"][-1]
        said = last["content"] if isinstance(last["content"], str) else last["content"][0].get("text", "")
        if said == "busy":
            error = {"message": "slow down", "type": "rate_limit_error", "param": None, "code": "busy"}
            return self.reply(429, {"error": error}, [("retry-after", "7")])
        if body.get("tools") and last["role"] != "tool":
            name = body["tools"][0]["function"]["name"]
            call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": '{"city": "Cusco"}'}}
            deltas = [
                {"tool_calls": [{**call, "index": 0, "function": {"name": name, "arguments": ""}}]},
                {"tool_calls": [{"index": 0, "function": {"arguments": '{"city": '}}]},
                {"tool_calls": [{"index": 0, "function": {"arguments": '"Cusco"}'}}]},
            ]
            return self.answer(body, {"content": None, "tool_calls": [call]}, deltas, "tool_calls")
        text = f"It is {said}." if last["role"] == "tool" else "Grüße aus Cusco 🦙"
        message, deltas = {"content": text}, [{"content": piece} for piece in (text[:3], text[3:])]
        if said == "think":
            message["reasoning_content"] = "Let me see."
            deltas.insert(0, {"reasoning_content": "Let me see."})
        return self.answer(body, message, deltas, "stop", said)

    def answer(self, body, message, deltas, reason, said=""):
        head = {"id": "chatcmpl-7", "created": 7, "model": body["model"]}
        usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12, "prompt_tokens_details": {"cached_tokens": 4}}
        if not body.get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}
            return self.reply(200, {**head, "object": "chat.completion", "choices": [choice], "usage": usage})
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True

        def send(chunk):
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
            self.wfile.flush()

        def chunk(delta, reason=None):
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            send({**head, "object": "chat.completion.chunk", "choices": [choice]})

        with contextlib.suppress(OSError):
            chunk({"role": "assistant", "content": ""})
            for delta in deltas:
                chunk(delta)
            if said == "die":
                return None
            if said == "fail":
                return send({"error": {"message": "out of memory", "type": "server_error", "code": 500}})
            if said == "endless":
                for _ in range(600):
                    time.sleep(0.1)
                    chunk({"content": "and on "})
            chunk({}, reason)
            if body.get("stream_options", {}).get("include_usage"):
                send({**head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
            self.wfile.write(b"data: [DONE]\n\n")
        self.server.left += said == "endless"
        return None


class Scripted:
    """The backend, in a thread of this process."""

    def __init__(self):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.requests, self.server.left = [], 0
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def requests(self):
        return self.server.requests

    @property
    def left(self):
        """Endless answers whose caller has left."""
        return self.server.left

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
