"""Converts text to tokens and back, by the vocabulary of a loaded model."""

import ctypes
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import pairwise, repeat

import llama_cpp.llama_cpp as llama

from lllms_core.chat import Segment
from lllms_core.engines.slices import token_slices
from lllms_core.errors import InvalidRequest
from lllms_llamacpp.gaps import GapMarks

_ANCHORS = ("\x01", "\n", "0", "|", "a")
"""Texts after which a segment can be tokenised; the first has a byte token that merges with nothing."""
_ROOM = 64
"""Enough bytes for most tokens."""
_BYTE_EXACT = (llama.LLAMA_VOCAB_TYPE_SPM, llama.LLAMA_VOCAB_TYPE_BPE)
"""Vocabularies whose tokens spell their text exactly."""
_PARSED_FROM_TEXT = llama.LLAMA_TOKEN_ATTR_CONTROL | llama.LLAMA_TOKEN_ATTR_UNKNOWN
_STRIPS = llama.LLAMA_TOKEN_ATTR_LSTRIP | llama.LLAMA_TOKEN_ATTR_RSTRIP
_UNUSUAL = _PARSED_FROM_TEXT | _STRIPS | llama.LLAMA_TOKEN_ATTR_USER_DEFINED


def _extend(tokens: list[int], slices: Iterable[list[int]], most: int | None) -> list[int]:
    """Append the tokens of slices until there are more than `most`."""
    for piece in slices:
        tokens += piece
        if most is not None and len(tokens) > most:
            break
    return tokens


