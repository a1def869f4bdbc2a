"""The base for engines that turn many texts into vectors in one forward pass."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from attrs import define

from lllms_core.cancellation import check_cancelled
from lllms_core.engines.base import Model, Opening, Opens
from lllms_core.engines.capabilities import Pairs
from lllms_core.engines.vector_run import VectorRun, check_dimensions
from lllms_core.errors import ContextOverflow, EngineFailed, InvalidRequest
from lllms_core.queries import EmbedRequest, RerankRequest, Text
from lllms_core.types import Delta, Request


@define(eq=False)
class _Run(VectorRun):
    inputs: Sequence[Sequence[int]] = ()

    @property
    def done(self) -> int:
        return len(self.results)


class EmbeddingModel(Model):
    """A model that does not generate: it returns vectors, or scores if it ranks documents.

    Call `super().__init__` with its sizes, and implement `tokenize`, `encode` and, for scores, `pair` (`Pairs`). The
    inputs of all open requests share the passes, taking turns. `tokenize` and `pair` are parts of `prepare`: any thread
    may call them, several at once. They may stop when there are more than `enough_tokens`.
    """

    def __init__(
        self,
        *,
        slots: int,
        context_length: int,
        batch_size: int,
        sequences: int,
        dimensions: int,
        can_shorten: bool = False,
        truncate: bool = False,
        ranks: bool = False,
        token_inputs: bool = False,
    ) -> None:
        """Prepare passes over up to `sequences` inputs with up to `batch_size` tokens in total.

        An input of more than `batch_size` tokens gets its own pass; one of more than `context_length` is refused, or
        cut with `truncate`. `dimensions` is the length of the vectors; `can_shorten`: their first numbers alone have
        much the same meaning. `ranks`: it gives scores. `token_inputs`: texts may be given as the model's own tokens.
        """
        self.slots = slots
        self.context_length = context_length
        self.tasks = frozenset({"rerank"} if ranks else {"embed"})
        self.token_inputs = token_inputs
        self._batch_size = batch_size
        self._sequences = sequences
        self._dimensions = dimensions
        self._can_shorten = can_shorten
        self._truncate = truncate
        self._runs: dict[str, _Run] = {}

    # -- what an engine implements ------------------------------------------------------------------------------------

    @abstractmethod
    def tokenize(self, text: Text, room: int | None) -> list[int]:
        """Tokens of an input, with those that the model adds; of the text's own only as many as `room` allows.

        Raises `InvalidRequest` for tokens that the model does not have.
        """

    @abstractmethod
    def encode(self, inputs: Sequence[Sequence[int]]) -> Sequence[Sequence[float]]:
        """Return a vector for each input, in one pass; of any length but 0. For a pair, the score from 0 to 1."""

    # -- the contract of Model ----------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether no request is open."""
        return not self._runs

    def open(self, request: Request) -> None:
        """Refuse: this model does not write."""
        route = "/v1/rerank" if "rerank" in self.tasks else "/v1/embeddings"
        raise InvalidRequest(f"model '{request.model}' does not write text; use it with {route}", "model")

    def prepare(self, request: Opens) -> Opening:
        """Tokenise all inputs, or the query with each document, and refuse what is too long."""
        room = self.context_length if self._truncate else None
        match request:
            case EmbedRequest():
                check_dimensions(request, self._dimensions, can_shorten=self._can_shorten)
                return self._opening(request, (self.tokenize(text, room) for text in request.inputs), "input")
            case RerankRequest():
                pair = cast(Pairs, self).pair
                pairs = (pair(request.query, document, room) for document in request.documents)
                return self._opening(request, pairs, "documents")
        return super().prepare(request)

    def open_embed(self, request: EmbedRequest) -> None:
        """Take a request that has not been prepared."""
        self.prepare(request)()

    def open_rerank(self, request: RerankRequest) -> None:
        """Take a request that has not been prepared."""
        self.prepare(request)()

    def step(self) -> Iterable[Delta]:
        """Encode one batch; return the answers that are complete."""
        batch = self._batch()
        vectors = self.encode([tokens for _, tokens in batch])
        finished: list[Delta] = []
        for (run, tokens), vector in zip(batch, vectors, strict=True):
            if run.request.id not in self._runs:
                continue  # it failed a moment ago
            try:
                run.take(vector, len(tokens))
            except EngineFailed as error:
                del self._runs[run.request.id]
                finished.append(Delta(run.request.id, error=error))
                continue
            if run.done == run.total:
                del self._runs[run.request.id]
                finished.append(run.finish())
        return finished

    def prompt_progress(self) -> Mapping[str, float]:
        """How many of the inputs of each request are encoded."""
        return {request_id: run.done / run.total for request_id, run in self._runs.items()}

    def cancel(self, request_id: str) -> Iterable[Delta]:
        """End a request; its encoded inputs are discarded."""
        run = self._runs.pop(request_id, None)
        return [] if run is None else [run.finish("cancelled")]

    # -- how it works -------------------------------------------------------------------------------------------------

    def _opening(
        self, request: EmbedRequest | RerankRequest, inputs: Iterable[Sequence[int]], param: str,
    ) -> Opening:
        read = []
        for index, tokens in enumerate(inputs):
            check_cancelled()
            if not tokens:
                raise InvalidRequest(f"'{param}[{index}]' has no tokens; leave it out", f"{param}[{index}]")
            if len(tokens) > self.context_length:
                least = "at least " if len(tokens) > self.enough_tokens else ""
                raise ContextOverflow(
                    f"'{param}[{index}]' has {least}{len(tokens)} tokens, but model '{request.model}' reads "
                    f"{self.context_length}; shorten it, or set options.truncate to have it cut",
                    f"{param}[{index}]", "context_length_exceeded",
                )
            read.append(tokens)

        def take() -> None:
            self._runs[request.id] = _Run(request, inputs=read)

        return take

    def _batch(self) -> list[tuple[_Run, Sequence[int]]]:
        """The inputs of the next pass: one of each request in turn, until there is no room; a first one always has."""
        batch: list[tuple[_Run, Sequence[int]]] = []
        room = self._batch_size
        taking = {run.request.id: run.done for run in self._runs.values()}
        while taking and len(batch) < self._sequences:
            for request_id, index in list(taking.items()):
                run = self._runs[request_id]
                if index == run.total or len(batch) == self._sequences or (batch and len(run.inputs[index]) > room):
                    del taking[request_id]
                    continue
                batch.append((run, run.inputs[index]))
                room -= len(run.inputs[index])
                taking[request_id] += 1
        # Rotate, so that a request with long inputs cannot starve the others.
        first = next(iter(self._runs))
        self._runs[first] = self._runs.pop(first)
        return batch
