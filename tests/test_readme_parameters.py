"""The READMEs' tables of parameters; run this file as a program to write them."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from lllms_core.parameters import TABLE, markdown
from lllms_core.plugins import Plugins

ROOT = Path(__file__).parent.parent
READMES: Mapping[str, tuple[str, ...]] = {"README.md": (), "plugins/lllms-gpt4all/README.md": ("gpt4all", "llamacpp")}
"""Each with the engines that its table compares; none means all."""
START, END = "<!-- parameters: written by `make readme` -->\n", "<!-- end -->\n"


def with_table(text: str, compared: tuple[str, ...]) -> str:
    """A README with the table as the installed engines declare it."""
    declared = {name: one.object.parameters for name, one in sorted(Plugins.discover().engines.items())}
    engines = {name: declared[name] for name in compared or declared}
    before, _, rest = text.partition(START)
    _, end, after = rest.partition(END)
    return f"{before}{START}\n{markdown(engines)}\n{end}{after}"


@pytest.mark.parametrize("readme", READMES)
def test_readme_says_what_engines_declare(readme: str) -> None:
    """A README's table of parameters is the one that requests are checked against; `make readme` writes it."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    assert text == with_table(text, READMES[readme])


@pytest.mark.parametrize("readme", READMES)
def test_stars_of_the_table_are_shown(readme: str) -> None:
    """The stars that mark parameters reach the reader, who would otherwise see italics between two of them."""
    text = (ROOT / readme).read_text(encoding="utf-8").partition(START)[2].partition(END)[0]
    marked = sum(parameter.extension for parameter in TABLE if f"`{parameter.name}`" in text)
    rendered = MarkdownIt().enable("table").render(text)
    assert marked > 30
    assert "<em>" not in rendered
    assert rendered.count("</code>*") >= marked


if __name__ == "__main__":
    for readme, compared in READMES.items():
        path = ROOT / readme
        path.write_text(with_table(path.read_text(encoding="utf-8"), compared), encoding="utf-8")
