r"""An engine with continuous batching in one file: a small attention model in numpy, served as the OpenAI API.

    python examples/batching_engine.py
    curl http://127.0.0.1:3000/v1/completions -H 'Content-Type: application/json' \
        -d '{"model": "induction", "prompt": "tick tock tick tock tick", "max_tokens": 20, "temperature": 0}'

The model is one induction head: it attends to the places where the last bytes occurred before, and predicts the byte
that followed there. It has a real KV cache, so prefix reuse, chunked prompts and batching all do their work.
`BatchingModel` asks for the methods below and provides everything else. CONTRIBUTING.md says how to make a package of
this file, and how to test that.
"""

from collections.abc import Sequence

import numpy as np
from attrs import define, frozen
from numpy.typing import NDArray

from lllms_core import hookimpl
from lllms_core.chat import Segment
from lllms_core.engines import BatchingModel, Engine, Feed, Progress
from lllms_core.types import ModelOffer, ModelSpec, Sampling

END = 256
"""The token after the 256 bytes: the model ends its answer with it."""
WIDTH = 64
"""Components of a byte's embedding."""
SPAN, FADE = 8, 0.8
"""How many bytes are compared, the last one first, and how much less each counts than the one after it."""
SHARPNESS = 12.0
"""High enough that nearly all attention is on the best match."""

Array = NDArray[np.float32]


@frozen
class Options:
    """The keys of `[models.X.options]`."""

    context_length: int = 2048
    slots: int = 4


@define
class Sampler:
    """Chooses the next byte from a row of logits."""

    logits: Array
    """The rows of the last decode, shared with the model."""
    temperature: float
    random: np.random.Generator

    def sample(self, row: int) -> int:
        """Choose a token from the logits of this row."""
        logits = self.logits[row]
        if self.temperature == 0:
            return int(logits.argmax())
        return int((logits / self.temperature + self.random.gumbel(size=logits.size)).argmax())

    def close(self) -> None:
        """Nothing to free."""


class Induction(BatchingModel):
    """Continues a text by what followed the same bytes before."""

    def __init__(self, options: Options) -> None:
        """Set aside a row of the KV cache for each sequence."""
        sequences = 2 * options.slots  # the spare ones keep past conversations
        super().__init__(
            slots=options.slots, context_length=options.context_length, sequences=sequences,
            kv_size=sequences * options.context_length,
        )
        random = np.random.default_rng(0)
        embedding = random.standard_normal((END + 1, WIDTH)).astype(np.float32)
        self._embedding = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
        self._tokens = np.zeros((sequences, options.context_length), dtype=np.int32)
        """The values of the cache, and what its keys are made of."""
        self._logits = np.zeros((self.batch_size, END + 1), dtype=np.float32)

    def tokenize(self, segments: Sequence[Segment]) -> list[int]:
        """A token for each byte."""
        return list("".join(segment.text for segment in segments).encode())

    def piece(self, token: int) -> bytes:
        """The byte itself."""
        return b"" if token == END else bytes([token])

    def is_end(self, token: int) -> bool:
        """Whether it is the end token."""
        return token == END

    def sampler(self, sampling: Sampling, prompt: Sequence[int]) -> Sampler:  # noqa: ARG002  # there are no penalties
        """A sampler with a random generator of its own."""
        return Sampler(self._logits, sampling.temperature, np.random.default_rng(sampling.seed))

    def decode(self, feeds: Sequence[Feed]) -> Sequence[int]:
        """Store the new tokens; then attend once for each feed that wants logits."""
        rows: list[int] = []
        for feed in feeds:
            end = feed.position + len(feed.tokens)
            self._tokens[feed.sequence, feed.position : end] = feed.tokens
            if feed.logits:
                self._logits[len(rows)] = self._predict(self._tokens[feed.sequence, :end])
                rows.append(len(rows))
        return rows

    def trim(self, sequence: int, length: int) -> bool:  # noqa: ARG002  # later tokens are overwritten
        """Sequences can be cut anywhere: cells beyond the length are never read."""
        return True

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy cells."""
        self._tokens[target, :length] = self._tokens[source, :length]

    def _predict(self, tokens: NDArray[np.int32]) -> Array:
        """The logits of the next token after these."""
        vectors = np.vstack([np.zeros((SPAN, WIDTH), dtype=np.float32), self._embedding[tokens]])
        keys = np.hstack([FADE**back * vectors[SPAN - back : len(vectors) - back] for back in range(SPAN)])
        scores = SHARPNESS * (keys[:-1] @ keys[-1])
        weights = np.full(END + 1, 1e-6, dtype=np.float32)
        if scores.size:
            np.add.at(weights, tokens[1:], np.exp(scores - scores.max()))
        return np.asarray(np.log(weights / weights.sum()), dtype=np.float32)


class InductionEngine(Engine):
    """Makes models that need no file."""

    name = "induction"
    Options = Options
    parameters = frozenset({"temperature", "seed"})
    needs_file = False

    def load(self, spec: ModelSpec, progress: Progress) -> Induction:  # noqa: ARG002  # there is nothing to load
        """Return a fresh model."""
        assert isinstance(spec.options, Options)  # noqa: S101  # made from them by the core
        return Induction(spec.options)


@hookimpl
def lllms_engines() -> list[Engine]:
    """Provide the engine."""
    return [InductionEngine()]


@hookimpl
def lllms_models() -> list[ModelOffer]:
    """Offer a model that needs no configuration."""
    return [ModelOffer("induction", engine="induction", description="continues patterns")]


if __name__ == "__main__":
    import asyncio
    import sys

    from lllms_core import Host, load_config
    from lllms_core.plugins import Plugins
    from lllms_core.serve import serve

    plugins = Plugins.discover(extra={"induction": sys.modules[__name__]})
    asyncio.run(serve(Host(load_config(), plugins), on_ready=print))
