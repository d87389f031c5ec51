"""llama.cpp's HTTP server, as the package xllamacpp contains it, with llama-server's options.

python llama_server.py -m FILE -c TOKENS [--reranking] [--no-warmup] [--cache-ram MIB]
    [--threads N] [--float32-attention] --host HOST --port PORT --api-key KEY

With --float32-attention, which is ours, attention and its cache have 32 bits, not 16, so that
scores can be compared.
"""

from __future__ import annotations

import argparse
import signal


def main() -> None:
    import xllamacpp

    parser = argparse.ArgumentParser()
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("-c", "--ctx-size", type=int, required=True)
    parser.add_argument("--reranking", action="store_true")
    parser.add_argument("--no-warmup", action="store_true")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--cache-ram", type=int)
    parser.add_argument("--float32-attention", action="store_true")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--api-key", required=True)
    options = parser.parse_args()

    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.n_ctx = options.ctx_size
    params.n_parallel = 4
    params.warmup = not options.no_warmup
    params.hostnames = [options.host]
    params.port = options.port
    params.api_keys = [options.api_key]
    if options.threads is not None:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    if options.cache_ram is not None:
        params.cache_ram_mib = options.cache_ram
    if options.float32_attention:
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    if options.reranking:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    main()
