"""One running query for vectors or scores; each vector is checked, shortened and scaled to length 1."""

from array import array
from collections.abc import Sequence
from math import hypot, isfinite

from attrs import Factory, define

from lllms_core.errors import EngineFailed, InvalidRequest
from lllms_core.queries import Embeddings, EmbedRequest, Relevance, RerankRequest
from lllms_core.types import Delta, Finish, FinishReason, Usage


@define(eq=False)
class VectorRun:
    """A query whose inputs are processed in order, some in each step."""

    request: EmbedRequest | RerankRequest
    results: "list[array[float]]" = Factory(list)
    tokens: int = 0

    @property
    def total(self) -> int:
        """The number of inputs."""
        request = self.request
        return len(request.inputs if isinstance(request, EmbedRequest) else request.documents)

    def take(self, numbers: Sequence[float], tokens: int) -> None:
        """Add the result of the next input, which had `tokens` tokens. Raises `EngineFailed` if it is not finite."""
        if not all(map(isfinite, numbers)):
            raise EngineFailed(
                f"model '{self.request.model}' gave numbers that are not finite for input {len(self.results)}; "
                "its weights, or how they are quantised, are at fault",
            )
        if isinstance(self.request, EmbedRequest):
            numbers = unit(numbers[: self.request.dimensions])
        self.results.append(array("f", numbers))
        self.tokens += tokens

    def finish(self, reason: FinishReason = "stop") -> Delta:
        """End the query; with the answer, unless it has ended early."""
        result: object = None
        if reason == "stop":
            if isinstance(self.request, EmbedRequest):
                result = Embeddings(tuple(self.results), self.tokens)
            else:
                result = Relevance(tuple(score[0] for score in self.results), self.tokens)
        return Delta(self.request.id, finish=Finish(reason, Usage(self.tokens, 0), result))


def unit(numbers: Sequence[float]) -> Sequence[float]:
    """Return the vector of length 1 in this direction; one of length 0 stays."""
    length = hypot(*numbers)
    return [number / length for number in numbers] if length else numbers


def check_dimensions(request: EmbedRequest, size: int, *, can_shorten: bool) -> None:
    """Raise `InvalidRequest` if vectors of `size` numbers cannot have the dimensions that are asked for."""
    wanted = request.dimensions
    if wanted is None or wanted == size:
        return
    if wanted > size:
        raise InvalidRequest(
            f"'dimensions' is {wanted}, but the vectors of model '{request.model}' have {size}; ask for at most that",
            "dimensions", "invalid_value",
        )
    if not can_shorten:
        raise InvalidRequest(
            f"'dimensions' is {wanted}, but model '{request.model}' was not trained for shorter vectors than its own, "
            f"of {size}; leave it out",
            "dimensions", "invalid_value",
        )
