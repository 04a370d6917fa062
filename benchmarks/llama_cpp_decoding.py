"""Tokens a second of llama.cpp, beside which `decoding.py` sets ours.

    PYTHON benchmarks/llama_cpp_decoding.py MODEL.gguf PROMPT ROWS STEPS THREADS

PYTHON has llama-cpp-python; nothing of srr_guard is needed. A prompt of PROMPT tokens is read once,
its memory is shared by ROWS sequences, and each step decodes one token of each, the likeliest.
Prints the seconds of the prompt and of every step as JSON.
"""

from __future__ import annotations

import json
import sys
import time


def quiet(*_: object) -> None:
    """Swallow what the library logs."""


def main() -> None:
    """Print the seconds."""
    import llama_cpp as llama

    file, (prompt, rows, steps, threads) = sys.argv[1], (int(word) for word in sys.argv[2:])
    log = llama.llama_log_callback(quiet)  # kept: the library does not
    llama.llama_log_set(log, None)
    llama.llama_backend_init()
    model = llama.llama_model_load_from_file(file.encode(), llama.llama_model_default_params())
    options = llama.llama_context_default_params()
    options.n_ctx = prompt + rows * (steps + 8)
    options.n_batch = options.n_ubatch = max(prompt, rows)
    options.n_seq_max = rows
    options.kv_unified = True
    options.n_threads = options.n_threads_batch = threads
    context = llama.llama_init_from_model(model, options)
    vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    batch = llama.llama_batch_init(max(prompt, rows), 0, 1)

    def put(tokens: list[tuple[int, int, int, bool]]) -> None:
        batch.n_tokens = len(tokens)
        for i, (token, place, row, wanted) in enumerate(tokens):
            batch.token[i], batch.pos[i] = token, place
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, row
            batch.logits[i] = wanted
        if llama.llama_decode(context, batch):
            raise SystemExit("llama_decode failed")

    def likeliest(i: int) -> int:
        logits = llama.llama_get_logits_ith(context, i)[:vocabulary]
        return max(range(vocabulary), key=logits.__getitem__)

    started = time.perf_counter()
    put([(100 + i % 5000, i, 0, i == prompt - 1) for i in range(prompt)])
    memory = llama.llama_get_memory(context)
    for row in range(1, rows):
        llama.llama_memory_seq_cp(memory, 0, row, -1, -1)
    seconds = [time.perf_counter() - started]
    tokens = [likeliest(prompt - 1)] * rows
    for step in range(steps):
        started = time.perf_counter()
        put([(token, prompt + step, row, True) for row, token in enumerate(tokens)])
        seconds.append(time.perf_counter() - started)  # choosing a token is not counted
        tokens = [likeliest(row) for row in range(rows)]
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
