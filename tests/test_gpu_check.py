"""The check of a real GPU, as far as it can be tested without one: its plan, its commands, its lines."""

import tarfile
from io import BytesIO

import gpu_check
import pytest


def test_the_plan_fits_into_its_time(capsys):
    """The longest times of all steps together are less than fifteen minutes, and the plan says that it ran nothing."""
    assert gpu_check.main(["--plan"]) == 0
    told = capsys.readouterr().out
    assert "nothing was run" in told
    *_, last = told.splitlines()
    assert int(last.split()[0]) <= gpu_check.LONGEST == 15 * 60


def test_the_comparison_has_both_sides_of_one_build(tmp_path):
    """llama-server is the one that is compiled, with as many slots as there are clients, and all layers on the GPU."""
    [command] = gpu_check.compare()
    words = [str(word) for word in command]
    peer = words[words.index("--peer") + 1]
    assert peer.startswith(f"{gpu_check.BUILT}/bin/llama-server ")
    assert "-ngl 99 -np 32 " in peer
    assert words[words.index("--clients") + 1] == "1,8,32"
    [_, build] = gpu_check.compile_llama()
    assert "llama-server" in build


def test_the_lines_for_the_readme():
    """A comparison is a line with medians, and the range of the ratio."""
    figure = {
        "what": "decode, 8 clients", "unit": "tok/s", "ours": [1.0, 3.0, 2.0], "reference": [2.0, 2.0, 4.0],
        "ratios": [0.5, 1.5, 0.5],
    }
    assert gpu_check.lines([figure])[2:] == ["| decode, 8 clients | 2 tok/s | 2 tok/s | 0.50 (0.50 to 1.50) |"]


def test_the_source_is_packed_without_what_is_not_compiled(tmp_path):
    """The models and pages of llama.cpp's source do not travel."""
    archive = tmp_path / "source.tar.gz"
    with tarfile.open(archive, "w:gz") as whole:
        for name in ("x/vendor/llama.cpp/models/big", "x/vendor/llama.cpp/src/models/a.cpp", "x/CMakeLists.txt"):
            entry = tarfile.TarInfo(name)
            entry.size = 3
            whole.addfile(entry, BytesIO(b"abc"))
    gpu_check.slim(archive)
    with tarfile.open(archive) as kept:
        assert kept.getnames() == ["x/vendor/llama.cpp/src/models/a.cpp", "x/CMakeLists.txt"]
        assert kept.extractfile("x/CMakeLists.txt").read() == b"abc"


@pytest.mark.parametrize("fails", [True, False])
def test_a_step_that_fails_or_takes_too_long_is_told(fails, capsys):
    """Each step ends within its time, and its failure is the failure of the check."""
    command = ["python3", "-c", "import time; time.sleep(60)"] if fails else ["python3", "--version"]
    step = gpu_check.Step("a step", 60, lambda: [command])
    assert gpu_check.run(step, 0.5 if fails else 60) is not fails
    assert ("a step: " in capsys.readouterr().out) == fails
