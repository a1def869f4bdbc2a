"""Arrays without repetitions, which grammars cannot express: writes out all their sequences, if they are few; pure.

The cost with 152,000 tokens in the vocabulary: 120 sequences of five words take 11 ms to compile (the plain array
1 ms), once per schema, since compiled grammars are kept; a mask then takes 46 microseconds instead of 34, at worst 137
instead of 94. 720 sequences would take ten times as long to compile, and some of their masks 5 ms, while all requests
of a model wait.
"""

from collections.abc import Mapping, Sequence
from itertools import permutations
from json import dumps
from math import perm

from attrs import define

from lllms_llamacpp.keywords import ADDRESSES, ANNOTATIONS
from lllms_llamacpp.proofs import Proofs, types_of

MOST_SEQUENCES = 120
"""The limit of a whole schema: all orders of five values, or all pairs of some 50 short ones."""
MOST_COMBINATIONS = 600
"""The limit where llguidance merges schemas: it combines each sequence with all others, and refuses some 1,500."""
MOST_CHARACTERS = 1 << 16
"""The most characters in all of a schema's sequences, as JSON."""
_TAKEN = ANNOTATIONS | ADDRESSES | {"type", "items", "minItems", "maxItems", "uniqueItems", "$defs", "definitions"}


@define
class UniqueArrays:
    """Writes out the arrays of one schema."""

    proofs: Proofs
    merges: int
    """How often llguidance may merge each array with another: not at all, once, or twice because of references."""
    sequences: int = MOST_SEQUENCES
    """The number still available."""
    combinations: int = MOST_COMBINATIONS
    characters: int = MOST_CHARACTERS

    def write(self, schema: Mapping[str, object]) -> Sequence[Mapping[str, object]] | None:
        """Return alternatives equivalent to a schema with `uniqueItems`; None if there would be too many.

        An array of at most one element needs none.
        """
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if not isinstance(least, int) or not (most is None or isinstance(most, int)):
            return None
        if not schema.keys() <= _TAKEN or "items" not in schema:
            return None
        values = self.proofs.values(schema["items"])
        if values is None:
            return None
        most = len(values) if most is None else min(most, len(values))
        # The last element is a single alternative, whatever values remain for it.
        count = perm(len(values), max(most - 1, 0))
        combined = max(count, 1) ** self.merges
        if most < max(least, 1) or count > self.sequences or combined > self.combinations:
            return None
        found = [_array(head, values, least) for head in permutations(range(len(values)), most - 1)]
        size = len(dumps(found))
        if size > self.characters:
            return None
        self.sequences -= count
        self.combinations //= combined
        self.characters -= size
        others = types_of(schema) - {"array"}
        return [*found, {"type": sorted(others)}] if others else found


def _array(head: Sequence[int], values: Sequence[object], least: int) -> Mapping[str, object]:
    """Return the arrays that begin with this sequence of values, and may have one more element."""
    rest = [value for number, value in enumerate(values) if number not in head]
    elements = [*({"const": values[number]} for number in head), {"enum": rest}]
    return {"type": "array", "prefixItems": elements, "items": False, "minItems": least}
