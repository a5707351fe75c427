"""Runs a real llama.cpp server in this process, until it is told to stop.

    python llama_server.py --model MODEL.gguf --alias NAME [--embedding] [--slots N] [--port PORT]

Prints one line with its base URL once it answers, and ends when its standard input is closed, so that a test that
dies leaves no server behind.
"""

import argparse
import os
import sys

import xllamacpp


def parameters(arguments):
    """llama.cpp's settings for a small, quiet server."""
    params = xllamacpp.CommonParams()
    params.model.path = arguments.model
    params.model_alias = {arguments.alias}
    params.hostnames = ["127.0.0.1"]
    params.port = arguments.port
    params.n_ctx = arguments.context * arguments.slots
    params.n_parallel = arguments.slots
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.n_threads_http = 8
    params.warmup = False
    params.fit_params = False
    params.cache_ram_mib = 0
    params.ui = False
    params.endpoint_slots = True
    params.endpoint_metrics = True
    params.use_jinja = True
    params.verbosity = 0
    if arguments.embedding:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    return params


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--alias", required=True)
    parser.add_argument("--embedding", action="store_true")
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--context", type=int, default=2048, help="tokens of context for each slot")
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    server = xllamacpp.Server(parameters(arguments))
    print(server.listening_address, flush=True)
    sys.stdin.read()
    # llama.cpp's own shutdown waits for running generations; nobody wants them any more.
    os._exit(0)


if __name__ == "__main__":
    main()
