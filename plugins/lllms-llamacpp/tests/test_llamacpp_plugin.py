import pickle
import subprocess
import sys

import lllms_llamacpp
from lllms_llamacpp import Lora, Options

from lllms_core.types import ModelSpec


def test_the_plugin_provides_its_engine_and_a_model():
    """The plugin provides the engine for .gguf files, and a model that needs no download."""
    [engine] = lllms_llamacpp.lllms_engines()
    [offer] = lllms_llamacpp.lllms_models()
    assert (engine.name, engine.file_suffixes, engine.isolation) == ("llamacpp", (".gguf",), "process")
    assert (offer.name, offer.engine) == ("tiny-chat", engine.name)
    assert engine.inspect(ModelSpec(offer.name, engine.Options(), offer.file))["name"] == "Tiny Chat"


def test_engine_and_options_travel_to_the_worker():
    """Engine and options are pickled on their way to a worker."""
    [engine] = lllms_llamacpp.lllms_engines()
    options = Options(slots=2, lora=[Lora("a.gguf", 0.5)])
    again, same = pickle.loads(pickle.dumps((engine, options)))
    assert type(again) is type(engine)
    assert same == options


def test_a_spare_worker_has_imported_what_a_load_needs():
    """After `warm`, a load imports nothing more of llama.cpp, numpy, the core or this plugin."""
    code = """if True:
        import sys
        import lllms_core.worker.child
        import lllms_llamacpp
        from lllms_core.types import ModelSpec
        [engine], [offer] = lllms_llamacpp.lllms_engines(), lllms_llamacpp.lllms_models()
        engine.warm()
        before = {*sys.modules}
        engine.load(ModelSpec(offer.name, engine.Options(), offer.file), lambda fraction: None).close()
        print(*({name.partition(".")[0] for name in {*sys.modules} - before}))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"llama_cpp", "lllms_core", "lllms_llamacpp", "numpy"}.isdisjoint(done.stdout.split())


def test_the_plugin_imports_no_engine_library():
    """Importing the plugin does not import llama.cpp or numpy."""
    code = "import sys, lllms_llamacpp; print('llama_cpp' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
