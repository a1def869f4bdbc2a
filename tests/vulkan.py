"""Run the llama.cpp engine's tests on a GPU in software: llama.cpp with Vulkan, on Mesa's driver for the processor.

    python tests/vulkan.py            # make vulkan: sets everything up in build/vulkan, once, then runs the tests
    python tests/vulkan.py --build    # only sets it up

Only ggml, the part of llama.cpp that differs, is compiled, from the source of the version that is installed; its
shaders take most of that time. `CMAKE_BUILD_PARALLEL_LEVEL` sets the number of jobs. Debian's packages are
installed if this is root; where its Vulkan headers are too old, those of a newer Debian are unpacked, not installed.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "build" / "vulkan"
PYTHON = FOLDER / "venv" / "bin" / "python"
PACKAGES = ("libvulkan-dev", "glslc", "spirv-headers", "mesa-vulkan-drivers", "cmake", "ninja-build", "g++")
TOOLS = ("gguf", "hypothesis", "numpy", "openai", "psutil", "pytest", "pytest-asyncio")
HEADERS = 272
"""ggml needs the headers of Vulkan 1.3.272 or newer, for layer settings."""
NEWER = "trixie"
"""A Debian that has newer headers, in the package `libvulkan-dev`."""
TESTS = (
    "offload", "layout", "device_memory", "devices", "hardware", "answers", "slots", "sessions", "channels",
    "choices", "constraints", "embeddings", "recurrent", "reuse", "drafts",
)
"""The engine's tests that run there, beside those that are only for it."""
ENVIRONMENT = {
    # ggml passes over drivers for the processor unless it is told to use one.
    "GGML_VK_VISIBLE_DEVICES": "0",
    "TESTS_ON_VULKAN": "1",
}


def run(*command: str | Path, **environment: str) -> None:
    """Run a program, with these variables; its failure ends this one."""
    done = subprocess.run([str(part) for part in command], check=False, env={**os.environ, **environment})
    if done.returncode:
        sys.exit(f"{command[0]} failed with status {done.returncode}")


def output(*command: str | Path) -> str:
    """Run a program and return what it prints."""
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout


def packages() -> None:
    """Install Debian's packages, or say which are needed."""
    lacking = [name for name in PACKAGES if not _installed(name)]
    if not lacking:
        return
    if os.geteuid() or shutil.which("apt-get") is None:
        sys.exit(f"these packages are needed: sudo apt-get install {' '.join(lacking)}")
    run("apt-get", "update", "-qq")
    run("apt-get", "install", "-qq", "-y", "--no-install-recommends", *lacking, DEBIAN_FRONTEND="noninteractive")


def _installed(name: str) -> bool:
    done = subprocess.run(["dpkg-query", "-W", "-f", "${Status}", name], check=False, capture_output=True, text=True)
    return done.stdout.endswith(" installed")


def headers() -> Path:
    """Return a folder with Vulkan headers that are new enough."""
    system, unpacked = Path("/usr/include"), FOLDER / "headers" / "usr" / "include"
    if _revision(system) >= HEADERS:
        return system
    if not unpacked.exists():
        _unpack_newer_headers(FOLDER / "headers")
    if _revision(unpacked) < HEADERS:
        sys.exit(f"the Vulkan headers in {unpacked} are too old: 1.3.{HEADERS} is needed")
    return unpacked


def _revision(folder: Path) -> int:
    """Return the third number of the headers' version; a large one from 1.4 on, 0 without headers."""
    file = folder / "vulkan" / "vulkan_core.h"
    text = file.read_text() if file.exists() else ""
    minor = re.search(r"VK_HEADER_VERSION_COMPLETE VK_MAKE_API_VERSION\(0, 1, (\d+),", text)
    revision = re.search(r"#define VK_HEADER_VERSION (\d+)", text)
    return 0 if minor is None or revision is None else int(revision[1]) + 1000 * (int(minor[1]) - 3)


def _unpack_newer_headers(folder: Path) -> None:
    """Download a package of a newer Debian from where this system gets its own, and unpack it here."""
    lists = folder / "lists"
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    source = folder / "newer.list"
    source.write_text(f"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {_mirror()} {NEWER} main\n")
    options = (
        "-o", f"Dir::Etc::sourcelist={source}", "-o", "Dir::Etc::sourceparts=-", "-o", f"Dir::State::lists={lists}",
        "-o", f"Dir::Cache={folder}",
    )
    run("apt-get", *options, "update", "-qq")
    subprocess.run(["apt-get", *options, "download", "libvulkan-dev"], check=True, cwd=folder)
    [package] = folder.glob("libvulkan-dev_*.deb")
    run("dpkg-deb", "-x", package, folder)


