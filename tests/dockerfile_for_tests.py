"""A Dockerfile, read and carried out in folders by chroot, on a machine without a container engine.

It replaces the base image by a Debian that debootstrap has made, and the container's network by the machine's.
"""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from json import JSONDecodeError, loads
from pathlib import Path

from attrs import define, field, frozen

ENTER = (
    'mount --bind "$1" "$1"; cd "$1"; mount -t proc proc proc; mount --rbind /dev dev;'
    ' for pair in $2; do mkdir -p ".${pair#*:}"; mount --bind "${pair%%:*}" ".${pair#*:}"; done;'
    ' if [ "$3" = ro ]; then mount -o remount,bind,ro "$1"; mount -t tmpfs tmpfs tmp; fi; shift 3; exec "$@"'
)
"""Mount what a container has, in a namespace of mounts that ends with the command; then run that."""


@frozen
class Step:
    """One instruction."""

    name: str
    words: str
    """What follows it, on one line."""
    flags: Mapping[str, str] = field(factory=dict)

    @property
    def argv(self) -> list[str]:
        """The words of the form in brackets, or of a shell line."""
        try:
            found = loads(self.words)
        except JSONDecodeError:
            return shlex.split(self.words)
        assert isinstance(found, list)
        return found


def read(file: Path) -> list[Step]:
    """Return the instructions of a Dockerfile."""
    lines = [line for line in file.read_text().splitlines() if not line.lstrip().startswith("#")]
    steps = []
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        if not line.strip():
            continue
        name, _, words = line.strip().partition(" ")
        flags = {}
        while found := re.match(r"\s*--([a-z-]+)=(\S+)", words):
            flags[found[1]] = found[2]
            words = words[found.end() :]
        steps.append(Step(name, words.strip(), flags))
    return steps


@define
class Image:
    """A root folder, and how to run programs in it."""

    root: Path
    binds: Mapping[str, str] = field(factory=dict)
    """Folders of this machine: path there -> path in the image."""
    environ: dict[str, str] = field(factory=dict)
    folder: str = "/"
    user: str = "0:0"
    settings: dict[str, Step] = field(factory=dict)
    """HEALTHCHECK, ENTRYPOINT, CMD and others, as the last one says."""

    def command(self, *argv: str, read_only: bool = False, **environ: str) -> list[str]:
        """Return the command of this machine that runs a program in the image, as process 1 of its own processes."""
        variables = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **self.environ, **environ}
        pairs = [f"{name}={value}" for name, value in variables.items()]
        inside = ["/usr/bin/env", "-i", "-C", self.folder, *pairs, *argv]
        binds = " ".join(f"{here}:{there}" for here, there in self.binds.items())
        how = "ro" if read_only else "rw"
        chroot = ["chroot", f"--userspec={self.user}", str(self.root), *inside]
        # `chroot`, `env` and `sh` replace themselves, so the program is process 1.
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", ENTER, "sh"]
        return [*unshare, str(self.root), binds, how, *chroot]


@define
class Builder:
    """Carries out the instructions of a Dockerfile."""

    context: Path
    """The folder that COPY copies from."""
    base: Path
    """The root folder of the base image."""
    folder: Path
    """Where images are made."""
    environ: Mapping[str, str] = field(factory=dict)
    """Further variables for RUN, as a builder behind a proxy has them."""
    binds: Mapping[str, str] = field(factory=dict)
    _stages: dict[str, Image] = field(factory=dict)

    def build(self, file: Path) -> Image:
        """Build the last stage of a Dockerfile, and return it."""
        arguments: dict[str, str] = {}
        image, known = None, {}
        for step in read(file):
            words = _filled(step.words, {**arguments, **known})
            if step.name == "ARG":
                name, _, value = words.partition("=")
                known[name] = value.strip('"')
                if image is None:
                    arguments[name] = known[name]
            elif step.name == "FROM":
                of, _, name = words.partition(" AS ")
                image, known = self._begin(of, name or "last"), {}
            else:
                assert image is not None
                self._carry_out(step, words, image, known, file)
        assert image is not None
        return image

    def _begin(self, of: str, name: str) -> Image:
        assert of.startswith("debian:"), f"there is no base image {of} here"
        root = self.folder / name
        subprocess.run(["cp", "-a", "--reflink=auto", str(self.base), str(root)], check=True)
        self._stages[name] = Image(root, self.binds)
        return self._stages[name]

    def _carry_out(self, step: Step, words: str, image: Image, known: Mapping[str, str], file: Path) -> None:
        match step.name:
            case "RUN":
                assert step.flags.get("mount", "type=cache").startswith("type=cache")
                script = ["/bin/sh", "-ec", step.words]
                self._run(image.command(*script, **{**known, **self.environ}))
            case "COPY":
                *sources, target = shlex.split(words)
                self._copy(sources, image.root / target.lstrip("/"), step.flags.get("from"), file)
            case "ENV":
                image.environ |= dict(pair.split("=", 1) for pair in shlex.split(words))
            case "USER":
                image.user = words
            case "WORKDIR":
                (image.root / words.lstrip("/")).mkdir(parents=True, exist_ok=True)
                image.folder = words
            case "VOLUME" | "EXPOSE" | "HEALTHCHECK" | "STOPSIGNAL" | "ENTRYPOINT" | "CMD":
                image.settings[step.name] = step
            case _:
                raise AssertionError(f"{step.name} is no instruction that this builder knows")

    def _run(self, command: Sequence[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
        assert done.returncode == 0, f"{done.stdout[-4000:]}{done.stderr[-4000:]}"

    def _copy(self, sources: Sequence[str], target: Path, stage: str | None, file: Path) -> None:
        for source in sources:
            if stage is not None:
                there = self._stages[stage].root / source.lstrip("/")
                subprocess.run(["cp", "-a", str(there), str(target)], check=True)
                continue
            assert source == "."
            rules = file.with_name(f"{file.name}.dockerignore").read_text().splitlines()
            for path in kept(self.context, rules):
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(self.context / path, target / path)


def kept(context: Path, rules: Sequence[str]) -> Iterator[Path]:
    """Yield the files of a context that its ignore file leaves, relative to it; the last rule that fits decides."""
    rules = [rule for rule in rules if rule and not rule.startswith("#")]
    for folder, folders, files in os.walk(context):
        here = Path(folder).relative_to(context)
        folders[:] = [one for one in folders if not ignored(here / one, rules)]
        yield from (here / one for one in files if not ignored(here / one, rules))


def ignored(path: Path, rules: Sequence[str]) -> bool:
    """Whether a path, or a folder that it is in, is ignored."""
    verdict = False
    for rule in rules:
        pattern = rule.removeprefix("!")
        parts = path.parts
        prefixes = ["/".join(parts[: length + 1]) for length in range(len(parts))]
        if pattern.startswith("**/"):
            fits = any(fnmatch(part, pattern.removeprefix("**/")) for part in parts)
        else:
            fits = any(fnmatch(prefix, pattern) for prefix in prefixes if prefix.count("/") == pattern.count("/"))
        if fits:
            verdict = not rule.startswith("!")
    return verdict


def _filled(words: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda found: values.get(found[1], found[0]), words)


@contextmanager
def running(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a command; kill it at the end."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
