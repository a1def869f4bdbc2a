"""The plain llama.cpp loop, the reference for all measurements: one context, one batch, no server. A program.

    python -m lllms_core.bench.raw_loop MODEL.gguf SEQUENCES CONTEXT    does work from stdin, one JSON line each
    python -m lllms_core.bench.raw_loop MODEL.gguf --busy THREADS       generates as long as its parent lives

Work: {"prompts": [str], "max_tokens": int, "threads": int, "seconds": float}; the answer: one {"start", "arrivals",
"prompt_tokens"} per prompt, as in `Timeline`. It evaluates all prompts, then generates greedily for all of them
together, until `max_tokens` are reached or the time is up.
"""

import json
import os
import sys
from collections.abc import Sequence
from ctypes import c_int8, create_string_buffer
from pathlib import Path
from time import perf_counter
from typing import Any

import llama_cpp.llama_cpp as native

BATCH = 512


class RawLoop:
    """A llama.cpp context for `sequences` sequences of `context` tokens, and the loop around `llama_decode`."""

    def __init__(self, file: Path, sequences: int, context: int) -> None:
        self._quiet = native.llama_log_callback(lambda _level, _text, _data: None)
        native.llama_log_set(self._quiet, None)
        native.llama_backend_init()
        self._model = native.llama_model_load_from_file(str(file).encode(), native.llama_model_default_params())
        if not self._model:
            raise SystemExit(f"llama.cpp cannot load {file}")
        parameters = native.llama_context_default_params()
        parameters.n_ctx = sequences * context
        parameters.n_batch = BATCH
        parameters.n_seq_max = sequences
        parameters.kv_unified = True
        self._context: Any = native.llama_init_from_model(self._model, parameters)
        self._vocabulary: Any = native.llama_model_get_vocab(self._model)
        self._batch = native.llama_batch_init(BATCH, 0, 1)
        self._sampler: Any = native.llama_sampler_chain_init(native.llama_sampler_chain_default_params())
        native.llama_sampler_chain_add(self._sampler, native.llama_sampler_init_greedy())
        self._piece = create_string_buffer(256)

    def run(self, prompts: Sequence[str], max_tokens: int, threads: int, seconds: float) -> list[dict[str, object]]:
        """Do the work, and return when each token arrived."""
        native.llama_set_n_threads(self._context, threads, threads)
        native.llama_memory_clear(native.llama_get_memory(self._context), False)  # noqa: FBT003  # llama.h's signature
        start = perf_counter()
        tokens = [self._tokenize(prompt) for prompt in prompts]
        arrivals: list[list[tuple[float, int]]] = [[] for _ in prompts]
        feeds = [(number, place, token, place == len(one) - 1)
                 for number, one in enumerate(tokens) for place, token in enumerate(one)]
        chosen: dict[int, int] = {}
        for first in range(0, len(feeds), BATCH):
            chosen.update(self._decode(feeds[first : first + BATCH]))
        for count in range(max_tokens):
            now = perf_counter()
            for number in chosen:
                arrivals[number].append((now, 1))
            if count + 1 == max_tokens or now - start > seconds:
                break
            chosen = self._decode([(number, len(tokens[number]) + count, chosen[number], True) for number in chosen])
        return [{"start": start, "arrivals": one, "prompt_tokens": len(prompt)}
                for one, prompt in zip(arrivals, tokens, strict=True)]

    def _decode(self, feeds: Sequence[tuple[int, int, int, bool]]) -> dict[int, int]:
        """Evaluate (sequence, position, token, wants logits); return the next token of those that want logits."""
        batch = self._batch
        batch.n_tokens = len(feeds)
        for row, (sequence, position, token, logits) in enumerate(feeds):
            batch.token[row] = token
            batch.pos[row] = position
            batch.n_seq_id[row] = 1
            batch.seq_id[row][0] = sequence
            batch.logits[row] = c_int8(logits)
        if native.llama_decode(self._context, batch) != 0:
            raise SystemExit("llama_decode failed")
        chosen = {}
        for row, (sequence, _, _, logits) in enumerate(feeds):
            if logits:
                chosen[sequence] = token = native.llama_sampler_sample(self._sampler, self._context, row)
                native.llama_token_to_piece(self._vocabulary, token, self._piece, len(self._piece), 0, True)  # noqa: FBT003  # as above
        return chosen

    def _tokenize(self, text: str) -> list[int]:
        raw = text.encode()
        room = (native.llama_token * (len(raw) + 8))()
        count = native.llama_tokenize(self._vocabulary, raw, len(raw), room, len(room), True, True)  # noqa: FBT003  # as above
        return list(room[:count])


def main(arguments: Sequence[str]) -> None:
    """Run the program."""
    file = Path(arguments[0])
    if arguments[1] == "--busy":
        loop = RawLoop(file, 1, 4096)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        parent = os.getppid()
        while os.getppid() == parent:  # do not outlive the parent
            loop.run(["busy"], 200, int(arguments[2]), 2.0)
        return
    loop = RawLoop(file, int(arguments[1]), int(arguments[2]))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(loop.run(**json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
