"""Which layers are on which GPU, and how many fit: properties of the pure functions."""

from itertools import combinations_with_replacement

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from lllms_llamacpp.layout import Layout, Parts, Share, distribute, fit_layers

SIZES = st.integers(0, 50)


@st.composite
def models(draw: st.DrawFn, by_rows: bool = False) -> Parts:
    """A model with an output and up to six layers, some of them mixtures."""
    count = draw(st.integers(1, 7))

    def sizes() -> tuple[int, ...]:
        return tuple(draw(st.lists(SIZES, min_size=count, max_size=count)))

    experts = (*(sizes()[:-1] if draw(st.booleans()) else [0] * (count - 1)), 0)
    return Parts(
        sizes(), experts, (*sizes()[:-1], 0), sizes(), draw(SIZES), draw(SIZES), draw(SIZES), draw(SIZES), {},
        draw(st.booleans()), by_rows,
    )


ROOMS = st.lists(st.integers(0, 400), max_size=3).map(lambda sizes: {f"GPU{n}": size for n, size in enumerate(sizes)})
EXPERTS = st.one_of(st.none(), st.integers(0, 7))


def rank(parts: Parts, layout: Layout) -> tuple[int, int]:
    """How much of a model is on GPUs: its layers count first, then its experts."""
    return layout.layers, -layout.experts_left


@given(parts=st.booleans().flatmap(lambda rows: models(by_rows=rows)), rooms=ROOMS, experts=EXPERTS)
def test_no_gpu_takes_more_than_its_room(parts, rooms, experts):
    """By its own figures, the chosen layout never exceeds the room of a GPU; without GPUs there is none."""
    layout = fit_layers(parts, rooms, experts=experts)
    if layout.layers:
        assert all(size <= rooms[name] for name, size in distribute(parts, layout).items())
    assert 0 <= layout.layers <= (parts.layers if rooms else 0)


@given(parts=models(), rooms=ROOMS, more=st.lists(st.integers(0, 200), min_size=3, max_size=3), experts=EXPERTS)
def test_more_room_never_means_fewer_layers(parts, rooms, more, experts):
    """With more room on any GPU, at least as many layers, and experts, are on GPUs."""
    larger = {name: size + extra for (name, size), extra in zip(rooms.items(), more, strict=False)}
    assert rank(parts, fit_layers(parts, larger, experts=experts)) >= rank(
        parts, fit_layers(parts, rooms, experts=experts),
    )


@given(parts=models(), room=st.integers(0, 400), experts=st.integers(0, 7))
def test_all_layers_that_fit_are_taken(parts, room, experts):
    """On one GPU, the most layers are taken with which the model fits."""
    share = (Share("GPU0", 1),)
    fitting = [
        used for used in range(1, parts.layers + 1)
        if distribute(parts, Layout(used, experts, share)).get("GPU0", 0) <= room and room > parts.buffer
    ]
    assert fit_layers(parts, {"GPU0": room}, experts=experts).layers == max(fitting, default=0)


@given(parts=models(), rooms=st.lists(st.integers(0, 200), min_size=2, max_size=3))
def test_several_gpus_are_filled(parts, rooms):
    """All layers are on several GPUs if there is any way to put them there one after the other."""
    parts = evolve(parts, offloads=False)
    named, last = {f"GPU{n}": size for n, size in enumerate(rooms)}, parts.layers
    ways = [
        tuple(Share(name, end - start) for name, start, end in zip(named, (0, *cuts), (*cuts, last), strict=True))
        for cuts in combinations_with_replacement(range(last + 1), len(rooms) - 1)
    ]
    possible = any(
        all(size <= named[name] for name, size in distribute(parts, Layout(parts.layers, 0, way)).items())
        for way in ways
    )
    assert (fit_layers(parts, named).layers == parts.layers) == possible


@given(parts=models(), sizes=st.lists(st.floats(0, 9), min_size=1, max_size=3))
def test_nothing_is_lost_or_counted_twice(parts, sizes):
    """What all GPUs take together are the layers, and a buffer for each GPU that has one."""
    parts = evolve(parts, offloads=False)
    layout = Layout(parts.layers, 0, tuple(Share(f"GPU{n}", size) for n, size in enumerate(sizes)))
    found = distribute(parts, layout)
    together = sum((*parts.weights, *parts.experts, *parts.kv))
    buffer = parts.buffer + (parts.copies if len(sizes) > 1 else 0)
    assert sum(found.values()) == together + len(found) * buffer


def plain(layers: int, size: int = 10, **changes: object) -> Parts:
    """A model of equal layers."""
    equal = (size,) * layers
    return Parts(equal, (0,) * layers, (0,) * layers, equal, offloads=False, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("shares", "expected"), [
    ([1, 1], {"a": 50, "b": 50}), ([3, 1], {"a": 80, "b": 20}), ([0, 1], {"b": 100}), ([0, 0], {"a": 50, "b": 50}),
    ([7, 3], {"a": 70, "b": 30}), ([1e-9, 1], {"a": 10, "b": 90}),
])
def test_layers_follow_the_shares(shares, expected):
    """Each GPU gets the next layers by its share; a layer belongs to the GPU in whose part it begins."""
    layout = Layout(10, 0, tuple(Share(name, size) for name, size in zip("ab", shares, strict=True)))
    assert distribute(plain(10), layout) == expected


def test_rows_follow_the_shares_exactly():
    """With rows, each GPU has its share of each matrix; the cache stays with its layer."""
    parts = evolve(plain(4, 20, by_rows=True), kv=(1, 1, 1, 0))
    assert distribute(parts, Layout(4, 0, (Share("a", 3), Share("b", 1)))) == {"a": 63, "b": 20}


def test_experts_go_first():
    """If not all of a mixture fits, the experts of the first layers stay behind, and no more than must."""
    parts = evolve(plain(5, size=10), experts=(40, 40, 40, 40, 0))
    rooms = {"GPU0": 100}
    assert fit_layers(parts, rooms, experts=None).experts_left == 3
    assert fit_layers(parts, rooms, experts=None).layers == 5
    assert fit_layers(parts, rooms, experts=0) == Layout(2, 0, (Share("GPU0", 100),))
    assert fit_layers(parts, {"GPU0": 30}, experts=None) == Layout(3, 4, (Share("GPU0", 30),))


def test_help_with_what_is_left_needs_room():
    """A large step brings the largest matrix from main memory, for which the first GPU keeps room."""
    parts = evolve(plain(5, size=10), offloads=True, largest=(4, 6, 5, 4, 9), buffer=1)
    share = (Share("GPU0", 1),)
    assert distribute(parts, Layout(5, 0, share)) == {"GPU0": 51}
    assert distribute(parts, Layout(3, 0, share)) == {"GPU0": 30 + 1 + 6}
    assert distribute(evolve(parts, largest_fixed=8), Layout(5, 0, share)) == {"GPU0": 51 + 8}
    assert distribute(parts, Layout(0, 0, share)) == {"GPU0": 1 + 6}
    assert distribute(evolve(parts, offloads=False), Layout(0, 0, share)) == {}
