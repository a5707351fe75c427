"""Writes a small but real embedding model in ONNX, in the files that sentence-transformers publish.

    make_model.py ASSETS DIRECTORY

ASSETS is `assets/embedder`: the words and their vectors come from the built-in table, so that nothing is downloaded
and the model knows what words mean. Its space is another one all the same: an offset that all vectors share moves every
similarity up, as many published models have it (two unrelated sentences are 0.6 alike, not 0.1).

Prints the path of the runtime library of the `onnxruntime` wheel beside it, for ORT_DYLIB_PATH.
"""

import json
import pathlib
import shutil
import struct
import sys

import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

# Length of the shared offset against that of a word's vector.
OFFSET = 0.9


def table(path):
    """Vectors and weights of the built-in table."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    types = {"F32": "<f4", "I8": "i1"}

    def tensor(name):
        begin, end = header[name]["data_offsets"]
        raw = data[8 + length + begin : 8 + length + end]
        return numpy.frombuffer(raw, types[header[name]["dtype"]]).reshape(header[name]["shape"])

    return tensor("embeddings"), tensor("weights")


def model(rows, weights):
    """token ids -> each token's weighted vector; the pooling is the caller's, as with the real ones."""
    lengths = numpy.linalg.norm(rows.astype(numpy.float32), axis=1)
    components = rows.shape[1] + 1
    offset = numpy.zeros((1, 1, components), numpy.float32)
    offset[..., -1] = OFFSET * numpy.median(lengths[lengths > 0])
    constants = [
        numpy_helper.from_array(rows, "rows"),
        numpy_helper.from_array(weights.reshape(-1, 1), "weights"),
        numpy_helper.from_array(offset, "offset"),
        numpy_helper.from_array(numpy.array([0, 0, 0, 0, 0, 1], numpy.int64), "one_more"),
    ]
    nodes = [
        helper.make_node("Gather", ["rows", "input_ids"], ["row_bytes"]),
        helper.make_node("Cast", ["row_bytes"], ["row"], to=TensorProto.FLOAT),
        # One more component, the same for every token.
        helper.make_node("Pad", ["row", "one_more"], ["row_and_zero"]),
        helper.make_node("Add", ["row_and_zero", "offset"], ["moved"]),
        helper.make_node("Gather", ["weights", "input_ids"], ["weight"]),
        helper.make_node("Mul", ["moved", "weight"], ["last_hidden_state"]),
    ]
    names = ("input_ids", "attention_mask")
    ids = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in names]
    out = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "tokens", components])
    graph = helper.make_graph(nodes, "tiny", ids, [out], constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(made)
    return made


def main(assets, directory):
    directory.mkdir(parents=True, exist_ok=True)
    rows, weights = table(assets / "model.safetensors")
    onnx.save(model(rows, weights), directory / "model.onnx")
    shutil.copy(assets / "tokenizer.json", directory / "tokenizer.json")
    files = {
        "config.json": {"model_type": "bert", "vocab_size": len(rows), "pad_token_id": 0},
        "tokenizer_config.json": {"model_max_length": 512, "pad_token": "[PAD]", "unk_token": "[UNK]"},
        "special_tokens_map.json": {"pad_token": "[PAD]", "unk_token": "[UNK]"},
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content))
    # The library's name has its version at one end or the other; the `providers` beside it are no runtimes.
    capi = pathlib.Path(onnxruntime.__file__).parent / "capi"
    names = ("libonnxruntime.so*", "libonnxruntime.*dylib", "onnxruntime.dll")
    print(next(path for name in names for path in sorted(capi.glob(name))))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
