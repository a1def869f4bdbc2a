"""The server that real clients ask: the mock with a script, and the trained model, which say the same."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import lllms_llamacpp
import pytest
from programs_for_tests import address, serving

TINY = Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf"
ASKED: Mapping[str, str] = json.loads(Path(__file__).with_name("asked.json").read_text(encoding="utf-8"))

CONFIG = """
[models.mock]
engine = "mock"

[models.mock.options]
context_length = 100000

[[models.mock.options.script]]
when = "what the folder holds"
calls = [{{ name = "exec_command", arguments = {{ cmd = "ls" }} }}]
replies = ["The folder holds one file."]

[[models.mock.options.script]]
when = "banana"
replies = ["{said}"]

[[models.mock.options.script]]
when = "count to 10"
replies = ["{counted}"]

[[models.mock.options.script]]
when = "^{introduction}"
thinks = "A name."

[[models.mock.options.script]]
when = "weather in Paris"
calls = [{{ name = "get_weather", arguments = {{ city = "{city}" }} }}]
replies = ["{forecast}"]

[[models.mock.options.script]]
when = "JSON object"
calls = [{{ name = "final_result", arguments = {{ name = "{name}", age = {age} }} }}]
replies = ['{{"name": "{name}", "age": {age}}}']

[models.tiny-chat]
engine = "llamacpp"
file = "{tiny}"
options = {{ threads = 1 }}
"""


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("clients")
    config = folder / "lllms.toml"
    config.write_text(CONFIG.format(**ASKED, tiny=TINY), encoding="utf-8")
    with serving(folder, "--config", str(config)) as (_, printed):
        yield address(printed)
