"""Text to tokens and back, by a second load of the model with its vocabulary only.

gpt4all's own interface cannot tokenise; the llama.cpp inside it can, and both read a file in the same way.
"""

import ctypes
import os
from collections.abc import Sequence
from functools import partial

from lllms_core.engines.slices import SLICE, token_slices
from lllms_core.errors import InvalidRequest, ModelLoadFailed
from lllms_core.queries import Tokens
from lllms_gpt4all.library import NativeLog, reason

_UNKNOWN, _CONTROL, _USER_DEFINED = 1 << 0, 1 << 3, 1 << 4
_PARSED_FROM_TEXT = _UNKNOWN | _CONTROL
_SPECIAL = _PARSED_FROM_TEXT | _USER_DEFINED

_ENDS = frozenset({
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>",
    "<|END_OF_TURN_TOKEN|>", "<EOT>", "[EOT]", "<|eot|>", "</s>",
})
"""Control tokens with which models end a turn; this llama.cpp knows the first few."""


class _ModelParams(ctypes.Structure):
    """`llama_model_params` of the llama.cpp in gpt4all 2.8.2."""

    _fields_ = (
        ("n_gpu_layers", ctypes.c_int32), ("split_mode", ctypes.c_int), ("main_gpu", ctypes.c_int32),
        ("tensor_split", ctypes.c_void_p), ("rpc_servers", ctypes.c_char_p), ("progress_callback", ctypes.c_void_p),
        ("progress_callback_user_data", ctypes.c_void_p), ("kv_overrides", ctypes.c_void_p),
        ("vocab_only", ctypes.c_bool), ("use_mmap", ctypes.c_bool), ("use_mlock", ctypes.c_bool),
        ("check_tensors", ctypes.c_bool),
    )


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    model, token, text, number, boolean = (
        ctypes.c_void_p, ctypes.c_int32, ctypes.c_char_p, ctypes.c_int32, ctypes.c_bool,
    )
    signatures: dict[str, tuple[object, list[object]]] = {
        "llama_model_default_params": (_ModelParams, []),
        "llama_load_model_from_file": (model, [text, _ModelParams]),
        "llama_free_model": (None, [model]),
        "llama_n_vocab": (number, [model]),
        "llama_token_bos": (token, [model]),
        "llama_token_eos": (token, [model]),
        "llama_token_is_eog": (boolean, [model, token]),
        "llama_token_get_attr": (ctypes.c_int, [model, token]),
        "llama_token_get_text": (text, [model, token]),
        "llama_token_to_piece": (number, [model, token, text, number, number, boolean]),
        "llama_tokenize_gpt4all": (
            number, [model, text, number, ctypes.POINTER(token), number, boolean, boolean, boolean],
        ),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Vocabulary:
    """The tokens of a model file. Raises `ModelLoadFailed` with llama.cpp's reason."""

    def __init__(self, library: ctypes.CDLL, log: NativeLog, path: str) -> None:
        self._llama = _declare(library)
        params = self._llama.llama_model_default_params()
        params.vocab_only = True
        params.n_gpu_layers = 0
        with log.errors() as errors:
            self._model = self._llama.llama_load_model_from_file(os.fsencode(path), params)
        if not self._model:
            raise ModelLoadFailed(f"'{path}' cannot be loaded: {reason(errors)}")
        self.size: int = self._llama.llama_n_vocab(self._model)
        """The number of tokens."""
        self._bos: int = self._llama.llama_token_bos(self._model)
        self._eos: int = self._llama.llama_token_eos(self._model)
        self._pieces: dict[tuple[int, bool], bytes] = {}
        self._ends: dict[int, bool] = {}

    def tokenize(
        self, text: str, *, parse_special: bool, after: Sequence[int], most: int | None = None,
    ) -> list[int]:
        """Return the tokens of a text that follows the tokens `after`, as gpt4all makes them.

        At the very start, BOS comes first if the vocabulary wants it. Vocabularies that put a space before words do so
        there and after special tokens. Tokenising stops once there are more than `most` tokens.
        """
        begins = not after
        space = begins or self.is_special(after[-1])
        first = partial(self._tokens, parse_special=parse_special, begins=begins, space=space)
        further = partial(self._tokens, parse_special=parse_special, begins=False, space=False)
        tokens: list[int] = []
        for piece in token_slices(text, first, further):
            tokens += piece
            if most is not None and len(tokens) > most:
                return tokens
        # A long text was only counted: gpt4all tokenises it whole, and a prompt's tokens have to be the same.
        return tokens if len(text) <= SLICE else first(text)

    def _tokens(self, text: str, *, parse_special: bool, begins: bool, space: bool) -> list[int]:
        data = text.encode(errors="replace")
        room = len(data) + 16
        tokens = (ctypes.c_int32 * room)()
        count = self._llama.llama_tokenize_gpt4all(
            self._model, data, len(data), tokens, room, begins, parse_special, space,
        )
        if count < 0:
            raise RuntimeError(f"the tokenizer needs room for {-count} tokens of {len(data)} bytes")
        return list(tokens[:count])

    def piece(self, token: int) -> bytes:
        """Return the visible bytes of a token: none for control tokens."""
        return self._piece(token, special=False)

    def text(self, token: int) -> bytes:
        """Return the bytes that a token is made from in a prompt; for a control token its name, as in templates."""
        return self._piece(token, special=True)

    def shown(self, tokens: Sequence[int]) -> Tokens:
        """Return the tokens, each with its bytes."""
        return Tokens(tuple(tokens), tuple(map(self.text, tokens)))

    def join(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, control tokens as their names. Raises `InvalidRequest` for unknown ones."""
        for token in tokens:
            if not 0 <= token < self.size:
                raise InvalidRequest(f"there is no token {token}; the vocabulary has {self.size}", "tokens")
        return b"".join(map(self.text, tokens)).decode(errors="replace")

    def is_special(self, token: int) -> bool:
        """Whether gpt4all parses a token apart from the text around it."""
        return bool(self._llama.llama_token_get_attr(self._model, token) & _SPECIAL)

    def is_end(self, token: int) -> bool:
        """Whether the model ends its answer with this token."""
        end = self._ends.get(token)
        if end is None:
            end = self._ends[token] = self._llama.llama_token_is_eog(self._model, token) or (
                self.is_special(token) and self._name(token) in _ENDS
            )
        return end

    def control_tokens(self) -> list[str]:
        """Return the texts that become control tokens in the parts of a prompt where those are parsed."""
        attributes = self._llama.llama_token_get_attr
        return [self._name(token) for token in range(self.size) if attributes(self._model, token) & _PARSED_FROM_TEXT]

    @property
    def adds_bos(self) -> bool:
        """Whether every prompt starts with BOS, which must not be in its text then."""
        return self._bos >= 0 and self.tokenize("", parse_special=False, after=[])[:1] == [self._bos]

    @property
    def bos_token(self) -> str:
        """The text of BOS, as chat templates write it; "" if there is none."""
        return self._name(self._bos) if self._bos >= 0 else ""

    @property
    def eos_token(self) -> str:
        """The text of EOS, as chat templates write it; "" if there is none."""
        return self._name(self._eos) if self._eos >= 0 else ""

    def close(self) -> None:
        """Free the vocabulary, once."""
        if self._model:
            self._llama.llama_free_model(self._model)
            self._model = None

    def _name(self, token: int) -> str:
        name: bytes = self._llama.llama_token_get_text(self._model, token)
        return name.decode(errors="replace")

    def _piece(self, token: int, *, special: bool) -> bytes:
        known = self._pieces.get((token, special))
        if known is not None:
            return known
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            length = self._llama.llama_token_to_piece(self._model, token, buffer, room, 0, special)
            if length >= 0:
                return self._pieces.setdefault((token, special), buffer.raw[:length])
            room = -length
