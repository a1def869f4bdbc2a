"""Check the llama.cpp engine on a real NVIDIA GPU, in less than 15 minutes, and print the ratios for the README.

    python tests/gpu_check.py --plan            # only print the steps, and the longest time of each
    python tests/gpu_check.py --pack FOLDER     # with a network: gather there what the check needs
    python tests/gpu_check.py --from FOLDER     # on the machine with the GPU, which needs no network then

The machine has nvcc, CMake, ninja, a C++ compiler and Python. llama.cpp is compiled once, with CUDA for this GPU alone,
as the library of llama-cpp-python and as llama-server, so that both sides of the comparison are the same build. A step
that takes longer than its time is stopped, and the next ones use what there is; the status is 1 if any failed.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import time
import tomllib
import venv
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from attrs import define, field

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "build" / "gpu"
BUILT = FOLDER / "llama"
PYTHON = FOLDER / "venv" / "bin" / "python"
MODEL = FOLDER / "random-1b.gguf"
RESULTS = Path(os.environ.get("OUT") or FOLDER)
"""Where the results go: a folder that brings them home, or the build's."""
LONGEST = 15 * 60
CLIENTS = (1, 8, 32)
BACKEND = ("hatchling", "hatch-fancy-pypi-readme", "editables")
"""What builds our distributions."""
TOOLS = (
    "diskcache", "gguf", "hypothesis", "jinja2", "llguidance", "numpy", "psutil", "pytest", "pytest-asyncio",
    "typing-extensions",
)
"""What the engine, llama_cpp's Python part, and the tests need."""
OURS = (ROOT, ROOT / "plugins" / "lllms-mock", ROOT / "plugins" / "lllms-llamacpp")
NOT_COMPILED = re.compile(r"[^/]+/vendor/llama\.cpp/(docs|models|tests|benches|media)/")
PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_27_x86_64", "manylinux_2_28_x86_64")
CORE = ("offload", "devices", "hardware", "answers", "slots", "sessions", "drafts", "embeddings")
"""The engine's tests that are worth their time on a GPU."""
WRITE_MODEL = (
    "from pathlib import Path; from lllms_core.bench.random_model import SHAPES, write; "
    f"write(Path({str(MODEL)!r}), SHAPES['1b'])"
)


@define
class Step:
    """A part of the check."""

    name: str
    seconds: int
    """The longest that it may take."""
    commands: Callable[[], Sequence[Sequence[str | Path]]]
    """What to run, one after the other; decided when the step begins."""
    then: Callable[[], None] = lambda: None
    background: bool = False
    """Whether the next step begins at once; it is awaited by `wait_for`."""
    running: "subprocess.Popen[bytes] | None" = field(default=None, init=False)


def wanted_version() -> str:
    """Return the version of llama-cpp-python to check: the installed one, or the lowest that the plugin takes."""
    try:
        return version("llama-cpp-python")
    except PackageNotFoundError:
        table = tomllib.loads((ROOT / "plugins/lllms-llamacpp/pyproject.toml").read_text())["project"]
        [line] = [one for one in table["dependencies"] if one.startswith("llama-cpp-python")]
        return line.partition(">=")[2].partition(",")[0]


def install(packed: Path | None) -> list[list[str | Path]]:
    """Return the commands that make the environment, with packages from a folder if there is one."""
    source = [] if packed is None else ["--no-index", "--find-links", packed]
    pip: list[str | Path] = [PYTHON, "-m", "pip", "install", "--quiet", *source]
    # Without llama-cpp-python, whose library is compiled beside: only the Python part of the package is used.
    ours = [part for folder in OURS for part in ("-e", folder)]
    return [[*pip, *BACKEND, *TOOLS, *needed()], [*pip, "--no-build-isolation", "--no-deps", *ours]]


