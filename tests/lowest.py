"""Install the lowest versions that the distributions say they work with, and run the quick tests with these.

    python tests/lowest.py

The tools of the tests are the newest that go with them. The environment is build/lowest, made anew each time.
"""

import os
import re
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "build" / "lowest"
PROJECTS = (ROOT, *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml")))
DEVELOPERS = {"dev", "docs"}
"""Extras that only developers install."""
SLOW_ENGINES = {"lllms-llamacpp", "lllms-gpt4all"}
ALONE = {"lllms-ray"}
"""Installed without what they need, which the quick tests do not: Ray takes 285 MiB."""
TOOLS = ("hypothesis", "openai", "psutil", "pytest", "pytest-asyncio", "pyyaml", "trustme")
"""What the quick tests need; schemathesis and others need newer versions of what lllms needs, too."""


def requirements() -> Iterator[Requirement]:
    """All that users install with any of the distributions."""
    for project in PROJECTS:
        table = tomllib.loads((project / "pyproject.toml").read_text())["project"]
        extras = table.get("optional-dependencies", {})
        lists = [table["dependencies"], *(lines for name, lines in extras.items() if name not in DEVELOPERS)]
        yield from (Requirement(line) for lines in lists for line in lines)


def lowest(requirement: Requirement) -> Version:
    """The version that a requirement says is the lowest."""
    found = [Version(one.version) for one in requirement.specifier if one.operator in {">=", "~=", "=="}]
    if not found:
        sys.exit(f"{requirement} has no lower bound")
    return max(found)


def quick_files() -> list[str]:
    """The test files that neither start processes nor load models."""
    folders = [ROOT / "tests", *(path / "tests" for path in PROJECTS[1:] if path.name not in SLOW_ENGINES)]
    files = sorted(file for folder in folders for file in folder.glob("test_*.py"))
    marked = re.compile(r"^pytestmark = .*\b(slow|chaos|clients|deploy|ray)\b", re.MULTILINE)
    return [str(file.relative_to(ROOT)) for file in files if marked.search(file.read_text()) is None]


def main() -> None:
    """Install and test."""
    bounds: dict[str, Version] = {}
    for one in requirements():
        if not one.name.startswith("lllms-"):
            bounds[one.name] = max(lowest(one), bounds.get(one.name, Version("0")))
    venv.create(FOLDER, with_pip=True, clear=True)
    python = str(FOLDER / "bin" / "python")
    constraints = FOLDER / "constraints.txt"
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in sorted(bounds.items())))
    print(constraints.read_text(), flush=True)  # noqa: T201  # a program
    install = [python, "-m", "pip", "install", "--quiet", "--upgrade"]
    subprocess.run([*install, "pip"], check=True)
    plugins = [part for project in PROJECTS[1:] if project.name not in ALONE for part in ("-e", str(project))]
    alone = [part for project in PROJECTS[1:] if project.name in ALONE for part in ("-e", str(project))]
    bounded = {**os.environ, "PIP_CONSTRAINT": str(constraints)}
    subprocess.run([*install, "-e", f"{ROOT}[bench,otel]", *plugins, *TOOLS], check=True, env=bounded)
    subprocess.run([*install, "--no-deps", *alone], check=True)
    tests = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *quick_files()]
    sys.exit(subprocess.run(tests, cwd=ROOT, check=False).returncode)


if __name__ == "__main__":
    main()
