"""The files of examples/deploy say what is so: options, variables, users and paths that the program really has."""

import json
import plistlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import attrs
import pytest
import yaml
from click import Context
from dockerfile_for_tests import Step, ignored, kept, read
from hypothesis import given
from hypothesis import strategies as st

from lllms_core.cli import cli
from lllms_core.config import load_config
from lllms_core.config.settings import ServerConfig
from lllms_core.errors import ConfigError

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "examples" / "deploy"
VARIABLES = {f"LLLMS_{one.name.upper()}" for one in attrs.fields(ServerConfig)} | {"LLLMS_PLUGINS", "LLLMS_STRICT"}


def known(argv: Iterable[str]) -> bool:
    """Whether `lllms` understands this command; raises its error if not."""
    command, *arguments = argv
    found = cli.get_command(Context(cli), command)
    return found is not None and found.make_context(command, list(arguments)) is not None


def variables_in(text: str) -> set[str]:
    return set(re.findall(r"\bLLLMS_[A-Z_]+\b", text))


FILES = sorted(path.relative_to(DEPLOY).as_posix() for path in DEPLOY.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", FILES)
def test_variables_are_those_of_the_program(name: str) -> None:
    """Each LLLMS_ variable that a file names is a key of `[server]`."""
    assert variables_in((DEPLOY / name).read_text()) <= VARIABLES


def test_the_readme_explains_each_file() -> None:
    """The README of the folder names each of its files, and no other."""
    text = (DEPLOY / "README.md").read_text()
    files = {*FILES} - {"README.md"}
    assert {name for name in files if f"]({name})" not in text} == set()
    linked = set(re.findall(r"\]\(([^)#:]+)\)", text))
    assert {link for link in linked if not (DEPLOY / link).exists()} == set()


# -- the image --------------------------------------------------------------------------------------------------------


def last(name: str) -> Step:
    """The last instruction of a name."""
    return [step for step in read(DEPLOY / "Dockerfile") if step.name == name][-1]


def test_the_image_runs_as_another_user_and_checks_its_health() -> None:
    """The user is a number other than root's, as Kubernetes demands; the image's commands are commands of ours."""
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last("USER").words)
    assert last("ENTRYPOINT").argv == ["lllms"]
    assert known(last("CMD").argv)
    check = Step("CMD", last("HEALTHCHECK").words.removeprefix("CMD ")).argv
    assert check[0] == "lllms"
    assert known(check[1:])
    assert {"interval", "timeout", "start-period"} <= last("HEALTHCHECK").flags.keys()


def test_the_image_has_no_key_and_wants_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables of the image alone are refused; with a key they are taken, and files go into the volume."""
    monkeypatch.chdir(tmp_path)
    environ = dict(pair.split("=", 1) for pair in shlex.split(last("ENV").words))
    with pytest.raises(ConfigError, match="LLLMS_API_KEYS"):
        load_config(environ=environ)
    config = load_config(environ={**environ, "LLLMS_API_KEYS": "sk-x"})
    assert str(config.server.models_dir).startswith(last("VOLUME").words)
    assert environ["HOME"] == last("VOLUME").words  # where sessions on disk are
    assert last("EXPOSE").words == str(config.server.port)


def test_the_image_builds_from_what_it_is_given() -> None:
    """Its context has the sources and licences of all distributions, and neither tests nor what lies around."""
    rules = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    files = {str(path) for path in kept(ROOT, rules)}
    plugins = [path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml")]
    folders = ["", *(f"plugins/{name}/" for name in plugins)]
    assert {f"{folder}{name}" for folder in folders for name in ("pyproject.toml", "README.md", "LICENSE")} <= files
    assert "lllms_core/py.typed" in files
    assert [one for one in files if "tests/" in one or one.startswith((".", "build", "examples"))] == []
    [offered] = [step.words for step in read(DEPLOY / "Dockerfile") if step.words.startswith("PLUGINS=")]
    assert set(shlex.split(offered.partition("=")[2].strip('"'))) <= set(plugins)


RULES = ("*", "a", "!a", "!a/b", "**/c", "a/b", "!**/c")


@given(st.lists(st.sampled_from(RULES)), st.sampled_from(["a", "b", "a/b", "a/c"]))
def test_the_last_rule_that_fits_decides(rules: list[str], path: str) -> None:
    """A rule for a path or its folder decides unless a later one does, as Docker's ignore files say."""
    assert ignored(Path(path), [*rules, "*"])
    assert not ignored(Path(path), [*rules, f"!{path}"])
    assert ignored(Path(path), [*rules, "!*", path.partition("/")[0]])


# -- compose ----------------------------------------------------------------------------------------------------------


