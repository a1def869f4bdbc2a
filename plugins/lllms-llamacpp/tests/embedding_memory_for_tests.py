"""Embeds texts in a separate process, and prints the private memory in use after each kind of text."""

import json
import os
import sys
from pathlib import Path

from attrs import asdict
from lllms_llamacpp import LlamaCppEngine, Options

from lllms_core.queries import EmbedRequest
from lllms_core.types import ModelSpec


def private() -> int:
    """This process's private memory, in bytes."""
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def main(file: Path, options: dict[str, object], kinds: list[list[int]]) -> None:
    """Load the model, embed texts of these token counts, kind by kind, and print the estimate and the memory taken."""
    import lllms_llamacpp.loading  # noqa: F401  # its memory counts as the worker's, not the model's

    before = private()
    spec = ModelSpec("m", Options(threads=1, use_mmap=False, **options), file)  # type: ignore[arg-type]  # from JSON
    engine = LlamaCppEngine()
    model = engine.load(spec, lambda _: None)
    frame = len(model.tokenize((5,), None)) - 1
    taken = []
    for lengths in kinds:
        texts = tuple((5,) * (length - frame) for length in lengths)
        model.open_embed(EmbedRequest("r", "m", texts))
        finished = []
        while not model.idle:
            finished += [delta.finish for delta in model.step()]
        assert finished[0].usage.prompt_tokens == sum(lengths)
        taken.append(private() - before)
    model.close()
    sys.stdout.write(json.dumps({"told": asdict(engine.estimate(spec)), "taken": taken}))


if __name__ == "__main__":
    os.nice(5)
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3]))