def needed() -> list[str]:
    """Return what lllms-core depends on."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return list(project["dependencies"])


def compile_llama() -> list[list[str | Path]]:
    """Return the commands that compile llama.cpp with CUDA, as a library and as a server."""
    source = FOLDER / f"llama_cpp_python-{wanted_version()}" / "vendor" / "llama.cpp"
    jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or str(os.cpu_count() or 1)
    return [
        [
            "cmake", "-G", "Ninja", "-S", source, "-B", BUILT, "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=on",
            "-DGGML_CUDA=on", "-DCMAKE_CUDA_ARCHITECTURES=native", "-DLLAMA_BUILD_TESTS=off", "-DLLAMA_CURL=off",
            "-DLLAMA_BUILD_EXAMPLES=off", "-DLLAMA_BUILD_TOOLS=on", "-DLLAMA_BUILD_SERVER=on",
            "-DCMAKE_BUILD_WITH_INSTALL_RPATH=on", "-DCMAKE_INSTALL_RPATH=$ORIGIN",
        ],
        ["cmake", "--build", BUILT, "--parallel", jobs, "--target", "llama", "mtmd", "llama-server"],
    ]


def put_in_place() -> None:
    """Make llama_cpp of the Python sources and the compiled libraries."""
    name = wanted_version()
    [site] = (FOLDER / "venv" / "lib").glob("python*/site-packages")
    shutil.copytree(FOLDER / f"llama_cpp_python-{name}" / "llama_cpp", site / "llama_cpp", dirs_exist_ok=True)
    for file in (BUILT / "bin").glob("lib*.so*"):
        (site / "llama_cpp" / "lib").mkdir(exist_ok=True)
        shutil.copy2(file, site / "llama_cpp" / "lib" / file.name)
    # The names of a wheel, by which the plugin finds its version.
    told = site / f"llama_cpp_python-{name}.dist-info"
    told.mkdir(exist_ok=True)
    (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: llama-cpp-python\nVersion: {name}\n")


def unpack(packed: Path | None) -> None:
    """Unpack the source of llama-cpp-python, from the folder or the registry."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    name = wanted_version()
    if (FOLDER / f"llama_cpp_python-{name}").exists():
        return
    if packed is None:
        download(FOLDER)
        packed = FOLDER
    with tarfile.open(packed / f"llama_cpp_python-{name}.tar.gz") as archive:
        archive.extractall(FOLDER, filter="data")


def download(folder: Path) -> None:
    """Get the source of llama-cpp-python."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python"]
    subprocess.run([*command, "-d", str(folder), f"llama-cpp-python=={wanted_version()}"], check=True)


def slim(archive: Path) -> None:
    """Leave out of a source what is not compiled, which is most of it."""
    smaller = archive.with_suffix(".slim")
    with tarfile.open(archive) as whole, tarfile.open(smaller, "w:gz") as kept:
        for member in whole:
            if not NOT_COMPILED.match(member.name):
                kept.addfile(member, whole.extractfile(member) if member.isfile() else None)
    smaller.replace(archive)


def pack(folder: Path, python: str) -> None:
    """Gather what the check needs where there is no network, for this version of Python, on Linux and x86-64."""
    folder.mkdir(parents=True, exist_ok=True)
    download(folder)
    slim(folder / f"llama_cpp_python-{wanted_version()}.tar.gz")
    wheels = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:", "--python-version", python]
    platforms = [part for one in PLATFORMS for part in ("--platform", one)]
    subprocess.run([*wheels, *platforms, "-d", str(folder), *BACKEND, *TOOLS, *needed()], check=True)
    print(f"{folder}: {sum(file.stat().st_size for file in folder.iterdir()) / 1e6:.0f} MB")


def compare() -> list[list[str | Path]]:
    """Return the comparison with llama-server, of the same build, which gets as much room as our server."""
    server = BUILT / "bin" / "llama-server"
    peer = f"{server} -m {{file}} --host 127.0.0.1 --port {{port}} -ngl 99 -np {max(CLIENTS)} -c {max(CLIENTS) * 2048}"
    clients = ",".join(map(str, CLIENTS))
    return [[
        PYTHON, "-m", "lllms_core", "bench", "--raw", MODEL, "--clients", clients, "--rounds", "2", "--peer", peer,
        "--json", RESULTS / "gpu-bench.json",
    ]]


def tests() -> list[list[str | Path]]:
    """Return the core of the engine's tests."""
    folder = ROOT / "plugins" / "lllms-llamacpp" / "tests"
    files = [folder / f"test_llamacpp_{name}.py" for name in CORE]
    return [[PYTHON, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files]]


