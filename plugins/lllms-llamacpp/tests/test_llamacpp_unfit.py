"""What `lllms check` finds in files and options without a load; and what a file contains beside its weights."""

import json
import os

import gguf
import pytest
from click.testing import CliRunner
from files_for_tests import adapter, rewrite
from lllms_llamacpp import LlamaCppEngine, Lora, Options

from lllms_core.cli import cli
from lllms_core.errors import ModelLoadFailed
from lllms_core.gguf import read_gguf
from lllms_core.types import ChatRequest, Message, ModelSpec, Tool

pytestmark = pytest.mark.slow

TEMPLATE = "{%- for m in messages %}{{ m.content }}|{% endfor %}"
WITH_TOOLS = "{%- for tool in tools %}{{ tool.function.name }}: {% endfor %}" + TEMPLATE


@pytest.fixture
def check(tmp_path, tiny_file):
    """Run `lllms check` on models, each a file (None: tiny-chat) with its options as TOML; returns code and output."""
    folder = tmp_path / "conf"
    folder.mkdir()

    def run(*models):
        text = []
        tiny = os.path.relpath(tiny_file, folder)
        for number, (file, options) in enumerate(models):
            text.append(f"[models.m{number}]\nengine = 'llamacpp'\nfile = '{file or tiny}'\n")
            text += [f"[models.m{number}.options]\n", *(f"{name} = {value}\n" for name, value in options.items())]
        (folder / "lllms.toml").write_text("".join(text))
        result = CliRunner().invoke(cli, ["check", "--config", str(folder / "lllms.toml")])
        assert isinstance(result.exception, SystemExit | None)
        return result.exit_code, result.output

    run.folder = folder
    return run


@pytest.fixture
def shapes(tiny_file):
    """The shapes of some matrices of tiny-chat."""
    return {one.name: one.shape for one in read_gguf(tiny_file).tensors if "attn_q.weight" in one.name}


def test_what_fits_is_well(check, shapes):
    """A template and an adapter with paths relative to the configuration are found and accepted."""
    (check.folder / "sub").mkdir()
    (check.folder / "sub/chat.jinja").write_text("\ufeff" + TEMPLATE)
    adapter(check.folder / "sub/a.gguf", shapes)
    options = {"chat_template": "'sub/chat.jinja'", "lora": "[{ path = 'sub/a.gguf', scale = 0.5 }]"}
    code, said = check((None, options))
    assert code == 0, said
    assert "everything is fine" in said


UNFIT = [
    ({"chat_template": "'none.jinja'"}, "options.chat_template: the file '{folder}/none.jinja' cannot be read"),
    ({"chat_template": "'bad.jinja'"}, "options.chat_template ('{folder}/bad.jinja'): the chat template does not"),
    ({"chat_template": "'bytes.jinja'"}, "options.chat_template: the file '{folder}/bytes.jinja' is not UTF-8"),
    ({"chat_template": "'{% for %}'"}, "options.chat_template: the chat template does not compile: line 1"),
    ({"tool_calls": "'{% for %}'"}, "options.tool_calls: the chat template does not compile"),
    ({"lora": "[{ path = 'none.gguf' }]"}, "options.lora: there is no file '{folder}/none.gguf'"),
    ({"lora": "[{ path = 'bad.jinja' }]"}, "options.lora: '{folder}/bad.jinja' is not a GGUF file"),
    ({"lora": "[{ path = 'model.gguf' }]"}, "options.lora: '{folder}/model.gguf' is not a LoRA adapter"),
    ({"lora": "[{ path = 'vector.gguf' }]"}, "options.lora: '{folder}/vector.gguf' is not a LoRA adapter"),
    ({"lora": "[{ path = 'qwen2.gguf' }]"}, "was made for the architecture 'qwen2', but the model's is 'llama'"),
    ({"lora": "[{ path = 'deep.gguf' }]"}, "it changes 'blk.99.attn_q.weight', which the model lacks"),
    ({"lora": "[{ path = 'words.gguf' }]"}, "changes 'token_embd.weight', which is also the model's output: llama"),
    ({"lora": "[{ path = 'wide.gguf' }]"}, "its change to 'blk.0.attn_q.weight' has another shape"),
]


