"""A gpt4all model that embeds texts as vectors."""

from collections.abc import Mapping, Sequence

from attrs import field, frozen
from gpt4all import _pyllmodel as bindings

from lllms_core.cancellation import check_cancelled
from lllms_core.engines import SerialModel
from lllms_core.engines.base import Opening, Opens
from lllms_core.errors import ContextOverflow, EngineFailed, InvalidRequest
from lllms_core.queries import Embeddings, EmbedRequest, Tokens
from lllms_core.types import Request, Task
from lllms_gpt4all.vocabulary import Vocabulary

_UNKNOWN_TASK = "is not a valid task type"
_OWN_SIZE = -1


@frozen
class LoadedEmbedder:
    """The result of a load."""

    native: bindings.LLModel
    vocabulary: Vocabulary
    context_length: int
    threads: int | None
    """The configured count; None: as the pool grants."""
    truncate: bool
    matryoshka: bool
    token_inputs: bool
    details: Mapping[str, str | int | float] = field(factory=dict)


class Gpt4AllEmbedder(SerialModel):
    """Vectors from one gpt4all model; keeps nothing of a text."""

    way_out: Mapping[Task, str] = {"render": "it does not chat"}
    slots = 4
    embed_at_once = 1  # gpt4all would take them one by one anyway

    def __init__(self, loaded: LoadedEmbedder) -> None:
        self.context_length = loaded.context_length
        self.can_shorten = loaded.matryoshka
        self.token_inputs = loaded.token_inputs
        self._loaded = loaded
        self._native = loaded.native
        self._vocabulary = loaded.vocabulary
        self._needs_task = self._asks_for_task()

    def details(self) -> Mapping[str, str | int | float]:
        """Return the file's own metadata."""
        return self._loaded.details

    def use_threads(self, count: int) -> None:
        """Compute with at most `count` threads, from the next texts on."""
        configured = self._loaded.threads
        self._native.set_thread_count(max(1, count if configured is None else min(configured, count)))

    def prepare(self, request: Opens) -> Opening:
        """Refuse to generate text, texts that are too long, and texts that gpt4all cannot read."""
        if isinstance(request, Request):
            raise InvalidRequest(f"model '{request.model}' does not write text; use it with /v1/embeddings", "model")
        if isinstance(request, EmbedRequest):
            for index, one in enumerate(request.inputs):
                check_cancelled()
                self._check(one if isinstance(one, str) else self.to_text(one), f"input[{index}]", request.model)
        return super().prepare(request)

    def embed(self, texts: Sequence[str]) -> Embeddings:
        """Return the vectors of some texts; a text that starts with one of the model's tasks is split from it."""
        vectors = []
        for text in texts:
            task, own = self._split(text)
            vectors.append(self._embed(own, task))
        return Embeddings(vectors, sum(min(len(self._tokens(text)), self.context_length) for text in texts))

    def to_tokens(self, text: str, *, add_special: bool) -> Tokens:
        """Return the tokens of a text; with the special tokens around it, if requested."""
        ids = self._vocabulary.tokenize(text, parse_special=False, after=[], most=self.most_tokens)
        return self._vocabulary.shown(ids if add_special else ids[1:-1])

    def to_text(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens. Raises `InvalidRequest` for unknown ones."""
        return self._vocabulary.join(tokens)

    def close(self) -> None:
        """Free the model."""
        self._native.close()
        self._vocabulary.close()

    def _check(self, text: str, param: str, model: str) -> None:
        if "\0" in text:
            raise InvalidRequest(f"'{param}' has a NUL character, where gpt4all would stop; leave it out", param)
        count, most = len(self._tokens(text)), self.context_length
        if count <= len(self._tokens("")):
            raise InvalidRequest(f"'{param}' has no tokens; leave it out", param)
        if count > most and not self._loaded.truncate:
            least = "at least " if count > self.enough_tokens else ""
            raise ContextOverflow(
                f"'{param}' has {least}{count} tokens, but model '{model}' reads {most}; shorten it, or set "
                "options.truncate to truncate it",
                param, "context_length_exceeded",
            )
        if self._needs_task and ": " not in text:
            raise InvalidRequest(
                f"'{param}' names no task, which gpt4all requires for this model; start it with "
                "'search_document: ', 'search_query: ' or another task that the model was trained with",
                param,
            )

    def _split(self, text: str) -> tuple[str, str]:
        if not self._needs_task:
            return "", text
        task, _, own = text.partition(": ")
        return task, own

    def _embed(self, text: str, task: str) -> Sequence[float]:
        readable = text.encode(errors="replace").decode()
        try:
            # One by one, and without averaging: a text that is too long is truncated.
            [vector] = self._native.generate_embeddings(
                [readable], task, _OWN_SIZE, do_mean=False, atlas=False, cancel_cb=None,
            )["embeddings"]
        except RuntimeError as error:
            if _UNKNOWN_TASK in str(error):
                raise InvalidRequest(f"gpt4all: {error}; start the text with a task that it knows", "input") from None
            raise EngineFailed(f"gpt4all: {error}") from None
        return list(vector)

    def _asks_for_task(self) -> bool:
        """Whether gpt4all knows this model by name, and requires the purpose of the texts."""
        try:
            self._embed("a", "")
        except InvalidRequest:
            return True
        return False

    def _tokens(self, text: str) -> list[int]:
        return self._vocabulary.tokenize(text, parse_special=False, after=[], most=self.enough_tokens)