def test_compose_has_a_volume_a_key_and_a_check() -> None:
    """The service keeps its data in a volume at the image's place, gets its keys as a secret, and checks its health."""
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    [service] = compose["services"].values()
    assert f"data:{last('VOLUME').words}" in service["volumes"]
    assert service["environment"]["LLLMS_API_KEYS_FILE"] == f"/run/secrets/{service['secrets'][0]}"
    assert service["healthcheck"]["test"] == ["CMD", "lllms", "health"]
    assert (DEPLOY / service["build"]["context"]).resolve() == ROOT
    assert (ROOT / service["build"]["dockerfile"]).is_file()
    assert float(service["stop_grace_period"].rstrip("s")) > ServerConfig().shutdown_timeout
    [cuda] = yaml.safe_load((DEPLOY / "compose.cuda.yaml").read_text())["services"].values()
    arguments = [step.words.partition("=")[0] for step in read(DEPLOY / "Dockerfile") if step.name == "ARG"]
    assert cuda["build"]["args"].keys() <= set(arguments)
    told = (DEPLOY / "Dockerfile").read_text()
    assert all(f"{name}={value}" in told.replace('"', "") for name, value in cuda["build"]["args"].items())


def compose_command() -> list[str]:
    """The command of Docker's compose, if there is one."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) is None:
            continue
        if subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0:
            return command
    return []


@pytest.mark.slow
@pytest.mark.skipif(not compose_command(), reason="docker compose is not installed")
def test_compose_accepts_its_files() -> None:
    """Docker's own checks take the file alone, and with that for GPUs, which then has a GPU."""
    files = ["-f", str(DEPLOY / "compose.yaml")]
    for more in ([], ["-f", str(DEPLOY / "compose.cuda.yaml")]):
        command = [*compose_command(), *files, *more, "config"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        [service] = yaml.safe_load(done.stdout)["services"].values()
        assert service["image"] == ("lllms:cuda" if more else "lllms")


# -- systemd ----------------------------------------------------------------------------------------------------------


def unit(name: str) -> dict[str, list[tuple[str, str]]]:
    """The sections of a unit, with all the values of a key."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for line in (DEPLOY / name).read_text().splitlines():
        if line.startswith("["):
            lines = sections.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            lines.append((key, value))
    return sections


def test_the_unit_starts_what_there_is() -> None:
    """ExecStart is a command of ours, more time is left for the end than the server takes, and it is `notify`."""
    service = dict(unit("lllms.service")["Service"])
    program, *arguments = service["ExecStart"].split()
    assert program.endswith("/lllms")
    assert known(arguments)
    assert service["Type"] == "notify"
    assert float(service["TimeoutStopSec"]) > ServerConfig().shutdown_timeout + 2 * 3
    assert service["OOMPolicy"] == "continue"
    assert service.get("ProcSubset", "all") == "all"  # /proc/meminfo is read


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    """`systemd-analyze verify` finds nothing wrong with the units, and `security` counts the service as safe."""
    for name in ("lllms.service", "lllms.socket"):
        text = (DEPLOY / name).read_text()
        # The program is not installed here: another one stands in for it.
        (tmp_path / name).write_text(text.replace("/opt/lllms/bin/lllms", "/bin/true"))
    (tmp_path / "lllms.service.d").mkdir()
    shutil.copy(DEPLOY / "gpu.conf", tmp_path / "lllms.service.d")
    for paths in (["lllms.service", "lllms.socket"], ["lllms.service"]):
        verified = subprocess.run(
            ["systemd-analyze", "verify", *(str(tmp_path / path) for path in paths)],
            capture_output=True, text=True, check=False,
        )
        assert (verified.returncode, verified.stderr) == (0, "")
        shutil.rmtree(tmp_path / "lllms.service.d", ignore_errors=True)
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--json=short", "--threshold=20", tmp_path / "lllms.service"],
        capture_output=True, text=True, check=False,
    )
    assert judged.returncode == 0, judged.stdout  # an exposure of at most 2.0 of 10
    assert json.loads(judged.stdout)


# -- launchd ----------------------------------------------------------------------------------------------------------


def test_the_plist_starts_what_there_is() -> None:
    """The property list is valid, has the keys that launchd knows in their types, and starts a command of ours."""
    with (DEPLOY / "lllms.plist").open("rb") as file:
        job = plistlib.load(file)
    program, *arguments = job["ProgramArguments"]
    assert program.endswith("/lllms")
    assert known(arguments)
    kinds = {
        "Label": str, "UserName": str, "ProgramArguments": list, "WorkingDirectory": str, "EnvironmentVariables": dict,
        "RunAtLoad": bool, "KeepAlive": dict, "ExitTimeOut": int, "ProcessType": str, "SoftResourceLimits": dict,
        "StandardOutPath": str, "StandardErrorPath": str, "Umask": int,
    }
    assert {key: type(value) for key, value in job.items()} == kinds
    assert job["KeepAlive"] == {"SuccessfulExit": False}
    assert job["ExitTimeOut"] > ServerConfig().shutdown_timeout
    assert job["Umask"] == 0o077


# -- distributions ----------------------------------------------------------------------------------------------------


def test_each_distribution_has_the_licence() -> None:
    """Each plugin has the same licence file as the core, in its own folder, where its wheel finds it."""
    plugins = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
    assert plugins
    assert {(path / "LICENSE").read_bytes() for path in plugins} == {(ROOT / "LICENSE").read_bytes()}