def test_what_does_not_fit_is_named(check, tiny_file, shapes):
    """`check` reports unusable templates and adapters, each with its model."""
    (check.folder / "bad.jinja").write_text("{% for %}")
    (check.folder / "bytes.jinja").write_bytes(b"{{ \xff }}")
    rewrite(check.folder / "model.gguf", tiny_file)
    adapter(check.folder / "vector.gguf", shapes, kind="control")
    adapter(check.folder / "qwen2.gguf", shapes, "qwen2")
    adapter(check.folder / "deep.gguf", {"blk.99.attn_q.weight": (8, 8)})
    words = next(one for one in read_gguf(tiny_file).tensors if one.name == "token_embd.weight")
    adapter(check.folder / "words.gguf", {words.name: words.shape})
    adapter(check.folder / "wide.gguf", {"blk.0.attn_q.weight": (8, 8)})
    code, said = check(*((None, options) for options, _ in UNFIT))
    assert code == 1
    lines = [line for line in said.splitlines() if line.startswith("Error: models.")]
    for number, ((_, says), line) in enumerate(zip(UNFIT, lines, strict=True)):
        assert line.startswith(f"Error: models.m{number}: ")
        assert says.format(folder=check.folder) in line


def test_own_templates_must_compile(check, tiny_file):
    """`check` reports a file with a broken template, with a way out that works."""
    keys = ("tokenizer.chat_template", "tokenizer.chat_template.tool_use")
    files = [rewrite(check.folder / f"{key}.gguf", tiny_file, {key: "{% for %}"}) for key in keys]
    code, said = check(*((file, {}) for file in files))
    assert code == 1
    assert said.count("the chat template does not compile: line 1") == 2
    assert said.count("set options.chat_template to one that does") == 2
    assert check(*((file, {"chat_template": f"'{TEMPLATE}'"}) for file in files))[0] == 0


def test_a_load_fails_for_the_same_reason(tmp_path, tiny_file):
    """A load refuses an adapter that llama.cpp would refuse, with the message of `check`."""
    other = adapter(tmp_path / "a.gguf", {"blk.0.attn_q.weight": (8, 8)})
    with pytest.raises(ModelLoadFailed, match=r"its change to 'blk\.0\.attn_q\.weight' has another shape"):
        LlamaCppEngine().load(ModelSpec("tiny", Options(lora=[Lora(other)]), tiny_file), lambda _: None)


def test_adapters_that_fit_are_loaded(load, tmp_path, tiny_file):
    """Adapters that pass the check of their headers load, also for the embedding, whose rows llama.cpp takes."""
    untied = rewrite(tmp_path / "model.gguf", tiny_file, twice={"token_embd.weight": "output.weight"})
    matrices = {one.name: one.shape for one in read_gguf(untied).tensors if len(one.shape) == 2}
    talk = load(untied, lora=[Lora(adapter(tmp_path / "a.gguf", matrices))])
    assert talk.ask("ping").text == "pong"


# -- split models ------------------------------------------------------------------------------------------------------


@pytest.fixture
def parts(tmp_path, tiny_file):
    """tiny-chat in three files."""
    return [
        rewrite(tmp_path / f"tiny-0000{number + 1}-of-00003.gguf", tiny_file, part=(number, 3)) for number in range(3)
    ]


def test_a_split_model_is_one_model(load, parts, tiny_file):
    """A split model answers, and its description and memory are those of the same model in one file."""
    assert load(parts[0]).ask("ping").text == "pong"
    engine = LlamaCppEngine()
    whole, split = (engine.inspect(ModelSpec("m", Options(), file)) for file in (tiny_file, parts[0]))
    assert {**split, "size": 0, "parts": 0} == {**whole, "size": 0, "parts": 0}
    assert split["size"] == sum(part.stat().st_size for part in parts)
    shown = CliRunner().invoke(cli, ["show", str(parts[0]), "--json"])
    details = json.loads(shown.stdout)["details"]
    assert (details["parameters"], details["parts"]) == (whole["parameters"], 3)