class Vocabulary:
    """The tokens of a model; `model` must stay loaded while this is used. Any thread may call it, several at once."""

    def __init__(self, model: llama.llama_model_p) -> None:
        self._vocab = llama.llama_model_get_vocab(model)
        self.size: int = llama.llama_vocab_n_tokens(self._vocab)
        self._adds_bos: bool = llama.llama_vocab_get_add_bos(self._vocab)
        self._wordpiece = llama.llama_vocab_type(self._vocab) == llama.LLAMA_VOCAB_TYPE_WPM
        self._bos: int = llama.llama_vocab_bos(self._vocab)
        self._pieces: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}
        self._control_texts: dict[int, str] = {}
        # SentencePiece puts a space before a text, which is wrong in the middle of a prompt.
        self._adds_space = self.piece(next(iter(self._tokens("a", parse_special=False)), 0)).startswith(b" ")

    # The next three may stop early: once there are more than `most` tokens, the exact count does not matter.

    def tokenize(self, segments: Sequence[Segment], *, most: int | None = None) -> list[int]:
        """Return the tokens of a prompt; BOS comes first, once, if the vocabulary wants it."""
        tokens: list[int] = []
        for segment in segments:
            if most is not None and len(tokens) > most:
                break
            further = partial(self._further, parse_special=segment.parse_special)
            first = further if tokens else partial(self._first, parse_special=segment.parse_special)
            _extend(tokens, token_slices(segment.text, first, further), most)
        if self._adds_bos and self._bos >= 0 and tokens[:1] != [self._bos]:
            tokens.insert(0, self._bos)
        return tokens

    def text_tokens(self, text: str, *, parse_special: bool, most: int | None = None) -> list[int]:
        """Return the tokens of a text alone, without any around it."""
        first = partial(self._tokens, parse_special=parse_special)
        further = partial(self._continue, parse_special=parse_special)
        return _extend([], token_slices(text, first, further), most)

    @cached_property
    def longest(self) -> int | None:
        """The most bytes of text that one token represents; None if a token can represent any amount of text.

        Such vocabularies normalise texts, have one token for anything unknown, or strip space around control tokens.
        """
        if llama.llama_vocab_type(self._vocab) not in _BYTE_EXACT:
            return None
        if any(attributes & _STRIPS for attributes in self._marked.values()):
            return None
        # As they are spelt in the file, in which some bytes take two.
        return max(len(llama.llama_vocab_get_text(self._vocab, token)) for token in range(self.size))

    @cached_property
    def frame(self) -> tuple[list[int], list[int]]:
        """The tokens before and after a complete text, like `[CLS]` and `[SEP]`."""
        plain, framed = self._tokens("a", parse_special=False), self._tokens("a", parse_special=False, add_special=True)
        start = next(at for at in range(len(framed)) if framed[at : at + len(plain)] == plain)
        return framed[:start], framed[start + len(plain) :]

    @property
    def separator(self) -> list[int]:
        """The tokens between two texts, in addition to those that end the first."""
        separator: int = llama.llama_vocab_sep(self._vocab)
        _, after = self.frame
        if separator < 0 or not llama.llama_vocab_get_add_sep(self._vocab) or after == [separator]:
            return []
        return [separator]

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, with the names of control tokens."""
        count = len(tokens)
        array = (llama.llama_token * count)(*tokens)
        room = 8 * count + 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            length = llama.llama_detokenize(self._vocab, array, count, buffer, room, False, True)  # noqa: FBT003  # C
            if length >= 0:
                text = buffer.raw[:length].decode(errors="replace")
                # WordPiece puts a space before every word, even the first.
                return text.removeprefix(" ") if self._wordpiece else text
            room = -length

    def shown(self, token: int) -> bytes:
        """Return the bytes of a token; for a control token its name."""
        return self.piece(token) or self._text(token).encode()

    def check(self, tokens: Sequence[int], param: str) -> None:
        """Raise `InvalidRequest` about `param` for a number that is not a token of this vocabulary."""
        for token in tokens:
            if not 0 <= token < self.size:
                raise InvalidRequest(f"the model has no token {token}, only 0 to {self.size - 1}", param)

    @cached_property
    def gap(self) -> GapMarks | None:
        """The tokens by which a prompt shows a gap; None if the model was not trained to fill one."""
        kinds = llama.llama_vocab_fim_pre, llama.llama_vocab_fim_suf, llama.llama_vocab_fim_mid
        before, after, middle = (token_of(self._vocab) for token_of in kinds)
        if min(before, after, middle) < 0:
            return None
        others = llama.llama_vocab_fim_rep, llama.llama_vocab_fim_sep
        repository, file = (None if (token := token_of(self._vocab)) < 0 else token for token_of in others)
        return GapMarks(before, after, middle, repository, file)

    @property
    def bos(self) -> list[int]:
        """The token with which a prompt begins, if the vocabulary wants one."""
        return [self._bos] if self._adds_bos and self._bos >= 0 else []

    def piece(self, token: int) -> bytes:
        """Return the bytes of a token; none for a control token."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._read_piece(token)
        return piece

    def grammar_tokens(self) -> Iterator[tuple[bytes, bool]]:
        """Yield the bytes of every token, and whether they are not text but the name of a control token or the like."""
        names = self._token_names
        buffer, room = ctypes.create_string_buffer(_ROOM), _ROOM  # one for all tokens, because there are many
        for token in range(self.size):
            if token in names:
                yield names[token], True
                continue
            length = llama.llama_token_to_piece(self._vocab, token, buffer, room, 0, False)  # noqa: FBT003  # C
            yield (buffer.raw[:length] if length >= 0 else self._read_piece(token)), False

    @cached_property
    def grammar_names(self) -> Mapping[str, int]:
        """The ids of the tokens that are not text to grammars, by their names."""
        return {text.decode(errors="replace"): token for token, text in self._token_names.items()}

    @cached_property
    def _token_names(self) -> Mapping[int, bytes]:
        """The names of control tokens and similar ones."""
        names = {}
        for token in range(self.size):
            attributes = llama.llama_vocab_get_attr(self._vocab, token)
            if attributes & llama.LLAMA_TOKEN_ATTR_CONTROL:
                names[token] = llama.llama_vocab_get_text(self._vocab, token)
            elif attributes & llama.LLAMA_TOKEN_ATTR_USER_DEFINED:
                piece = self._read_piece(token)
                if piece[:1] == b"<" and piece[-1:] == b">":
                    names[token] = piece
        return names

    @cached_property
    def marks_spaces(self) -> bool:
        """Whether SentencePiece's mark of a space turns into a space if it occurs in a text."""
        pieces = map(self.piece, self._tokens("\u2581", parse_special=False))
        return "\u2581".encode() not in b"".join(pieces)

    def name(self, token: int) -> str:
        """Return the name of any token in grammars; "" for one that does not exist."""
        return self._text(token) if 0 <= token < self.size else ""

    @property
    def pointers(self) -> tuple[int, int]:
        """The addresses of the vocabulary and of the C function that tokenises with it, for libraries that use both."""
        function = ctypes.cast(llama._lib.llama_tokenize, ctypes.c_void_p).value  # noqa: SLF001  # the C function itself
        assert function is not None  # noqa: S101  # no function lies at 0
        return self._vocab, function

    def control_text(self, token: int) -> str:
        """Return the name of a control token; "" for any other."""
        text = self._control_texts.get(token)
        if text is None:
            control = llama.llama_vocab_get_attr(self._vocab, token) & llama.LLAMA_TOKEN_ATTR_CONTROL
            text = self._control_texts[token] = self._text(token) if control else ""
        return text

    def is_end(self, token: int) -> bool:
        """Whether the model ends its answer with this token."""
        end = self._ends.get(token)
        if end is None:
            end = self._ends[token] = llama.llama_vocab_is_eog(self._vocab, token)
        return end

    def ends(self) -> list[int]:
        """Return all tokens with which the model may end its answer."""
        return [token for token in range(self.size) if self.is_end(token)]

    def suppressed(self) -> list[int]:
        """Return the tokens that the model's file says it must never write."""
        count = ctypes.c_int32()
        tokens = llama.llama_vocab_get_suppress_tokens(self._vocab, ctypes.byref(count))
        return list(tokens[: count.value]) if tokens else []

    def dry_sampler(
        self, multiplier: float, base: float, allowed_length: int, window: int, breakers: Sequence[bytes],
    ) -> object:
        """Return a new sampler that penalises repetitions; see `Sampling.dry_multiplier`."""
        texts = (ctypes.c_char_p * len(breakers))(*breakers)
        return llama.llama_sampler_init_dry(
            self._vocab, multiplier, base, allowed_length, window, texts, len(breakers),
        )

    def control_tokens(self) -> list[str]:
        """Return the texts that become control tokens wherever a prompt's control tokens are parsed."""
        return [*self._texts_of(_PARSED_FROM_TEXT), *self._always_parsed]

    @cached_property
    def _always_parsed(self) -> list[str]:
        """Control tokens that llama.cpp counts as text, like some of gpt-oss: it parses them everywhere."""
        shown = self._texts_of(llama.LLAMA_TOKEN_ATTR_USER_DEFINED)
        return [text for text in shown if text.startswith("<|") and text.endswith("|>")]

    def _texts_of(self, kind: int) -> list[str]:
        """Return the texts of all tokens with an attribute of this kind."""
        return [self._text(token) for token, attributes in self._marked.items() if attributes & kind]

    @cached_property
    def _marked(self) -> dict[int, int]:
        """The attributes of the tokens that have unusual ones; a pass over all tokens takes a load some 20 ms."""
        attributes = map(llama.llama_vocab_get_attr, repeat(self._vocab), range(self.size))
        return {token: one for token, one in enumerate(attributes) if one & _UNUSUAL}

    def _first(self, text: str, parse_special: bool) -> list[int]:  # noqa: FBT001  # as C
        """Return the tokens of the start of a prompt."""
        tokens: list[int] = []
        for piece in self._as_text(text, parse_special):
            tokens += self._continue(piece, parse_special) if tokens else self._tokens(piece, parse_special)
        return tokens

    def _further(self, text: str, parse_special: bool) -> list[int]:  # noqa: FBT001
        """Return the tokens of a text that follows other text in a prompt."""
        return [token for piece in self._as_text(text, parse_special) for token in self._continue(piece, parse_special)]

    def _as_text(self, text: str, parse_special: bool) -> Sequence[str]:  # noqa: FBT001
        """Return the same text, cut so that llama.cpp finds no control token in text that must not be parsed."""
        if parse_special or not self._always_parsed:
            return [text]
        anywhere = re.compile(f"(?={'|'.join(map(re.escape, self._always_parsed))})")
        cuts = [0, *(match.start() + 1 for match in anywhere.finditer(text)), len(text)]
        return [text[start:end] for start, end in pairwise(cuts)]

    @property
    def bos_token(self) -> str:
        """The text of BOS, as chat templates write it; "" without a BOS."""
        return self._text(self._bos) if self._bos >= 0 else ""

    @property
    def eos_token(self) -> str:
        """The text of EOS, as chat templates write it; "" without an EOS."""
        eos = llama.llama_vocab_eos(self._vocab)
        return self._text(eos) if eos >= 0 else ""

    def _continue(self, text: str, parse_special: bool) -> list[int]:  # noqa: FBT001
        """Return the tokens of a text that follows other text."""
        if self._adds_space:
            for anchor in _ANCHORS:
                before = self._tokens(anchor, parse_special)
                tokens = self._tokens(anchor + text, parse_special)
                if tokens[: len(before)] == before:
                    return tokens[len(before) :]
        return self._tokens(text, parse_special)

    def _tokens(self, text: str, parse_special: bool, *, add_special: bool = False) -> list[int]:  # noqa: FBT001  # as C
        data = text.encode(errors="replace")
        room = len(data) + 16
        tokens = (llama.llama_token * room)()
        count = llama.llama_tokenize(self._vocab, data, len(data), tokens, room, add_special, parse_special)
        if count < 0:
            tokens = (llama.llama_token * -count)()
            count = llama.llama_tokenize(self._vocab, data, len(data), tokens, -count, add_special, parse_special)
        return list(tokens[:count])

    def _text(self, token: int) -> str:
        text: bytes = llama.llama_vocab_get_text(self._vocab, token)
        return text.decode(errors="replace")

    def _read_piece(self, token: int) -> bytes:
        room = _ROOM
        while True:
            buffer = ctypes.create_string_buffer(room)
            length = llama.llama_token_to_piece(self._vocab, token, buffer, room, 0, False)  # noqa: FBT003  # C
            if length >= 0:
                return buffer.raw[:length]
            room = -length