def lines(figures: Sequence[dict[str, Any]]) -> list[str]:
    """Return the README's lines, from the figures of the comparison."""
    found = ["| on a GPU | this server | the other | ratio |", "|---|---|---|---|"]
    for one in figures:
        ours, reference, ratios = (one[name] for name in ("ours", "reference", "ratios"))
        found.append(
            f"| {one['what']} | {median(ours):.0f} {one['unit']} | {median(reference):.0f} {one['unit']} |"
            f" {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |",
        )
    return found


def report() -> None:
    """Print the README's lines."""
    table = lines(json.loads((RESULTS / "gpu-bench.json").read_text()))
    (RESULTS / "gpu-readme.md").write_text("\n".join(table) + "\n")
    print("\n".join(table))


def steps(packed: Path | None) -> list[Step]:
    """Return the steps, in order."""
    def environment() -> Sequence[Sequence[str | Path]]:
        if not PYTHON.exists():
            venv.create(FOLDER / "venv", with_pip=True)
        return install(packed)

    def prepare() -> Sequence[Sequence[str | Path]]:
        unpack(packed)
        return compile_llama()

    return [
        Step("look at the GPU and the tools", 20, lambda: [["nvidia-smi"], ["nvcc", "--version"], ["cmake", "--help"]]),
        Step("install lllms and its tests", 90, environment),
        Step("write a model of random weights, 1B", 240, lambda: [[PYTHON, "-c", WRITE_MODEL]], background=True),
        Step("compile llama.cpp with CUDA, and llama-server", 420, prepare, put_in_place),
        Step("the engine's tests", 120, tests),
        Step("compare with the raw loop and llama-server", 240, compare, report),
    ]


def run(step: Step, left: float) -> bool:
    """Run a step within its time; whether it succeeded."""
    end = time.monotonic() + min(step.seconds, left)
    for command in step.commands():
        words = [str(word) for word in command]
        print(f"$ {shlex.join(words)}", flush=True)
        if step.background:
            step.running = subprocess.Popen(words, cwd=ROOT)
            return True
        try:
            done = subprocess.run(words, cwd=ROOT, check=False, timeout=max(1.0, end - time.monotonic()))
        except (subprocess.TimeoutExpired, OSError) as error:
            print(f"{step.name}: {error}", flush=True)
            return False
        if done.returncode:
            return False
    step.then()
    return True


def check(packed: Path | None) -> bool:
    """Run all steps; whether all succeeded."""
    start, good = time.monotonic(), True
    behind: list[Step] = []
    for step in steps(packed):
        if step.name.startswith("compare"):
            good = all([good, *(one.running is not None and one.running.wait(step.seconds) == 0 for one in behind)])
        began = time.monotonic()
        succeeded = run(step, LONGEST - (began - start))
        behind += [step] if step.background else []
        print(f"{'done' if succeeded else 'FAILED'} in {time.monotonic() - began:.0f} s: {step.name}", flush=True)
        good = good and succeeded
    return good


def plan(packed: Path | None) -> None:
    """Print the steps."""
    for step in steps(packed):
        print(f"{step.seconds:4} s  {step.name}{' (beside the next step)' if step.background else ''}")
    longest = sum(step.seconds for step in steps(packed) if not step.background)
    print(f"{longest:4} s  at most, of {LONGEST}; this is only the plan: nothing was run, and no GPU was looked for")


def read(arguments: Sequence[str]) -> Namespace:
    """Read the command line."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--plan", action="store_true", help="only print the steps")
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="gather what the check needs without a network")
    parser.add_argument(
        "--python", default=f"{sys.version_info.major}.{sys.version_info.minor}", metavar="VERSION",
        help="the Python there, for --pack; by default this one's",
    )
    parser.add_argument("--from", dest="packed", type=Path, metavar="FOLDER", help="a folder that --pack made")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says; return the status."""
    given = read(arguments)
    if given.plan:
        plan(given.packed)
    elif given.pack:
        pack(given.pack, given.python)
    else:
        return 0 if check(given.packed) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