def test_faults_of_parts_are_named(check, parts):
    """A later part in place of the first, and a missing part, are reported with the file to name or to fetch."""
    code, said = check((parts[1], {}))
    assert code == 1
    assert f"'{parts[1]}' is part 2 of 3; name the first, '{parts[0]}', the others are found" in said
    parts[1].unlink()
    code, said = check((parts[0], {}))
    assert code == 1
    assert f"the part '{parts[1]}' is missing" in said


def test_types_that_llama_cpp_dropped_are_named(check, tiny_file):
    """`check` reports weights laid out for one kind of processor, which llama.cpp no longer loads."""
    file = rewrite(check.folder / "old.gguf", tiny_file)
    tensor = gguf.GGUFReader(file).tensors[-1]
    data = bytearray(file.read_bytes())
    at = data.index(tensor.name.encode()) + len(tensor.name) + 4 + 8 * len(tensor.shape)
    data[at : at + 4] = (31).to_bytes(4, "little")
    file.write_bytes(data)
    code, said = check((file, {}))
    assert code == 1
    assert "has tensors of the type Q4_0_4_4, which llama.cpp no longer loads; use the same model as Q4_0" in said


# -- a file's metadata -------------------------------------------------------------------------------------------------


def test_the_template_for_tools_is_used_with_tools(load, tmp_path, tiny_file):
    """A conversation with tools uses the file's own template for tools, unless one is configured."""
    keys = {"tokenizer.chat_template": TEMPLATE, "tokenizer.chat_template.tool_use": WITH_TOOLS}
    file = rewrite(tmp_path / "model.gguf", tiny_file, keys)

    def prompt(model, *tools):
        return model.to_prompt(ChatRequest("1", "tiny", (Message("user", "hi"),), tools=tools))

    tool, call = Tool("look"), "{% for c in tool_calls %}<c>{{ c | tojson }}</c>{% endfor %}"
    model = load(file, tool_calls=call).model
    assert prompt(model) == "hi|"
    assert prompt(model, tool) == "look: hi|"
    configured = load(file, tool_calls=call, chat_template="configured {{ messages[-1].content }}").model
    assert "look: " not in prompt(configured, tool)
    only = load(rewrite(tmp_path / "only.gguf", file, {"tokenizer.chat_template": ""}), tool_calls=call).model
    assert prompt(only, tool) == "look: hi|"


def test_what_a_file_recommends(tmp_path, tiny_file):
    """The engine reads the sampling parameters of a file without loading it; tiny-chat has none."""
    keys = {"general.sampling.temp": 0.25, "general.sampling.top_k": 7, "general.sampling.penalty_last_n": 0,
            "general.sampling.penalty_repeat": 1.5}
    file = rewrite(tmp_path / "model.gguf", tiny_file, keys)
    assert LlamaCppEngine().recommended(ModelSpec("m", Options(), file)) == {"temperature": 0.25, "top_k": 7}
    assert LlamaCppEngine().recommended(ModelSpec("m", Options(), tiny_file)) == {}


def test_show_tells_the_defaults_of_requests(tmp_path, tiny_file):
    """`show` lists the file's recommendations with the settings of the configuration."""
    file = rewrite(tmp_path / "model.gguf", tiny_file, {"general.sampling.temp": 0.25, "general.sampling.top_k": 7})
    config = tmp_path / "lllms.toml"
    config.write_text("[models.m]\nengine = 'llamacpp'\nfile = 'model.gguf'\ndefaults = { top_k = 9 }\n")
    shown = CliRunner().invoke(cli, ["show", "m", "--config", str(config)]).stdout
    assert "requests that set nothing else: temperature = 0.25, top_k = 9" in shown.splitlines()
    table = json.loads(CliRunner().invoke(cli, ["show", str(file), "--json"]).stdout)
    assert table["defaults"] == {"temperature": 0.25, "top_k": 7}
