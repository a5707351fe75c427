"""The mesh that all SDK tests speak with: three nodes, and llama.cpp behind two of them."""

import pytest

import mesh
import tiny_gguf

CHAT, SHARED, EMBED = "tiny-chat", "tiny-shared", "tiny-embed"


@pytest.fixture(scope="session")
def gguf(tmp_path_factory):
    """A tiny model on disk."""
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    tiny_gguf.write(str(path))
    return path


@pytest.fixture(scope="session")
def servers(gguf):
    """Real llama.cpp servers: one for chat, one for embeddings, and two that hold the same model."""
    started = {}
    try:
        started["chat"] = mesh.LlamaServer(gguf, CHAT)
        started["embed"] = mesh.LlamaServer(gguf, EMBED, embedding=True)
        started["first"] = mesh.LlamaServer(gguf, SHARED)
        started["second"] = mesh.LlamaServer(gguf, SHARED)
        yield started
    finally:
        for server in started.values():
            server.stop()


class Mesh:
    """Three nodes: `front` has nothing, `back` has three servers, `spare` has the second holder of one model."""

    def __init__(self, directory, servers):
        self.nodes = []
        self.tap = mesh.Tap(servers["chat"].url)
        backends = [self.tap.url, servers["embed"].url, servers["first"].url]
        try:
            self.front = self.add("front", directory)
            self.back = self.add("back", directory, backends, [self.front.seed])
            self.spare = self.add("spare", directory, [servers["second"].url], [self.front.seed])
            mesh.eventually("all see all", lambda: all(len(node.nodes()) == 3 for node in self.nodes))
            self.wait_for_models()
        except BaseException:
            self.stop()
            raise

    def add(self, *arguments):
        node = mesh.Node(*arguments)
        self.nodes.append(node)
        return node

    def wait_for_models(self):
        """Until the front knows every model and both holders of the shared one."""
        for model, holders in ((CHAT, {"back"}), (EMBED, {"back"}), (SHARED, {"back", "spare"})):
            mesh.eventually(f"front knows {holders} have {model}", lambda: self.front.holders(model) == holders)

    def stop(self):
        for node in self.nodes:
            node.kill()
        self.tap.stop()


@pytest.fixture(scope="session")
def the_mesh(tmp_path_factory, servers):
    """The mesh, up for all tests."""
    running = Mesh(tmp_path_factory.mktemp("nodes"), servers)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def client(the_mesh):
    """The official SDK, pointed at the node that has nothing. It retries nothing: a retry would hide a fault."""
    import openai

    return openai.OpenAI(base_url=f"{the_mesh.front.url}/v1", api_key="none", max_retries=0, timeout=60)
