"""Which layers of a model are on which GPU, as llama.cpp distributes them, and how many fit; pure.

The output counts as the last layer. Layers go to GPUs from the end, so that those in main memory are the first ones.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate

from attrs import field, frozen


@frozen
class Parts:
    """The parts of a model that GPUs may take, in bytes."""

    weights: tuple[int, ...]
    """By layer, without `experts`, and without what is fixed in main memory or in `fixed`."""
    experts: tuple[int, ...]
    """By layer."""
    kv: tuple[int, ...]
    """By layer, of the cache that follows the layer."""
    largest: tuple[int, ...]
    """The largest matrix by layer, experts included: a step brings it to the first GPU if it is in main memory."""
    largest_fixed: int = 0
    """The largest matrix of those that are always in main memory."""
    buffer: int = 0
    """What each GPU needs to compute."""
    inputs: int = 0
    """What the first GPU needs in addition to compute with weights from main memory."""
    copies: int = 0
    """What each GPU needs in addition if all layers are on several, which then work on several steps at once."""
    fixed: Mapping[str, int] = field(factory=dict)
    """Weights that are on a GPU whatever the layers do."""
    offloads: bool = True
    """Whether steps bring weights from main memory to the first GPU."""
    by_rows: bool = False
    """Whether each GPU has some rows of every matrix."""

    @property
    def layers(self) -> int:
        """The number of layers, the output among them."""
        return len(self.weights)


@frozen
class Share:
    """A GPU, and how much of the layers it gets in proportion to the others."""

    name: str
    size: float


@frozen
class Layout:
    """A distribution of a model."""

    layers: int
    """On GPUs, the output among them."""
    experts_left: int = 0
    """The layers, from the first, whose experts are in main memory."""
    shares: tuple[Share, ...] = ()


def distribute(parts: Parts, layout: Layout) -> dict[str, int]:
    """Return the bytes that each GPU takes; one without any layer is absent, unless it helps with the others."""
    used, shares = min(layout.layers, parts.layers), layout.shares
    if not shares or not (used or parts.offloads):
        return {}
    found = {name: size for name, size in parts.fixed.items() if size}
    first, start = shares[0].name, parts.layers - used
    buffer = _buffer(parts, used, layout.experts_left, len(shares))
    if help_size := _help(parts, used, layout.experts_left):
        found[first] = found.get(first, 0) + buffer + help_size
    buffered = {first} if help_size else set()
    total = sum(one.size for one in shares) or 1
    for layer in range(start, parts.layers):
        name = _owner(layer - start, used, shares)
        if name not in buffered:
            buffered.add(name)
            found[name] = found.get(name, 0) + buffer
        weights = parts.weights[layer] + (parts.experts[layer] if layer >= layout.experts_left else 0)
        found[name] += parts.kv[layer]
        if parts.by_rows:
            for one in shares:
                if one.size:
                    found[one.name] = found.get(one.name, 0) + round(weights * one.size / total)
        else:
            found[name] += weights
    return found


def fit_layers(
    parts: Parts, rooms: Mapping[str, int], shares: Sequence[Share] = (), *, experts: int | None = 0,
) -> Layout:
    """Return the layout with the most layers on GPUs that have these `rooms`, in bytes.

    With `shares` they are kept; without, each GPU gets layers by its room, or, if that leaves layers over, as many as
    go into it, one GPU after the other. `experts`: the layers whose experts are in main memory; None: as few as it
    takes to have everything else on GPUs.
    """
    counts = [experts] if experts is not None else [0]
    if experts is None and any(parts.experts):
        counts = [*range(parts.layers)]
    for left in counts:
        if layout := _fitting(parts, rooms, shares, parts.layers, left):
            return layout
    for used in range(parts.layers - 1, 0, -1):
        if layout := _fitting(parts, rooms, shares, used, counts[-1]):
            return layout
    return Layout(0)


def _fitting(
    parts: Parts, rooms: Mapping[str, int], shares: Sequence[Share], used: int, left: int,
) -> Layout | None:
    """Return a layout with this many layers and experts, if it fits into the rooms."""
    buffer = _buffer(parts, used, left, len(rooms))
    even = shares or [Share(name, max(0, room - buffer)) for name, room in rooms.items()]
    options = [tuple(even)] if any(one.size for one in even) else []
    if not shares and not parts.by_rows and len(rooms) > 1:
        options.append(_packed(parts, rooms, used, left))
    for option in options:
        layout = Layout(used, left, option)
        if option and all(size <= rooms.get(name, 0) for name, size in distribute(parts, layout).items()):
            return layout
    return None


def _packed(parts: Parts, rooms: Mapping[str, int], used: int, left: int) -> tuple[Share, ...]:
    """Return how many layers go into each GPU, one after the other; nothing if not all do."""
    layer, shares = parts.layers - used, []
    for place, (name, room) in enumerate(rooms.items()):
        help_size = _help(parts, used, left) if place == 0 else 0
        rest, start = room - parts.fixed.get(name, 0) - _buffer(parts, used, left, len(rooms)) - help_size, layer
        while layer < parts.layers:
            rest -= parts.weights[layer] + parts.kv[layer] + (parts.experts[layer] if layer >= left else 0)
            if rest < 0:
                break
            layer += 1
        shares.append(Share(name, layer - start))
    return tuple(shares) if layer == parts.layers else ()


def _buffer(parts: Parts, used: int, left: int, gpus: int) -> int:
    """Return what each GPU needs to compute."""
    steps = gpus > 1 and used == parts.layers and not left
    return parts.buffer + (parts.copies if steps else 0)


def _help(parts: Parts, used: int, left: int) -> int:
    """Return the size of the largest matrix that is brought to the first GPU while a step needs it."""
    if not parts.offloads:
        return 0
    start = parts.layers - used
    there = [
        parts.largest[layer] for layer in range(parts.layers - 1)
        if layer < start or (layer < left and parts.experts[layer])
    ]
    largest = max([parts.largest_fixed, *there])
    return largest + parts.inputs if largest else 0


def _owner(place: int, count: int, shares: Sequence[Share]) -> str:
    """Return the GPU of the layer at this place among those on GPUs, as llama.cpp chooses it."""
    ends = [*accumulate(one.size for one in shares)]
    if not ends[-1]:
        ends = [*range(1, len(shares) + 1)]
    within = (one.name for one, end in zip(shares, ends, strict=True) if place / count < end / ends[-1])
    return next(within, shares[-1].name)
