"""The mesh that all SDK tests speak with: three nodes, and llama.cpp behind two of them."""

import os

import pytest

import mesh
import scripted as script
import tiny_gguf

# LiteLLM would fetch its list of prices from the internet.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

CHAT, SHARED, EMBED, CLAUDE = "tiny-chat", "tiny-shared", "tiny-embed", "tiny-claude"


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
        started["claude"] = mesh.LlamaServer(gguf, CLAUDE)
        yield started
    finally:
        for server in started.values():
            server.stop()


@pytest.fixture(scope="session")
def scripted():
    """A backend that does what the prompt says."""
    running = script.Scripted()
    yield running
    running.stop()


class Mesh:
    """Three nodes: `front` has nothing, `back` has four servers, `spare` has the second holder of one model, and a server
    that it speaks Anthropic's protocol with."""

    def __init__(self, directory, servers, scripted):
        self.nodes = []
        self.tap = mesh.Tap(servers["chat"].url)
        backends = [self.tap.url, servers["embed"].url, servers["first"].url, f"openai={scripted.url}"]
        # The second holder's URL is in the file as well: a flag would replace all that the file names.
        config = (
            f'[[backends]]\nurl = "{servers["second"].url}"\n'
            f'[[backends]]\nkind = "anthropic"\nurl = "{servers["claude"].url}"\nkey = "sk-none-of-yours"\nshared = true\n'
        )
        try:
            self.front = self.add("front", directory)
            self.back = self.add("back", directory, backends, [self.front.seed])
            self.spare = self.add("spare", directory, [], [self.front.seed], config)
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
        for model, holders in ((CHAT, {"back"}), (EMBED, {"back"}), (SHARED, {"back", "spare"}), (script.MODEL, {"back"}), (CLAUDE, {"spare"})):
            mesh.eventually(f"front knows {holders} have {model}", lambda: self.front.holders(model) == holders)

    def stop(self):
        for node in self.nodes:
            node.kill()
        self.tap.stop()


@pytest.fixture(scope="session")
def the_mesh(tmp_path_factory, servers, scripted):
    """The mesh, up for all tests."""
    running = Mesh(tmp_path_factory.mktemp("nodes"), servers, scripted)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def client(the_mesh):
    """The official SDK, pointed at the node that has nothing. It retries nothing: a retry would hide a fault."""
    import openai

    return openai.OpenAI(base_url=f"{the_mesh.front.url}/v1", api_key="none", max_retries=0, timeout=60)
