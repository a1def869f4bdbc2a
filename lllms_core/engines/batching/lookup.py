"""The likely continuation of an answer, found in its prompt, in itself, or in a text that the client predicts; pure."""

from collections.abc import Sequence

from attrs import define, field

GRAM = 3
"""So many equal tokens make a place worth trying."""
NEAR = 8
"""Where an answer and the text that it repeats have parted, they may meet again within so many tokens of the text."""
PATIENCE = 8
"""So many tokens of the answer may differ before it is taken for another text."""
BACK = 32
"""The most tokens before a place that are compared, to learn how alike the two texts are."""
PER_CALL = 4096
"""The most tokens that one call takes into the index, so that a long prompt delays no step for long."""
MOST_KEPT = 1 << 16
"""The index begins this many tokens before the end of a longer prompt, which bounds its memory."""
_BITS = 21
_MASK = (1 << (GRAM * _BITS)) - 1


@define
class _Text:
    """Tokens, and where each run of `GRAM` of them was last seen."""

    tokens: Sequence[int]
    indexed: int
    """The tokens before this one are in the index."""
    places: dict[int, int] = field(factory=dict)
    """By the last `GRAM` tokens, packed: the place of the token that followed them last."""
    _gram: int = 0
    _filled: int = 0

    def index(self, most: int) -> None:
        """Take up to `most` more tokens into the index."""
        gram, filled, places = self._gram, self._filled, self.places
        start = self.indexed
        end = min(len(self.tokens), start + most)
        for place, token in enumerate(self.tokens[start:end], start):
            if filled >= GRAM:
                places[gram] = place
            gram = (gram << _BITS | token) & _MASK
            filled += 1
        self._gram, self._filled, self.indexed = gram, filled, end

    def after(self, tokens: Sequence[int]) -> int | None:
        """Return the place of the token that followed the end of `tokens` last time."""
        gram = 0
        for token in tokens[-GRAM:]:
            gram = gram << _BITS | token
        return self.places.get(gram)


class Lookup:
    """Follows one answer, and says how it may continue.

    `tokens` are the prompt and the answer, a list that grows; `prediction` are those that the client expects.
    """

    def __init__(self, tokens: Sequence[int], prediction: Sequence[int] = ()) -> None:
        self._tokens = tokens
        self._seen = len(tokens)
        self._own = _Text(tokens, max(0, len(tokens) - MOST_KEPT))
        self._texts: tuple[_Text, ...] = (self._own,)
        self._source: _Text | None = None
        """The text that the answer repeats now."""
        self._place = 0
        """Its next token there."""
        self._parted = 0
        """How many tokens ago the answer parted from it; 0 if it has not."""
        self.alike = 0
        """How many tokens before that place equal the answer's last ones, as far as that was compared."""
        self.begins = bool(prediction)
        """Whether it stands at the beginning of the predicted text, which nothing confirms yet."""
        if prediction:
            predicted = _Text(prediction, max(0, len(prediction) - MOST_KEPT))
            self._texts = (predicted, self._own)
            self._source = predicted

    def find(self, most: int) -> Sequence[int]:
        """Return up to `most` tokens that may come next; none if nothing like the answer's end was seen before."""
        self._follow()
        for text in self._texts:
            if text.indexed < len(text.tokens):
                text.index(PER_CALL)
        if self._source is None or (self.alike < GRAM and not self.begins):
            self._search()
        if self._source is None or (self.alike == 0 and not self.begins):
            return ()
        return self._source.tokens[self._place : self._place + most]

    def _follow(self) -> None:
        """Move along with the tokens that have come since the last call."""
        tokens, source = self._tokens, self._source
        start, self._seen = self._seen, len(tokens)
        if source is None:
            return
        for at, token in enumerate(tokens[start:], start):
            end = at if source is self._own else len(source.tokens)
            if not self._parted and self._place < end and token == source.tokens[self._place]:
                self.alike += 1
                self._place += 1
            elif not self._meets(source.tokens[self._place : min(end, self._place + NEAR)], token):
                self._source = None
                break
        self.begins = self.begins and start == len(tokens)

    def _meets(self, near: Sequence[int], token: int) -> bool:
        """Look for a token that was not expected near the last place; False if the texts have parted for good."""
        self.alike = 0
        if token in near:
            self._place += near.index(token) + 1
            self.alike, self._parted = 1, 0
            return True
        self._parted += 1
        return self._parted <= PATIENCE

    def _search(self) -> None:
        for text in self._texts:
            place = text.after(self._tokens)
            if place is not None and place < len(text.tokens):
                self._source, self._place, self._parted, self.begins = text, place, 0, False
                self.alike = self._compare(text.tokens, place)
                return

    def _compare(self, tokens: Sequence[int], place: int) -> int:
        mine, end = self._tokens, len(self._tokens)
        most = min(BACK, place, end)
        alike = 0
        while alike < most and tokens[place - 1 - alike] == mine[end - 1 - alike]:
            alike += 1
        return alike
