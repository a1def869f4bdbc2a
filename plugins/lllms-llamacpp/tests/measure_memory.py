"""Compares the estimates of memory with what workers take, over models of 25 to 500 million parameters.

    python plugins/lllms-llamacpp/tests/measure_memory.py [FOLDER]

It writes the models, with random weights, to FOLDER (a temporary one by default; 3 GB), loads each configuration in a
real worker, lets it work, and prints a table. It takes an hour on two cores. `private` is what a worker
has for itself, and 11 MiB for libraries, of which its share depends on who else uses them; `mapped` are the weights
that it reads from its file's pages. Pages of weights that were repacked, which nobody reads any more, do not count.
What long texts need is taken once they have come, so the rows with long contexts and short prompts take somewhat less.
"""

import asyncio
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from attrs import evolve, frozen
from berts_for_tests import random_bert
from sized_models_for_tests import SHAPES, TINY, Shape, write_sized
from worker_memory_for_tests import at_work

MIB = 2**20
QUANTISED = {"kv_type_k": "q8_0", "kv_type_v": "q8_0"}


@frozen
class Row:
    """A configuration, and the prompts that its worker reads."""

    name: str
    options: Mapping[str, object]
    prompts: int = 1
    tokens: int = 600
    kind: str = "Q8_0"
    spm: bool = False
    tied: bool = False

    def write(self, folder: Path) -> Path:
        """Write its model, unless it is there."""
        file = folder / f"{self.name}-{self.kind}{'-spm' * self.spm}{'-tied' * self.tied}.gguf"
        if file.exists():
            return file
        if self.name.startswith("bert"):
            words = int(self.name.removeprefix("bert "))
            return random_bert(width=384, heads=12, layers=6, inner=1536, positions=512).with_words(words).write(file)
        shape: Shape = TINY if self.name == "tiny" else SHAPES[self.name]
        return write_sized(file, evolve(shape, tied=self.tied), self.kind, spm=self.spm)


def sized(length: int, slots: int, **more: object) -> dict[str, object]:
    """Options with this context."""
    return {"context_length": length, "slots": slots, **more}


ROWS = (
    Row("tiny", sized(512, 1), 1, 500),
    Row("tiny", sized(4096, 8), 8, 4000),
    Row("tiny", sized(8192, 4), 4, 8000),
    Row("tiny", sized(32_768, 4), 4, 32_000),
    Row("25M", sized(512, 1), 1, 500),
    Row("25M", sized(512, 1), 1, 500, spm=True),
    Row("25M", sized(2048, 4), 4, 2000),
    Row("25M", sized(2048, 4, **QUANTISED), 4, 2000),
    Row("25M", sized(1024, 4, use_mmap=False), 4, 1000),
    Row("25M", sized(1024, 2, flash_attention="off"), 2, 1000),
    Row("25M", sized(2048, 1, batch_size=2048, micro_batch_size=2048), 1, 2000),
    Row("25M", sized(4096, 8, **QUANTISED), 8, 4000),
    Row("25M", sized(32_768, 4), 4, 32_000),
    Row("25M", sized(32_768, 4, **QUANTISED)),
    Row("100M", sized(2048, 1)),
    Row("100M", sized(2048, 1), kind="Q4_K"),
    Row("100M", sized(2048, 1, use_mmap=False), kind="Q4_K"),
    Row("100M", sized(2048, 1), kind="Q6_K"),
    Row("135M", sized(512, 1), 1, 500),
    Row("135M", sized(4096, 4)),
    Row("135M", sized(4096, 4, **QUANTISED)),
    Row("135M", sized(4096, 4, micro_batch_size=2048)),
    Row("135M", sized(4096, 4, flash_attention="off"), 4, 4000),
    Row("135M", sized(32_768, 1)),
    Row("135M", sized(32_768, 1, **QUANTISED)),
    Row("135M", sized(4096, 4, use_mmap=False)),
    Row("135M", sized(4096, 4), kind="Q4_0"),
    Row("135M", sized(4096, 4, use_mmap=False), kind="Q4_0"),
    Row("135M", sized(4096, 4), kind="Q4_0", tied=True),
    Row("500M", sized(512, 1), 1, 500),
    Row("500M", sized(512, 1), 1, 500, spm=True),
    Row("500M", sized(4096, 4)),
    Row("500M", sized(4096, 4, **QUANTISED)),
    Row("500M", sized(32_768, 1)),
    Row("500M", sized(4096, 4, use_mmap=False)),
    Row("500M", sized(4096, 4), kind="Q4_0"),
    Row("bert 30000", {"pooling": "mean"}, 8, 500),
    Row("bert 250000", {"pooling": "mean"}, 8, 500),
    Row("25M", sized(512, 4, pooling="mean"), 4, 500),
    Row("25M", sized(2048, 4, pooling="mean"), 2, 2000),
)


def main(folder: Path) -> None:
    """Measure and print all rows."""
    print("| model | options | told: private | mapped | taken: private | mapped | taken - told |")  # noqa: T201
    print("|---|---|---|---|---|---|---|")  # noqa: T201
    for row in ROWS:
        file = row.write(folder)
        need, taken = asyncio.run(at_work(file, row.options, row.prompts, row.tokens))
        mapped = min(taken.mapped, need.shared)
        told, real = need.total, taken.private + mapped
        words = ", ".join(f"{key} {value}" for key, value in row.options.items())
        name = f"{row.name} {row.kind}{' SPM' * row.spm}{' tied' * row.tied}"
        figures = (need.private, need.shared, taken.private, mapped)
        print(  # noqa: T201
            f"| {name} | {words}; {row.prompts} x {row.tokens} tokens | "
            f"{' | '.join(f'{figure / MIB:.0f}' for figure in figures)} | "
            f"{(real - told) / MIB:+.0f} ({(real - told) / told:+.1%}) |",
            flush=True,
        )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
