"""Writes a tiny llama-architecture model in GGUF format: random weights, byte-level BPE, a ChatML template.

What it says is gibberish, but a real llama.cpp server loads it in milliseconds and gives it the whole of its
HTTP surface: chat, streaming, embeddings, JSON-schema output, log probabilities. Nothing is downloaded, and the
same seed makes the same file.

    python tiny_gguf.py MODEL.gguf
"""

import sys

import gguf
import numpy as np

WIDTH = 64
LAYERS = 2
HEADS = 4
KV_HEADS = 2
FEED_FORWARD = 128
CONTEXT = 65536

# ChatML, as most small models of today speak it.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_alphabet():
    """GPT-2's printable stand-in for each of the 256 bytes, in byte order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    stand_in = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        stand_in.setdefault(byte, chr(256 + sum(1 for known in stand_in.values() if ord(known) >= 256)))
    return [stand_in[byte] for byte in range(256)]


def vocabulary():
    """Tokens, their types and the merges: every byte, some common pairs, and ChatML's markers."""
    tokens = byte_alphabet()
    space = tokens[ord(" ")]
    merges = []
    for left, right in [
        ("t", "h"), ("th", "e"), ("i", "n"), ("e", "r"), ("a", "n"), ("an", "d"), ("r", "e"), ("o", "n"), ("l", "l"),
        (space, "t"), (space, "a"), (space, "the"), ("ll", "a"), ("lla", "m"), ("llam", "a"),
    ]:
        merges.append(f"{left} {right}")
        tokens.append(left + right)
    types = [gguf.TokenType.NORMAL] * len(tokens)
    markers = {}
    for marker in ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]:
        markers[marker] = len(tokens)
        tokens.append(marker)
        types.append(gguf.TokenType.CONTROL)
    return tokens, types, merges, markers


def write(path, seed=1):
    """Writes the model to `path`."""
    random = np.random.default_rng(seed)

    def weights(*shape):
        return (random.standard_normal(shape) * 0.2).astype(np.float32)

    tokens, types, merges, markers = vocabulary()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny-random")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(markers["<|endoftext|>"])
    writer.add_eos_token_id(markers["<|im_end|>"])
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)

    head = WIDTH // HEADS
    writer.add_tensor("token_embd.weight", weights(len(tokens), WIDTH))
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    writer.add_tensor("output.weight", weights(len(tokens), WIDTH))
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        writer.add_tensor(f"{block}.attn_norm.weight", np.ones(WIDTH, np.float32))
        writer.add_tensor(f"{block}.attn_q.weight", weights(HEADS * head, WIDTH))
        writer.add_tensor(f"{block}.attn_k.weight", weights(KV_HEADS * head, WIDTH))
        writer.add_tensor(f"{block}.attn_v.weight", weights(KV_HEADS * head, WIDTH))
        writer.add_tensor(f"{block}.attn_output.weight", weights(WIDTH, HEADS * head))
        writer.add_tensor(f"{block}.ffn_norm.weight", np.ones(WIDTH, np.float32))
        writer.add_tensor(f"{block}.ffn_gate.weight", weights(FEED_FORWARD, WIDTH))
        writer.add_tensor(f"{block}.ffn_up.weight", weights(FEED_FORWARD, WIDTH))
        writer.add_tensor(f"{block}.ffn_down.weight", weights(WIDTH, FEED_FORWARD))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    write(sys.argv[1])
