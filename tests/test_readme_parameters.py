"""README's table of parameters; run this file as a program to write it."""

from pathlib import Path

from lllms_core.parameters import markdown
from lllms_core.plugins import Plugins

README = Path(__file__).parent.parent / "README.md"
START, END = "<!-- parameters: written by `make readme` -->\n", "<!-- end -->\n"


def with_table(text: str) -> str:
    """README with the table as the installed engines declare it."""
    engines = {name: one.object.parameters for name, one in sorted(Plugins.discover().engines.items())}
    before, _, rest = text.partition(START)
    _, end, after = rest.partition(END)
    return f"{before}{START}\n{markdown(engines)}\n{end}{after}"


def test_readme_says_what_engines_declare() -> None:
    """README's table of parameters is the one that requests are checked by; `make readme` writes it."""
    text = README.read_text(encoding="utf-8")
    assert text == with_table(text)


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
