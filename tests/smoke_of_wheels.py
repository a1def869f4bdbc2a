"""Build all distributions, look at what they would show and say on PyPI, install them, and use their contents.

    python tests/smoke_of_wheels.py

An editable install finds every file of the repository; a wheel has only what its build packs and its metadata names.
Each wheel is built from its source distribution, so that has all that a build needs.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Sequence
from email.message import Message
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parent.parent
DISTRIBUTIONS = (ROOT, *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml")))
LIMIT = 900
"""Seconds for one command; the longest may compile llama.cpp."""
TOOLS = ("build>=1.2", "twine>=6", "readme_renderer[md]>=44")
URLS = {"Homepage", "Documentation", "Repository", "Issues", "Changelog"}
RENDER = """
import json, sys
from html.parser import HTMLParser
from readme_renderer import markdown

class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.links, self.anchors = [], []
    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.links += [value for name in ("href", "src") if (value := found.get(name))]
        self.anchors += [f"#{found[name]}" for name in ("id", "name") if found.get(name)]

html = markdown.render(sys.stdin.read())
if html is None:
    sys.exit("it cannot be rendered")
seen = Links()
seen.feed(html)
print(json.dumps([one for one in seen.links if one not in seen.anchors]))
"""
"""Renders Markdown as PyPI does, and prints the links that do not lead to a place in the text."""


def run(*command: str, folder: Path) -> str:
    """Run a command outside the repository; return its standard output, and exit if it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nended with status {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def make_tools(folder: Path) -> Path:
    """Make an environment that builds and checks distributions; return its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    run(str(python), "-m", "pip", "install", "--quiet", *TOOLS, *needs, folder=folder)
    return python


def build(tools: Path, folder: Path) -> list[Path]:
    """Build a source distribution of each distribution into `folder`, and a wheel from that; return the wheels."""
    for source in DISTRIBUTIONS:
        run(str(tools), "-m", "build", "--no-isolation", "--outdir", str(folder), str(source), folder=folder)
    wheels, sources = sorted(folder.glob("*.whl")), sorted(folder.glob("*.tar.gz"))
    if not len(wheels) == len(sources) == len(DISTRIBUTIONS):
        found = ", ".join(one.name for one in (*wheels, *sources))
        sys.exit(f"{len(DISTRIBUTIONS)} distributions gave these files: {found}")
    run(str(tools), "-m", "twine", "check", "--strict", *map(str, (*wheels, *sources)), folder=folder)
    return wheels


def examine(tools: Path, wheels: Sequence[Path]) -> None:
    """Look at the metadata, the licence and the description of each wheel."""
    urls = set()
    for wheel in wheels:
        with ZipFile(wheel) as archive:
            names = archive.namelist()
            [place] = [name for name in names if name.endswith(".dist-info/METADATA")]
            metadata = Parser().parsestr(archive.read(place).decode())
        faults = [*faults_of(metadata, names), *broken_links(tools, metadata)]
        if faults:
            sys.exit(f"{wheel.name}: {'; '.join(faults)}")
        urls.add(frozenset(one.partition(",")[0] for one in metadata.get_all("Project-URL", [])))
    if urls == {frozenset()}:
        print("there are no project URLs yet: give [project.urls] in each pyproject.toml once there is an address")  # noqa: T201  # a program
    elif urls != {frozenset(URLS)}:
        sys.exit(f"each distribution needs the URLs {', '.join(sorted(URLS))}, or none has any")


def faults_of(metadata: Message, names: Sequence[str]) -> list[str]:
    """What a wheel lacks of what all have."""
    faults = []
    if metadata["License-Expression"] != "MIT" or not any(name.endswith("licenses/LICENSE") for name in names):
        faults.append("its licence is missing")
    if not any(name.endswith("/py.typed") and name.count("/") == 1 for name in names):
        faults.append("py.typed is missing")
    if not (metadata["Keywords"] and metadata["Summary"] and len(metadata.get_all("Classifier", [])) > 3):
        faults.append("it cannot be found by keywords and classifiers")
    ours = [one for one in metadata.get_all("Requires-Dist", []) if one.startswith("lllms-") and "[" not in one]
    faults += [f"{one} is no compatible range" for one in ours if "~=0." not in one]
    if metadata["Name"] != "lllms-core" and not ours:
        faults.append("it does not need lllms-core")
    return faults


def broken_links(tools: Path, metadata: Message) -> list[str]:
    """What is wrong with the links of a description, as PyPI renders it."""
    text = metadata.get_payload()
    if not isinstance(text, str) or metadata["Description-Content-Type"] != "text/markdown":
        return ["it has no description in Markdown"]
    done = subprocess.run(
        [str(tools), "-c", RENDER], input=text, capture_output=True, text=True, timeout=LIMIT, check=False,
    )
    if done.returncode != 0:
        return [done.stderr]
    return [f"the link to {one} breaks" for one in json.loads(done.stdout) if not one.startswith("https://")]


def install(wheels: Sequence[Path], folder: Path) -> Path:
    """Install wheels and their dependencies into a new environment; return its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    run(str(python), "-m", "pip", "install", "--quiet", *map(str, wheels), folder=folder)
    return python


def smoke(python: Path, folder: Path) -> None:
    """Use each plugin once, and the command line."""
    lllms = str(python.with_name("lllms"))
    names = {plugin["name"] for plugin in json.loads(run(lllms, "plugins", "--json", folder=folder))}
    for name in ("mock", "llamacpp", "gpt4all", "anthropic", "ollama", "compat", "ray", "openai"):
        if name not in names:
            sys.exit(f"plugin '{name}' is missing; there are: {', '.join(sorted(names))}")
    answer = run(lllms, "run", "tiny-chat", "lets count to 10", "--temperature", "0", folder=folder)
    if "1, 2, 3" not in answer:
        sys.exit(f"tiny-chat does not count: {answer!r}")
    if not run(lllms, "run", "mock", "Hello!", folder=folder).strip():
        sys.exit("mock says nothing")
    run(lllms, "check", folder=folder)


def main() -> None:
    """Build, examine, install, use."""
    with tempfile.TemporaryDirectory(prefix="lllms-wheels-") as name:
        folder = Path(name)
        (folder / "wheels").mkdir()
        tools = make_tools(folder / "tools")
        wheels = build(tools, folder / "wheels")
        examine(tools, wheels)
        smoke(install(wheels, folder / "environment"), folder)
        print(f"{len(wheels)} wheels, installed into a clean environment, serve their models")  # noqa: T201  # a program


if __name__ == "__main__":
    main()
