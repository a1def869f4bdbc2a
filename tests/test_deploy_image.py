"""The image and the service of examples/deploy: the Dockerfile is carried out, its server and the unit really run.

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
DEPLOY = ROOT / "examples" / "deploy"
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
    yield Builder(ROOT, base, folder, pip, binds).build(DEPLOY / "Dockerfile")
    shutil.rmtree(folder)


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as other:
        return str(other.getsockname()[1])


def count(url: str, key: str) -> httpx.Response:
    """Ask tiny-chat to count."""
    asked = [{"role": "user", "content": "lets count to 10"}]
    question = {"model": "tiny-chat", "temperature": 0, "messages": asked}
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.post(f"{url}/v1/chat/completions", json=question, headers=headers, timeout=GUARD)


def is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=GUARD).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def container(image: Image, folder: Path, **environ: str) -> Iterator[tuple[str, psutil.Process, Callable[..., str]]]:
    """Run the image with a new volume and a read-only root; yields its URL, process 1, and a way to run programs."""
    volume = folder / "volume"
    volume.mkdir()
    os.chown(volume, 10001, 10001)
    image.binds = {str(volume): image.settings["VOLUME"].words}
    port = free_port()
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
        assert count(url, "sk-other").status_code == 401
        assert "1, 2, 3, 4, 5" in count(url, KEY).text
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


def is_systemd(process: psutil.Process) -> bool:
    """Whether a process is a systemd; nspawn's children come and go."""
    try:
        return process.name() == "systemd" and "/systemd" in process.exe()
    except psutil.NoSuchProcess:
        return False


@contextmanager
def booted(root: Path) -> Iterator[Callable[..., str]]:
    """Boot the systemd of a root folder, on this machine's network; yields a way to run programs there."""
    argv = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot", f"--directory={root}"]
    with running(argv) as process:
        first: list[psutil.Process] = []
        while not first:
            if process.poll() is not None:
                pytest.skip(f"systemd does not boot here: {process.communicate()[1]}")
            children = psutil.Process(process.pid).children(recursive=True)
            first = [one for one in children if is_systemd(one)]

        def inside(*command: str) -> str:
            enter = ["nsenter", "--target", str(first[0].pid), "--mount", "--pid", "--uts", "--ipc", "--root", "--wd"]
            done = subprocess.run([*enter, *command], capture_output=True, text=True, check=False, timeout=2 * GUARD)
            return f"{done.stdout}{done.stderr}".strip()

        yield inside
        inside("systemctl", "poweroff")
        process.communicate(timeout=GUARD)


@pytest.mark.skipif(shutil.which("systemd-nspawn") is None, reason="not installed: systemd-container")
def test_the_service_runs_under_systemd(image: Image, tmp_path: Path) -> None:
    """A real systemd takes the unit with all its restrictions: it serves with the credential, and stops in order.

    With the socket unit, the first client starts it.
    """
    root, ports = tmp_path / "root", [free_port(), free_port()]
    subprocess.run(["cp", "-a", "--reflink=auto", str(image.root), str(root)], check=True)
    install = "DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends systemd-sysv dbus"
    script = f"apt-get update; {install}"
    subprocess.run(Image(root).command("sh", "-ec", script), check=True, capture_output=True)
    units, settings = root / "etc/systemd/system", root / "etc/lllms"
    shutil.copy(DEPLOY / "lllms.service", units)
    text = (DEPLOY / "lllms.socket").read_text()
    (units / "lllms.socket").write_text(text.replace("127.0.0.1:3000", f"127.0.0.1:{ports[1]}"))
    (settings / "lllms.toml").write_text(f"[server]\nport = {ports[0]}\n")
    (settings / "keys").write_text(f"laptop: {KEY}\n")
    (settings / "keys").chmod(0o600)
    with booted(root) as inside:
        poll(lambda: inside("systemctl", "start", "lllms") == "", pause=0.5)  # refused until systemd is up
        url = f"http://127.0.0.1:{ports[0]}"
        assert is_healthy(url)  # it is ready when `start` returns
        assert count(url, "sk-other").status_code == 401
        assert "1, 2, 3, 4, 5" in count(url, KEY).text
        assert inside("systemctl", "show", "-pStatusText", "lllms") == f"StatusText=Listening on {url}"
        status = inside("sh", "-c", "cat /proc/$(systemctl show -pMainPID --value lllms)/status")
        assert "Uid:\t0" not in status
        assert "CapEff:\t0000000000000000" in status
        assert "Seccomp:\t2" in status
        assert inside("systemctl", "stop", "lllms") == ""
        assert inside("systemctl", "show", "-pResult", "lllms") == "Result=success"
        assert inside("systemctl", "start", "lllms.socket") == ""
        url = f"http://127.0.0.1:{ports[1]}"
        assert is_healthy(url)  # the first client waits until it is served
        assert "1, 2, 3, 4, 5" in count(url, KEY).text
    assert (root / "var/lib/private/lllms/models").is_dir()
