"""The README's examples work."""

import re
import tomllib
from pathlib import Path
from typing import Any, get_args

import attrs
import lllms_mock
from lllms_mock.options import Fault, Line, LoadFault, Options
from lllms_mock.rules_file import read_rules

from lllms_core.types import ChatRequest, Message, ModelSpec, Sampling

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def block(language: str, containing: str) -> str:
    """The only code block of this language that contains this text."""
    blocks: list[str] = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    [found] = [text for text in blocks if containing in text]
    return found


def test_every_option_and_fault_is_documented() -> None:
    """The tables have a row for each key of the options and of script lines, and for each fault."""
    for name in [attribute.name for kind in (Options, Line) for attribute in attrs.fields(kind)]:
        assert f"\n| `{name}` |" in README, name
    for fault in (*get_args(Fault), *get_args(LoadFault)):
        assert f'`"{fault}"`' in README, fault


def test_the_script_is_one_that_the_engine_takes() -> None:
    """Each line of the example has known keys and valid values."""
    lines = tomllib.loads(block("toml", "tell me everything"))["models"]["fake"]["options"]["script"]
    assert [Line(**line).fault for line in lines] == [None, "segfault", "hang", None]


def test_the_rules_make_the_bot_that_they_promise(tmp_path: Path) -> None:
    """The example of a rules file can be read, and its bot remembers."""
    path = tmp_path / "bot.toml"
    path.write_text(block("toml", "[[rules]]"), encoding="utf-8")
    bot = read_rules(path)

    def talk(*heard: str) -> str:
        return bot.reply(heard, set(), Sampling(temperature=0))

    assert talk("hi") == "We have tea and coffee. What would you like?"
    assert talk("I'm Ada") == "Welcome, Ada! What would you like?"
    assert talk("I'm Ada", "tea", "Thanks!") == "Enjoy your tea, Ada."
    assert talk("tea", "hm") == "Another tea?"
    assert talk("why do you like me?") == "Do I like you?"


def test_the_parrot_talks() -> None:
    """The engine of the last section loads and answers."""
    names: dict[str, Any] = {}
    exec(block("python", "class Parrot"), names)
    [engine] = names["lllms_engines"]()
    parrot = engine.load(ModelSpec("parrot", engine.Options(loud=True)), lambda part: None)
    parrot.open(ChatRequest("r", "parrot", messages=(Message("user", "pretty polly"),)))
    text = ""
    while not parrot.idle:
        text += "".join(delta.text for delta in parrot.step())
    assert text == "PRETTY POLLY "


def test_the_exports_are_sorted_and_there() -> None:
    """`__all__` lists the package's exports, sorted."""
    assert sorted(lllms_mock.__all__) == lllms_mock.__all__
    assert all(hasattr(lllms_mock, name) for name in lllms_mock.__all__)