def _mirror() -> str:
    """Return the address of Debian's archive that this system uses."""
    for file in [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]:
        text = file.read_text() if file.exists() else ""
        found = re.search(r"^(?:URIs:\s*|deb\s+(?:\[.*?\]\s*)?)(\S+/debian)/?\s", text, re.MULTILINE)
        if found:
            return found[1]
    sys.exit("no Debian archive is configured, from which to get newer Vulkan headers")


def source() -> Path:
    """Return the folder of llama-cpp-python's source, of the version that is installed in .venv."""
    wanted = version("llama-cpp-python")
    folder = FOLDER / f"llama_cpp_python-{wanted}"
    if not folder.exists():
        run(
            sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python", "-d",
            FOLDER, f"llama-cpp-python=={wanted}",
        )
        with tarfile.open(FOLDER / f"llama_cpp_python-{wanted}.tar.gz") as archive:
            archive.extractall(FOLDER, filter="data")
    return folder


def shader_compiler() -> Path:
    """Return a glslc that does not optimise: that takes most of the time, and the driver does it anyway."""
    wrapper = FOLDER / "glslc"
    wrapper.write_text(
        '#!/usr/bin/env bash\nfor one in "$@"; do [ "$one" = -O ] || kept+=("$one"); done\n'
        f'exec {shutil.which("glslc")} "${{kept[@]}}"\n',
    )
    wrapper.chmod(0o755)
    return wrapper


def libraries(include: Path) -> Path:
    """Compile ggml with Vulkan, unless that is done, and return the folder of its libraries."""
    built = FOLDER / "ggml"
    if (built / "done").exists():
        return built / "bin"
    jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or str(os.cpu_count() or 1)
    run(
        "cmake", "-G", "Ninja", "-S", source() / "vendor" / "llama.cpp", "-B", built,
        "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=on", "-DGGML_VULKAN=on", "-DLLAMA_BUILD_COMMON=off",
        "-DLLAMA_BUILD_TESTS=off", "-DLLAMA_BUILD_TOOLS=off", "-DLLAMA_BUILD_EXAMPLES=off",
        f"-DVulkan_INCLUDE_DIR={include}",
        f"-DVulkan_GLSLC_EXECUTABLE={shader_compiler()}",
        f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={built / 'bin'}", "-DCMAKE_BUILD_WITH_INSTALL_RPATH=on",
        "-DCMAKE_INSTALL_RPATH=$ORIGIN",
    )
    run("cmake", "--build", built, "--parallel", jobs, "--target", "ggml")
    (built / "done").touch()
    return built / "bin"


def environment(built: Path) -> None:
    """Make the environment of the tests: that of .venv, with the libraries in the place of those for the processor."""
    if not PYTHON.exists():
        venv.create(FOLDER / "venv", with_pip=True)
    install = [PYTHON, "-m", "pip", "install", "--quiet"]
    run(*install, f"llama-cpp-python=={version('llama-cpp-python')}")
    run(*install, *TOOLS, "-e", ROOT, "-e", ROOT / "plugins/lllms-mock", "-e", ROOT / "plugins/lllms-llamacpp")
    package = Path(output(PYTHON, "-c", "import importlib.util as u; print(u.find_spec('llama_cpp').origin)").strip())
    for file in built.glob("lib*.so*"):
        target = package.parent / "lib" / file.name
        target.unlink(missing_ok=True)
        shutil.copy2(file, target)


def test(arguments: Sequence[str]) -> int:
    """Run the tests; return the status of pytest."""
    # The one driver twice, so that there are two GPUs.
    twice = {**ENVIRONMENT, "GGML_VK_VISIBLE_DEVICES": "0,0"}
    return _pytest(["vulkan"], arguments, twice) or _pytest(TESTS, arguments, ENVIRONMENT)


def _pytest(names: Sequence[str], arguments: Sequence[str], variables: Mapping[str, str]) -> int:
    folder = ROOT / "plugins" / "lllms-llamacpp" / "tests"
    files = [str(folder / f"test_llamacpp_{name}.py") for name in names]
    command = [str(PYTHON), "-m", "pytest", "-m", "not chaos", "-p", "no:cacheprovider", *files, *arguments]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **variables}, check=False).returncode


def main(arguments: Sequence[str]) -> None:
    """Set up, then test."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    packages()
    environment(libraries(headers()))
    if "--build" not in arguments:
        sys.exit(test(arguments))


if __name__ == "__main__":
    main(sys.argv[1:])
