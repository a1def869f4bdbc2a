"""Pages made of files of the repository: READMEs of plugins, examples, CHANGELOG and CONTRIBUTING."""

import posixpath
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

DOCUMENTS: Mapping[str, str] = {
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
    "examples/deploy/README.md": "guides/deploying.md",
    **{
        f"plugins/lllms-{name}/README.md": f"plugins/{name}.md"
        for name in ("llamacpp", "gpt4all", "mock", "anthropic", "ollama", "compat", "ray")
    },
}
"""Markdown files, and the pages that they become."""
PLACES: Mapping[str, str] = {
    "README.md": "index.md", "plugins": "plugins/index.md", "examples": "examples/index.md",
    "docs/guides/cluster.md": "guides/cluster.md",
    "lllms_core/hookspecs.py": "reference/python/hookspecs.md",
}
"""Other places of the repository, and the pages about them."""
LANGUAGES = {
    ".py": "python", ".json": "json", ".toml": "toml", ".yaml": "yaml", ".yml": "yaml", ".service": "ini",
    ".socket": "ini", ".plist": "xml", ".conf": "nginx", ".sh": "sh",
}
ABOUT = re.compile(r'^`{3,}python\nr?"""(.+?)(?:\n|""")', re.MULTILINE)
"""Where a program says what it is: in the first line of its docstring."""
OTHERS = {"grafana_dashboard.json": "A dashboard for Grafana, over the metrics of a server"}
"""Files at the top of `examples/` that cannot say so."""
LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")


class BrokenLink(Exception):
    """A document links to a file that is no page of the site."""


def pages(root: Path) -> Mapping[str, str]:
    """Return the pages by their paths on the site; `root` is the repository."""
    documents = {path: page for path, page in DOCUMENTS.items() if (root / path).is_file()}
    examples = {path: _example_page(path) for path in _examples(root)}
    places = {**PLACES, **documents, **examples}
    places |= {str(PurePosixPath(path).parent): page for path, page in documents.items() if path.startswith("plugins/")}
    found = {
        page: relinked((root / path).read_text(encoding="utf-8"), path, page, root, places)
        for path, page in documents.items()
    }
    for path, page in places.items():  # with the files that a document links to
        if page not in found and (root / path).is_file() and path not in PLACES:
            found[page] = _listing(PurePosixPath(path), (root / path).read_text(encoding="utf-8"))
    others = sorted(PurePosixPath(page).stem for page in found if page.startswith("files/"))
    if others:
        found["files/index.md"] = f"# Source files\n\n{_toctree(others)}"
    guides = [f"/{page.removesuffix('.md')}" for page in found if page.startswith("guides/")]
    found["examples/index.md"] = _index([(path, page, found[page]) for path, page in examples.items()], guides)
    return found


def relinked(text: str, path: str, page: str, root: Path, places: dict[str, str]) -> str:
    """Return a document in which links to files of the repository are links to their pages.

    A file that is no page yet gets one, in `places`. Raises `BrokenLink` if there is no such file.
    """

    def moved(match: re.Match[str]) -> str:
        target = match[2]
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        if file not in places:
            if not (root / file).is_file():
                raise BrokenLink(f"{path} links to {file}, which does not exist, or has no page")
            places[file] = f"files/{_slug(file)}.md"
        return f"{match[1]}{posixpath.relpath(places[file], posixpath.dirname(page) or '.')}{match[3]}"

    parts = re.split(r"(^```.*?^```$)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else LINK.sub(moved, part) for part in parts)


def _examples(root: Path) -> list[str]:
    files = sorted(one for one in (root / "examples").rglob("*") if one.is_file() and "__pycache__" not in one.parts)
    found = [one.relative_to(root).as_posix() for one in files]
    return [one for one in found if one not in DOCUMENTS]


def _example_page(path: str) -> str:
    return f"examples/{_slug(path.removeprefix('examples/'))}.md"


def _slug(path: str) -> str:
    return path.replace("/", "-").replace(".", "-")


def _listing(path: PurePosixPath, text: str) -> str:
    language = LANGUAGES.get(path.suffix, "dockerfile" if path.name.startswith("Dockerfile") else "text")
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"# {path.name}\n\n`{path}`\n\n{fence}{language}\n{text.rstrip()}\n{fence}\n"


def _index(examples: list[tuple[str, str, str]], guides: Sequence[str]) -> str:
    lines = [
        "# Examples", "", "Files of the repository's folder `examples/`; each is run, or checked, by a test.", "",
        "| file | what it is |", "|---|---|",
    ]
    for path, page, text in examples:
        name = path.removeprefix("examples/")
        if "/" not in name:  # the others are described by the document of their folder
            about = ABOUT.search(text)
            shown = about[1].rstrip(".") if about else OTHERS.get(name, "-")
            lines.append(f"| [`{name}`]({posixpath.basename(page)}) | {shown} |")
    lines += [f"\nFiles for servers: [deploy](..{guide}.md)." for guide in guides]
    return "\n".join(lines) + "\n\n" + _toctree([*guides, *(PurePosixPath(page).stem for _, page, _ in examples)])


def _toctree(names: Sequence[str]) -> str:
    return "\n".join(["```{toctree}", ":hidden:", "", *names, "```", ""])
