import pytest

from lllms_core.chat import Segment

KEYS = {
    "space": b"tokenizer.ggml.add_space_prefix\x07\x00\x00\x00",
    "bos": b"tokenizer.ggml.add_bos_token\x07\x00\x00\x00",
}
TEXTS = ["Hi!", " Hi!", "\nHi!", "dog cat", "1, 2", "|a", "é😀", "\x01b", "  "]


@pytest.fixture(scope="module")
def patched(load, tiny_file, tmp_path_factory):
    """Load tiny-chat with one of its vocabulary's switches changed."""
    def patch(key, value):
        data = tiny_file.read_bytes()
        at = data.index(KEYS[key]) + len(KEYS[key])
        path = tmp_path_factory.mktemp("patched") / "tiny.gguf"
        path.write_bytes(data[:at] + bytes([value]) + data[at + 1 :])
        return load(path, slots=1).model

    return patch


@pytest.fixture(scope="module")
def spaced(patched):
    """A vocabulary that puts a space before a text, as Llama 2's does."""
    return patched("space", 1)


def text(model, tokens):
    return b"".join(model.piece(token) for token in tokens).decode()


def segments(*texts, parse_special=True):
    return [Segment(text, parse_special) for text in texts]


def test_bos_comes_once(tiny):
    """A prompt begins with one BOS, whether or not its text already has it."""
    [bos, *rest] = tiny.model.tokenize(segments("Hi!"))
    assert tiny.model.piece(bos) == b""
    assert tiny.model.tokenize(segments("<s>Hi!")) == [bos, *rest]
    assert bos not in rest


def test_bos_is_left_out_where_the_vocabulary_does_not_want_it(patched, tiny):
    """Without `add_bos_token` a prompt begins with its text, unless it writes BOS itself."""
    bos, *rest = tiny.model.tokenize(segments("Hi!"))
    model = patched("bos", 0)
    assert model.tokenize(segments("Hi!")) == rest
    assert model.tokenize(segments("<s>Hi!")) == [bos, *rest]
    assert model.tokenize(segments("")) == []


@pytest.mark.parametrize("value", TEXTS)
def test_text_is_preserved(tiny, value):
    """Tokens give back their text, byte by byte, also when it is cut into segments."""
    assert text(tiny.model, tiny.model.tokenize(segments(value))) == value
    assert text(tiny.model, tiny.model.tokenize(segments("a", value, "b"))) == f"a{value}b"


@pytest.mark.parametrize("value", TEXTS)
def test_no_space_comes_between_segments(spaced, value):
    """A vocabulary that adds a space before a text adds it only at the front."""
    assert text(spaced, spaced.tokenize(segments("a"))) == " a"
    assert text(spaced, spaced.tokenize(segments("a", value, "b", parse_special=False))) == f" a{value}b"


def test_control_tokens_are_parsed_where_allowed(tiny):
    """The text of a control token is one token, or its characters, as the segment says."""
    parsed = tiny.model.tokenize(segments("<|im_end|>"))
    plain = tiny.model.tokenize(segments("<|im_end|>", parse_special=False))
    assert len(parsed) == 2
    assert tiny.model.is_end(parsed[1])
    assert text(tiny.model, plain) == "<|im_end|>"


def test_lone_surrogates_are_replaced(tiny):
    """A character that UTF-8 cannot encode becomes a question mark instead of an error."""
    assert text(tiny.model, tiny.model.tokenize(segments("a\ud800b"))) == "a?b"


def test_null_bytes_are_text(tiny):
    """A NUL is ordinary text and does not end a prompt."""
    assert text(tiny.model, tiny.model.tokenize(segments("a\x00b"))) == "a\x00b"


def test_control_tokens_are_known(tiny):
    """The template knows every text that would be parsed as a control token."""
    vocabulary = tiny.model._vocabulary
    assert {"<s>", "<|im_start|>", "<|im_end|>"} <= set(vocabulary.control_tokens())
    assert (vocabulary.bos_token, vocabulary.eos_token) == ("<s>", "<|im_end|>")
