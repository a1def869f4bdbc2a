import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

import gguf
import lllms_llamacpp
import numpy as np
import pytest
from attrs import define, field
from lllms_llamacpp import LlamaCppEngine, Options

from lllms_core.types import ChatRequest, Delta, Finish, Message, ModelSpec, Preload, Sampling, TextRequest, Usage

sys.path.insert(0, str(Path(__file__).parent))

from gpus_for_tests import ON_GPU
from models_for_tests import DIM, LAYERS, RECIPES, WORDS

TINY = Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf"
GREEDY = Sampling(temperature=0)
FLASH = {"flash_attention": "off"} if ON_GPU else {}
"""Mesa 22.3's driver in software crashes in short prompts with it."""
ROLES = ("user", "assistant")


def pytest_unconfigure() -> None:
    """Close the files that llama_cpp opens on import, of which Python would warn at exit."""
    if library := sys.modules.get("llama_cpp._utils"):
        library.outnull_file.close()
        library.errnull_file.close()


def messages(*texts: str, system: str | None = None) -> tuple[Message, ...]:
    """A conversation in which user and assistant take turns."""
    first = () if system is None else (Message("system", system),)
    return first + tuple(Message(ROLES[i % 2], text) for i, text in enumerate(texts))


@define
class Answer:
    """The outcome of one request."""

    text: str = ""
    tokens: int = 0
    finish: Finish | None = None
    deltas: int = 0

    def take(self, delta: Delta) -> None:
        assert self.finish is None, "a delta after the last"
        assert delta.error is None
        self.text += delta.text
        self.tokens += delta.tokens
        self.finish = delta.finish
        self.deltas += 1

    @property
    def reason(self) -> str:
        assert self.finish is not None
        return self.finish.reason

    @property
    def usage(self) -> Usage:
        assert self.finish is not None
        return self.finish.usage

    @property
    def cached(self) -> int:
        return self.usage.cached_tokens


@define
class Talk:
    """Sends requests to a model, and collects its answers by the requests' names."""

    model: object
    answers: dict[str, Answer] = field(factory=dict)
    _names: "count[int]" = field(factory=count)

    def open(self, *texts: str, system: str | None = None, sampling: Sampling = GREEDY, **fields: object) -> str:
        name = f"request-{next(self._names)}"
        if "prompt" in fields:
            self.model.open(TextRequest(name, "tiny", sampling=sampling, **fields))
        else:
            self.model.open(ChatRequest(name, "tiny", messages(*texts, system=system), sampling=sampling, **fields))
        self.answers[name] = Answer()
        return name

    def step(self) -> Sequence[Delta]:
        deltas = list(self.model.step())
        for delta in deltas:
            self.answers[delta.request_id].take(delta)
        return deltas

    def cancel(self, name: str) -> Answer:
        for delta in self.model.cancel(name):
            self.answers[name].take(delta)
        return self.answers[name]

    def finish(self) -> None:
        while not self.model.idle:
            self.step()

    def ask(self, *texts: str, **fields: object) -> Answer:
        name = self.open(*texts, **fields)
        self.finish()
        return self.answers[name]


Loader = Callable[..., Talk]


@pytest.fixture(scope="module")
def load() -> Iterator[Loader]:
    """Load a model with these options, tiny-chat by default; it is closed at the end."""
    models = []

    def load(file: Path = TINY, preload: Preload | None = None, **options: object) -> Talk:
        spec = ModelSpec("tiny", Options(**{"threads": 1, **FLASH, **options}), file, preload=preload)
        models.append(LlamaCppEngine().load(spec, lambda _: None))
        return Talk(models[-1])

    yield load
    for model in models:
        model.close()


@pytest.fixture(scope="module")
def shared(load: Loader) -> Talk:
    """One model for all tests of a module."""
    return load()


@pytest.fixture
def tiny(shared: Talk) -> Iterator[Talk]:
    """The shared model; a test may leave no request open in it."""
    yield shared
    assert shared.model.idle


@pytest.fixture(scope="session")
def write_random() -> Callable[..., Path]:
    """Write a model with random weights, given its keys and the shapes of its tensors; the vocabulary is tiny-chat's.

    `control` replaces the last tokens by these control tokens, the very last of which ends answers. `words` extends the
    vocabulary to this many tokens. `change` takes the name and data of each tensor, and returns the data to write.
    """
    more = {
        "tokenizer.ggml.tokens": "more{}".format, "tokenizer.ggml.scores": float,
        "tokenizer.ggml.token_type": lambda _: gguf.TokenType.NORMAL,
    }
    tokenizer = [f for f in gguf.GGUFReader(TINY).fields.values() if f.name.startswith("tokenizer.")]

    def write(
        path: Path, architecture: str, keys: dict[str, object], shapes: dict[str, tuple[int, ...]],
        control: Sequence[str] = (), words: int = WORDS,
        change: Callable[[str, np.ndarray], np.ndarray] = lambda _, data: data,
    ) -> Path:
        writer = gguf.GGUFWriter(path, architecture)
        for name, value in keys.items():
            adders = {bool: writer.add_bool, float: writer.add_float32, list: writer.add_array}
            add = adders.get(type(value), writer.add_uint32)
            add(name if name.startswith("tokenizer.") else f"{architecture}.{name}", value)
        for found in tokenizer:
            sub = found.types[-1] if len(found.types) > 1 else None
            value = found.contents()
            if control and found.name in {"tokenizer.ggml.tokens", "tokenizer.ggml.token_type"}:
                ends = control if found.name.endswith("tokens") else [gguf.TokenType.CONTROL] * len(control)
                value = [*value[: -len(control)], *ends]
            elif words > WORDS and found.name in more:
                value = [*value, *(more[found.name](number) for number in range(words - WORDS))]
            elif control and found.name == "tokenizer.ggml.eos_token_id":
                value = WORDS - 1
            writer.add_key_value(found.name, value, found.types[0], sub)
        rng = np.random.default_rng(0)
        for name, shape in shapes.items():
            # Scaled so that matrix products stay near 1.
            data = rng.standard_normal(shape) / np.sqrt(shape[-1] if len(shape) > 1 else 1)
            data = (-np.exp(data) if name.endswith("ssm_a") else data).astype(np.float32)
            writer.add_tensor(name, change(name, data))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


@pytest.fixture(scope="session")
def tiny_file() -> Path:
    """The file of tiny-chat."""
    return TINY


@pytest.fixture(scope="session")
def file_of(
    tmp_path_factory: pytest.TempPathFactory, write_random: Callable[..., Path], tiny_file: Path,
) -> Callable[[str], Path]:
    """The model file of a name, written on first use."""
    written = {"tiny-chat": tiny_file}

    def file_of(name: str) -> Path:
        if name not in written:
            architecture, (keys, layer) = RECIPES[name]
            shapes = {"token_embd.weight": (WORDS, DIM), "output_norm.weight": (DIM,), "output.weight": (WORDS, DIM)}
            shapes |= {f"blk.{n}.{tensor}": shape for n in range(LAYERS) for tensor, shape in layer.items()}
            path = tmp_path_factory.mktemp(name) / f"{name}.gguf"
            written[name] = write_random(path, architecture, keys, shapes)
        return written[name]

    return file_of
