"""Conversations that leave the KV cache and come back, in models of several architectures."""

import os

import pytest
from lllms_llamacpp import loading
from lllms_llamacpp.options import Lora, Options
from models_for_tests import NAMES, Link

from lllms_core.engines.session_link import Session
from lllms_core.errors import ModelLoadFailed
from lllms_core.types import ModelSpec, Preload

FIRST = "one two three four five six seven eight nine ten eleven"
OTHER = "the dog and the cat went home and found a red ball there"
MORE = [" and then what", " but no, rather this", ""]


def converse(ask):
    """Turns with branches, an edited turn and a regenerated answer, with another conversation between any two."""
    said = []
    for _ in range(2):
        said.append(ask(FIRST))
        ask(OTHER)
        for more in MORE:
            said.append(ask(FIRST + said[0] + more))
            ask(OTHER)
    return said


@pytest.mark.parametrize("name", NAMES)
def test_restored_conversation_says_the_same(load, file_of, name):
    """Greedy text is the same, token for token, whether a conversation is evaluated, resident or restored."""
    fresh = load(file_of(name), slots=1, context_length=256)
    # Random models do not write words: in a prompt their text gives other tokens, which not every model can trim.
    length = 1 if name in ("mamba", "sliding-window") else 12
    expected = converse(lambda prompt: fresh.ask(prompt=prompt, max_tokens=length, cache_prompt=False).text)
    talk = load(file_of(name), slots=2, context_length=256, kept_tokens=0)
    link = Link(talk.model)
    talk.model.use_sessions(link)
    cached = []

    def ask(prompt):
        answer = talk.ask(prompt=prompt, max_tokens=length)
        cached.append(answer.cached)
        return answer.text

    assert converse(ask) == expected
    assert link.restored > 4
    assert sum(cached) > 100


@pytest.mark.parametrize("name", NAMES)
def test_preload_is_shared(load, file_of, name):
    """A prompt that begins with the preload reuses it, in every architecture, and gets the same answer as without."""
    talk = load(file_of(name), slots=2, context_length=256, kv_size=600)
    talk.model.preload("preload", Preload(prefix=FIRST))
    while not talk.model.idle:
        talk.model.step()
    for word in ("cat", "dog", "ball"):
        other = talk.ask(prompt=f"{word} {OTHER}", max_tokens=4)
        assert other.cached < 5
        served = talk.ask(prompt=FIRST + " twelve", max_tokens=4)
        assert served.cached > 8
        assert served.text == talk.ask(prompt=FIRST + " twelve", max_tokens=4, cache_prompt=False).text


def test_preload_without_room_is_refused(load, file_of):
    """A preload that leaves too little room for a request is refused, with the option to raise."""
    talk = load(file_of("tiny-chat"), slots=1, context_length=256)
    with pytest.raises(ModelLoadFailed, match=r"raise options\.kv_size by \d+"):
        talk.model.preload("preload", Preload(prefix=FIRST))


@pytest.mark.parametrize("cut", [0, 10, 1000, -1])
def test_damaged_state_is_refused(load, file_of, cut):
    """A truncated state is refused and leaves its sequence empty: the request is evaluated."""
    talk = load(file_of("tiny-chat"), slots=1, kept_tokens=0)
    link = Link(talk.model)
    talk.model.use_sessions(link)
    first = talk.ask(FIRST)
    talk.ask(OTHER)
    session = link.sessions[0]
    link.sessions[:] = [Session(session.tokens, session.state[:cut])]
    again = talk.ask(FIRST)
    assert again.cached < 8
    assert again.text == first.text


@pytest.mark.parametrize(
    ("options", "same"),
    [({"slots": 2}, True), ({"batch_size": 64}, True), ({"context_length": 300}, True), ({"kv_type_k": "f32"}, False),
     ({"rope_freq_base": 500.0}, False)],
)
def test_state_key_tells_what_matters(load, file_of, options, same):
    """Options that affect a state change the state key; others do not."""
    keys = [load(file_of("tiny-chat"), **one).model.state_key for one in ({}, options)]
    assert (keys[0] == keys[1]) is same


@pytest.mark.parametrize("name", ["m", "m[1]*?"])
def test_state_key_knows_all_parts(tmp_path, name):
    """Each part of a split model counts, whatever its name: other weights give another state key."""
    parts = [tmp_path / f"{name}-0000{number}-of-00002.gguf" for number in (1, 2)]
    for part in parts:
        part.write_bytes(b"weights")
    before = loading._state_key(ModelSpec("m", Options(), parts[0]), Options())
    assert loading._state_key(ModelSpec("m", Options(), parts[0]), Options()) == before
    parts[1].write_bytes(b"others!")
    assert loading._state_key(ModelSpec("m", Options(), parts[0]), Options()) != before


def test_copies_of_known_identity_share_their_sessions(tmp_path):
    """Parts and adapters at other paths have the same key on every machine, if their contents are known to be equal."""
    keys = set()
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        names = ("x-00001-of-00002.gguf", "x-00002-of-00002.gguf", "adapter.gguf")
        files = [tmp_path / folder / name for name in names]
        for number, file in enumerate(files):
            file.write_bytes(bytes([number]))
        os.utime(files[1], (len(folder), len(folder)))
        options = Options(lora=[Lora(files[2])])
        known = {file: f"hash {number}" for number, file in enumerate(files)}
        keys.add(loading._state_key(ModelSpec("m", options, files[0], identities=known), options))
        other = {**known, files[2]: "another adapter"}
        assert loading._state_key(ModelSpec("m", options, files[0], identities=other), options) not in keys
    assert len(keys) == 1
