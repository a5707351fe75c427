"""Real processes for the SDK tests: `atmosphere` nodes and llama.cpp servers, on loopback, gone afterwards."""

import base64
import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# How long nodes believe each other's adverts in these tests.
ADVERT_TTL_SECONDS = 6
# For conditions that nothing promises a time for: two cores may be busy.
PATIENCE_SECONDS = 45


def program():
    """The `atmosphere` under test: named by the environment, or the newest build."""
    named = os.environ.get("ATMOSPHERE_BIN")
    if named:
        return named
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    built = [path for path in (target / "debug" / "atmosphere", target / "release" / "atmosphere") if path.exists()]
    assert built, "no atmosphere is built: run `cargo build`, or set ATMOSPHERE_BIN"
    return str(max(built, key=lambda path: path.stat().st_mtime))


def eventually(what, condition, limit=PATIENCE_SECONDS):
    """Waits until `condition()` is true, and gives what it returned."""
    end = time.monotonic() + limit
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"waited {limit} s in vain until {what}"
        time.sleep(0.05)


def free_port():
    """A port of loopback that nobody uses, for TCP and UDP, outside of the range of outgoing connections."""
    start = 30000 + os.getpid() % 1000
    for port in range(start, start + 1700):
        if port in free_port.given:
            continue
        with contextlib.suppress(OSError):
            with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
                tcp.bind(("127.0.0.1", port))
                udp.bind(("127.0.0.1", port))
            free_port.given.add(port)
            return port
    raise AssertionError("no free port")


free_port.given = set()


def get(url, timeout=5):
    """JSON of a URL, or None when it does not answer with 200."""
    # No proxy: everything is on loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout) as response:
            return json.load(response)
    except (OSError, ValueError, urllib.error.HTTPError):
        return None


class LlamaServer:
    """A real llama.cpp server in a process of its own."""

    def __init__(self, model_path, alias, embedding=False, slots=2, context=16384):
        command = [sys.executable, str(HERE / "llama_server.py"), "--model", str(model_path), "--alias", alias]
        command += ["--slots", str(slots), "--context", str(context)] + (["--embedding"] if embedding else [])
        self.log = tempfile.NamedTemporaryFile("w+", suffix=".log")
        # It ends when its standard input is closed: also when these tests die.
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True)
        lines = iter(self.process.stdout.readline, "")
        self.url = next((line.strip() for line in lines if line.startswith("http")), None)
        assert self.url, f"llama.cpp does not start:\n{pathlib.Path(self.log.name).read_text()}"
        eventually(f"{alias} answers", lambda: get(f"{self.url}/health"))

    def busy_slots(self):
        """How many of its slots are at work."""
        return sum(slot["is_processing"] for slot in get(f"{self.url}/slots"))

    def stop(self):
        """Ends it."""
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.log.close()


class Tap:
    """A way to a server that counts who leaves it: connections that are closed while a request waits for its answer."""

    def __init__(self, url):
        self.target = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
        self.left = 0
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self.serve, args=(self.listener.accept()[0],), daemon=True).start()

    def serve(self, near):
        far = socket.create_connection(self.target)
        for each in (near, far):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        waits = threading.Event()

        def answers():
            with contextlib.suppress(OSError):
                while piece := far.recv(1 << 16):
                    waits.clear()
                    near.sendall(piece)
            # The server ends the connection: so does this.
            with contextlib.suppress(OSError):
                near.shutdown(socket.SHUT_RDWR)

        back = threading.Thread(target=answers, daemon=True)
        back.start()
        with contextlib.suppress(OSError):
            while piece := near.recv(1 << 16):
                waits.set()
                far.sendall(piece)
        self.left += waits.is_set() and back.is_alive()
        for each in (far, near):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        back.join()
        near.close()
        far.close()

    def stop(self):
        """Takes no new connections."""
        self.listener.close()


class Node:
    """A real `atmosphere` process."""

    def __init__(self, name, directory, backends=(), seeds=(), config=""):
        self.name = name
        self.directory = pathlib.Path(directory) / name
        self.directory.mkdir()
        self.port, self.gossip_port, self.ollama_port = free_port(), free_port(), free_port()
        self.command = [
            program(), "start", "--name", name, "--no-mdns", "--no-probe", "--bind", "127.0.0.1", "--gossip-bind", "127.0.0.1",
            "--port", str(self.port), "--gossip-port", str(self.gossip_port), "--data-dir", str(self.directory / "data"),
            "--ollama-port", str(self.ollama_port),
        ]
        if config:
            (self.directory / "config.toml").write_text(config)
            self.command += ["--config", str(self.directory / "config.toml")]
        for backend in backends:
            self.command += ["--backend", backend]
        for seed in seeds:
            self.command += ["--seed-peer", seed]
        self.process = None
        self.start()

    def start(self):
        """Starts it (again), with the same identity, and waits until it is ready."""
        environment = {
            **os.environ,
            "HOME": str(self.directory),
            "NO_COLOR": "1",
            "ATMOSPHERE_MESH_ADVERT_TTL": f"{ADVERT_TTL_SECONDS}s",
        }
        with open(self.directory / "log", "a") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )
        eventually(f"{self.name} is ready:\n{self.tail()}", self.is_ready)

    def is_ready(self):
        """Whether `/readyz` answers; fails when the process has ended."""
        assert self.process.poll() is None, f"{self.name} has ended:\n{self.tail()}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with contextlib.suppress(OSError, urllib.error.HTTPError):
            with opener.open(f"{self.url}/readyz", timeout=2) as response:
                return response.status == 200
        return False

    def tail(self):
        """The last lines of its log."""
        return "\n".join((self.directory / "log").read_text().splitlines()[-40:])

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def ollama_url(self):
        return f"http://127.0.0.1:{self.ollama_port}"

    @property
    def seed(self):
        return f"127.0.0.1:{self.gossip_port}"

    def nodes(self):
        """Names of the nodes that it sees, itself included."""
        answer = get(f"{self.url}/v1/mesh/nodes") or {"nodes": []}
        return {node["name"] for node in answer["nodes"]}

    def holders(self, model):
        """Names of the nodes that have a model, as this node knows."""
        answer = get(f"{self.url}/v1/capabilities") or {"capabilities": []}
        return {each["node_name"] for each in answer["capabilities"] if each["model"] == model}

    def kill(self):
        """SIGKILL: it has no chance to say goodbye."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()


def png():
    """A picture of one pixel, as a data URL."""
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    assert base64.b64decode(pixel)
    return f"data:image/png;base64,{pixel}"
