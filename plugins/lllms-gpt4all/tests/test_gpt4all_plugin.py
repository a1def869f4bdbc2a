import pickle
import subprocess
import sys

import lllms_gpt4all
import pytest
from lllms_gpt4all import Gpt4AllEngine, Options
from test_gpt4all_files import TINY

from lllms_core.errors import ModelLoadFailed
from lllms_core.types import ModelSpec


def test_the_plugin_provides_its_engine():
    """The plugin provides the engine `gpt4all`, whose models run in separate processes."""
    [engine] = lllms_gpt4all.lllms_engines()
    assert (engine.name, engine.isolation, engine.needs_file) == ("gpt4all", "process", True)


def test_engine_and_options_travel_to_the_worker():
    """Engine and options are pickled on their way to a worker."""
    options = Options(context_length=512, device="cuda:0")
    engine, same = pickle.loads(pickle.dumps((Gpt4AllEngine(), options)))
    assert type(engine) is Gpt4AllEngine
    assert same == options


def test_the_plugin_imports_no_engine_library():
    """Importing the plugin, and inspecting a file with it, does not import gpt4all."""
    code = "import sys, lllms_gpt4all, lllms_gpt4all.preflight; print('gpt4all' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"context_length": 0}, "context_length"),
        ({"context_length": 2**31 - 1}, "context_length"),
        ({"context_length": True}, "context_length"),
        ({"context_length": "all"}, "context_length"),
        ({"threads": 0}, "threads"),
        ({"threads": 1.5}, "threads"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": -1}, "batch_size"),
        ({"batch_size": 129}, "batch_size"),
        ({"gpu_layers": -2}, "gpu_layers"),
        ({"device": ""}, "device"),
        ({"device": 1}, "device"),
        ({"chat_template": 1}, "chat_template"),
        ({"reasoning": "<think>"}, "reasoning"),
        ({"reasoning": None}, "reasoning"),
    ],
)
def test_options_are_checked_before_c_sees_them(options, name):
    """A value that might crash gpt4all is refused by name."""
    with pytest.raises((ValueError, TypeError), match=name):
        Options(**options)


def test_a_model_without_a_file_is_refused():
    """A configuration without a file is refused with the key to set."""
    with pytest.raises(ModelLoadFailed, match=r"models\.tiny\.file"):
        Gpt4AllEngine().inspect(ModelSpec("tiny", Options()))


def test_a_missing_library_is_found(monkeypatch):
    """Without gpt4all, the check and the load name the package to install."""
    monkeypatch.setitem(sys.modules, "gpt4all", None)
    spec = ModelSpec("tiny", Options(), TINY)
    [finding] = Gpt4AllEngine().examine(spec)
    assert finding.text == "engine 'gpt4all' needs gpt4all, which is not installed; run pip install gpt4all"
    with pytest.raises(ModelLoadFailed, match="pip install gpt4all"):
        Gpt4AllEngine().load(spec, lambda _: None)


def test_the_device_is_told() -> None:
    """`hardware` says that models compute on the CPU unless they are told a device, and how to tell one."""
    told = [Gpt4AllEngine().hardware(None if one is None else ModelSpec("m", Options(device=one)))
            for one in (None, "cpu", "cuda")]
    assert told == ['CPU (options.device may be "gpu", "cuda" or "kompute")'] * 2 + ["GPU (options.device is 'cuda')"]
