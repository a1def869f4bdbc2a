"""The image of examples/deploy/Dockerfile: its steps are really carried out, and its server really runs.

`make deploy` runs it: it needs root, debootstrap, Debian's packages and PyPI, and some minutes. The base image is a
Debian that debootstrap makes in build/deploy; llama.cpp comes from a wheel that pip has compiled before.
"""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import httpx
import psutil
import pytest
from dockerfile_for_tests import Builder, Image, Step, running
from waits_for_tests import GUARD, poll

ROOT = Path(__file__).parent.parent
BUILT = ROOT / "build" / "deploy"
KEY = "sk-of-the-image"


def missing() -> str:
    """Why the image cannot be built here; empty if it can."""
    if os.name != "posix" or os.geteuid() != 0:
        return "only root may change the root folder"
    programs = [one for one in ("debootstrap", "unshare", "nsenter") if shutil.which(one) is None]
    return f"not installed: {', '.join(programs)}" if programs else ""


pytestmark = [pytest.mark.deploy, pytest.mark.skipif(bool(missing()), reason=missing())]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The image, built by the steps of the Dockerfile."""
    base, wheels = BUILT / "bookworm", BUILT / "wheels"
    if not base.exists():
        BUILT.mkdir(parents=True, exist_ok=True)
        partial = BUILT / "bookworm.part"
        shutil.rmtree(partial, ignore_errors=True)
        subprocess.run(["debootstrap", "--variant=minbase", "bookworm", str(partial)], check=True, capture_output=True)
        partial.rename(base)
    wanted = f"llama-cpp-python=={version('llama-cpp-python')}"
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), wanted]
    subprocess.run(wheel, check=True, capture_output=True)
    (wheels / "constraints.txt").write_text(f"{wanted}\n")
    pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    pip |= {"PIP_FIND_LINKS": "/host/wheels", "PIP_CONSTRAINT": "/host/wheels/constraints.txt"}
    if "PIP_CERT" in pip:
        pip["PIP_CERT"] = f"/host/certificates/{Path(pip['PIP_CERT']).name}"
    binds = {str(wheels): "/host/wheels", "/etc/ssl/certs": "/host/certificates"}
    folder = tmp_path_factory.mktemp("image")
    yield Builder(ROOT, base, folder, pip, binds).build(ROOT / "examples" / "deploy" / "Dockerfile")
    shutil.rmtree(folder)


@contextmanager
def container(image: Image, folder: Path, **environ: str) -> Iterator[tuple[str, psutil.Process, Callable[..., str]]]:
    """Run the image with a new volume and a read-only root; yields its URL, process 1, and a way to run programs."""
    volume = folder / "volume"
    volume.mkdir()
    os.chown(volume, 10001, 10001)
    image.binds = {str(volume): image.settings["VOLUME"].words}
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
    argv = [*image.settings["ENTRYPOINT"].argv, *image.settings["CMD"].argv]
    with running(image.command(*argv, read_only=True, LLLMS_PORT=port, **environ)) as process:
        poll(lambda: process.poll() is not None or psutil.Process(process.pid).children())
        [first] = psutil.Process(process.pid).children() or [psutil.Process(process.pid)]

        def inside(*command: str) -> str:
            """Run a program in the container as its user, with its variables."""
            variables = [f"{name}={value}" for name, value in {**image.environ, "LLLMS_PORT": port, **environ}.items()]
            user, _, group = image.user.partition(":")
            enter = ["nsenter", "--target", str(first.pid), "--mount", "--pid", "--root", f"--wdns={image.folder}",
                     f"--setuid={user}", f"--setgid={group}", "/usr/bin/env", "-i", *variables, *command]
            done = subprocess.run(enter, capture_output=True, text=True, check=False, timeout=GUARD)
            return f"{done.returncode} {done.stdout}{done.stderr}".strip()

        yield f"http://127.0.0.1:{port}", first, inside
        if first.is_running() and process.poll() is None:
            first.terminate()
            out, errors = process.communicate(timeout=GUARD)
            assert process.returncode == 0, f"{out}{errors}"


def test_the_image_serves_with_a_key_and_stops_in_order(image: Image, tmp_path: Path) -> None:
    """As user 10001, with a read-only root, it is healthy by its own check, wants a key, and llama.cpp answers."""
    with container(image, tmp_path, LLLMS_API_KEYS=KEY) as (url, first, inside):
        check = Step("CMD", image.settings["HEALTHCHECK"].words.removeprefix("CMD ")).argv
        poll(lambda: inside(*check) == "0 ok")
        assert set(first.uids()) == {10001}
        assert inside("readlink", "/proc/1/exe").startswith("0 /usr/bin/python3")
        asked = [{"role": "user", "content": "lets count to 10"}]
        question = {"model": "tiny-chat", "temperature": 0, "messages": asked}
        assert httpx.post(f"{url}/v1/chat/completions", json=question).status_code == 401
        answer = httpx.post(
            f"{url}/v1/chat/completions", json=question, headers={"Authorization": f"Bearer {KEY}"}, timeout=GUARD,
        )
        assert "1, 2, 3, 4, 5" in answer.json()["choices"][0]["message"]["content"]
        assert inside("sh", "-c", "touch /opt/lllms/x").startswith("1 ")
    assert (tmp_path / "volume" / "models").is_dir()  # it could write into its volume


def test_the_image_refuses_to_serve_without_a_key(image: Image) -> None:
    """Without keys the container ends, and names the variable that it lacks."""
    argv = [*image.settings["ENTRYPOINT"].argv, *image.settings["CMD"].argv]
    done = subprocess.run(image.command(*argv), capture_output=True, text=True, timeout=GUARD, check=False)
    assert done.returncode == 1
    assert "LLLMS_API_KEYS" in done.stderr


def test_the_image_holds_no_compiler(image: Image) -> None:
    """What only builds stays in the first stage, and the sources with it."""
    assert not (image.root / "usr/bin/g++").exists()
    assert not (image.root / "source").exists()
    assert (image.root / "opt/lllms/bin/lllms").exists()
