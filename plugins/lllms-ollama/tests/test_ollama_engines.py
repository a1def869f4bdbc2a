"""Engines with other abilities: one that sees images, one without chats; and models that fail to load."""

from collections.abc import Iterator

import ollama
import pytest

from lllms_core.engines import Engine
from lllms_core.engines.serial import SerialModel
from lllms_core.hookspecs import hookimpl
from lllms_core.testing import running_server
from lllms_core.types import ChatRequest, Media, TextRequest

pytestmark = pytest.mark.slow

PIXEL = b"\x89PNG\r\n\x1a\n123"


class Eye(SerialModel):
    """Says which images it was shown."""

    context_length = 4096
    tasks = frozenset({"chat"})

    def chat(self, request: ChatRequest) -> Iterator[str]:
        shown = [part.source for message in request.messages for part in message.parts if isinstance(part, Media)]
        yield f"{request.messages[-1].content} {' '.join(shown)}"


class Pen(SerialModel):
    """Continues texts, and cannot chat."""

    context_length = 4096
    tasks = frozenset({"text"})

    def complete(self, prompt: str, request: TextRequest) -> Iterator[str]:
        yield f"{prompt} and so on"


class EyeEngine(Engine):
    name = "eye"
    isolation = "thread"
    needs_file = False
    media = frozenset({"image"})

    def inspect(self, spec: object) -> dict[str, str | int | float]:
        return {"tasks": "chat"}

    def load(self, spec: object, progress: object) -> Eye:
        return Eye()


class PenEngine(Engine):
    name = "pen"
    isolation = "thread"
    needs_file = False

    def inspect(self, spec: object) -> dict[str, str | int | float]:
        return {"tasks": "text"}

    def load(self, spec: object, progress: object) -> Pen:
        return Pen()


class Plugin:
    @hookimpl
    def lllms_engines(self) -> list[Engine]:
        return [EyeEngine(), PenEngine()]


@pytest.fixture(scope="module")
def client() -> Iterator[ollama.Client]:
    models = {
        "eye": {"engine": "eye"}, "pen": {"engine": "pen"},
        "broken": {"engine": "mock", "options": {"load_fault": "fail"}},
    }
    with running_server(models, {"others": Plugin()}) as url, ollama.Client(url) as client:
        yield client


def test_images_reach_an_engine_that_sees(client: ollama.Client) -> None:
    """An image of a message, and of a prompt, arrives as a data URL of its kind; the model is listed as seeing."""
    said = client.chat("eye", [{"role": "user", "content": "What?", "images": [PIXEL]}]).message.content
    assert said == "What? data:image/png;base64,iVBORw0KGgoxMjM="
    assert client.generate("eye", "What?", images=[PIXEL]).response == said
    assert client.show("eye").capabilities == ["completion", "vision"]


def test_a_model_without_a_template_continues_prompts(client: ollama.Client) -> None:
    """A prompt for a model that cannot chat is continued as it is; with a system message it is refused."""
    assert client.generate("pen", "Once").response == "Once and so on"
    assert client.generate("pen", "Once", think=False).response == "Once and so on"
    for ask in (
        lambda: client.generate("pen", "Once", system="Be brief."),
        lambda: client.chat("pen", [{"role": "user", "content": "Hi"}]),
    ):
        with pytest.raises(ollama.ResponseError, match="cannot chat"):
            ask()


def test_a_model_that_cannot_be_loaded_is_told(client: ollama.Client) -> None:
    """Loading it, and asking it, fail with the reason of its load."""
    for ask in (lambda: client.generate("broken"), lambda: client.generate("broken", "Hi")):
        with pytest.raises(ollama.ResponseError) as caught:
            ask()
        assert caught.value.status_code == 503
    assert "broken:latest" in [model.model for model in client.list().models]
