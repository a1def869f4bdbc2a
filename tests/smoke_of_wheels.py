"""Build the wheels of all distributions, install them into a clean environment, and use their contents.

    python tests/smoke_of_wheels.py

An editable install finds every file of the repository; a wheel has only what its build packs and its metadata names.
"""

import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
DISTRIBUTIONS = (ROOT, *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml")))
LIMIT = 900
"""Seconds for one command; the longest may compile llama.cpp."""


def run(*command: str, folder: Path) -> str:
    """Run a command outside the repository; return its standard output, and exit if it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nended with status {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def build(folder: Path) -> list[Path]:
    """Build a wheel of each distribution into `folder`."""
    sources = [str(path) for path in DISTRIBUTIONS]
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir")
    run(*pip, str(folder), *sources, folder=folder)
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != len(DISTRIBUTIONS):
        sys.exit(f"{len(DISTRIBUTIONS)} distributions gave these wheels: {', '.join(one.name for one in wheels)}")
    return wheels


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
    for name in ("mock", "llamacpp", "gpt4all", "anthropic", "ollama", "compat", "openai"):
        if name not in names:
            sys.exit(f"plugin '{name}' is missing; there are: {', '.join(sorted(names))}")
    answer = run(lllms, "run", "tiny-chat", "lets count to 10", "--temperature", "0", folder=folder)
    if "1, 2, 3" not in answer:
        sys.exit(f"tiny-chat does not count: {answer!r}")
    if not run(lllms, "run", "mock", "Hello!", folder=folder).strip():
        sys.exit("mock says nothing")
    run(lllms, "check", folder=folder)


def main() -> None:
    """Build, install, use."""
    with tempfile.TemporaryDirectory(prefix="lllms-wheels-") as name:
        folder = Path(name)
        (folder / "wheels").mkdir()
        wheels = build(folder / "wheels")
        smoke(install(wheels, folder / "environment"), folder)
        print(f"{len(wheels)} wheels, installed into a clean environment, serve their models")  # noqa: T201  # a program


if __name__ == "__main__":
    main()
