import subprocess
import sys
from types import SimpleNamespace

import click
import pytest

from lllms_core.apis import Api
from lllms_core.builtin.downloaders.file import FileDownloader
from lllms_core.engines import Engine
from lllms_core.errors import PluginConflict, PluginError, PluginLoadFailed
from lllms_core.hookspecs import hookimpl
from lllms_core.plugins import BUILTINS, Plugins
from lllms_core.types import ModelOffer

ALONE = {"LLLMS_PLUGINS": ""}

ENGINE_SOURCE = """
from lllms_core.engines import Engine
from lllms_core.hookspecs import hookimpl

class Parrot(Engine):
    name = "parrot"

    def load(self, spec, progress):
        raise NotImplementedError

@hookimpl
def lllms_engines():
    return [Parrot()]
"""


class Parrot(Engine):
    name = "parrot"

    def load(self, spec, progress):
        raise NotImplementedError


class Version(Api):
    name = "version"

    def blueprint(self, host):
        raise NotImplementedError


class Whole:
    """A plugin that provides one object of each kind."""

    @hookimpl
    def lllms_engines(self):
        return [Parrot()]

    @hookimpl
    def lllms_models(self):
        yield ModelOffer("polly", engine="parrot")

    @hookimpl
    def lllms_apis(self):
        return (Version(),)

    @hookimpl
    def lllms_commands(self, cli):
        @cli.command()
        def squawk():
            click.echo("squawk!")


def returning(answer):
    class Plugin:
        @hookimpl
        def lllms_engines(self):
            return answer

    return Plugin()


def raising(error):
    class Plugin:
        @hookimpl
        def lllms_engines(self):
            yield Parrot()
            raise error

        @hookimpl
        def lllms_models(self):
            return [ModelOffer("polly", engine="parrot")]

    return Plugin()


def discover(environ=ALONE, **extra):
    return Plugins.discover(environ=environ, extra=extra)


def report_of(plugins, name):
    return next(report for report in plugins.reports if report.name == name)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install distributions: real metadata with entry points on sys.path, the code as a module."""
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def install(name, source, *, distribution=None, entry=None):
        distribution = distribution or f"dist-{name}"
        module = f"lllms_test_{distribution}_{name}".replace("-", "_")
        (tmp_path / f"{module}.py").write_text(source)
        made.append(module)
        info = tmp_path / f"{distribution.replace('-', '_')}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.5\n")
        (info / "entry_points.txt").write_text(f"[lllms]\n{name} = {entry or module}\n")

    yield install
    for module in made:
        sys.modules.pop(module, None)


def test_each_object_is_known_to_come_from_its_plugin():
    """Engines, offers and APIs are found by name, with the plugin that provides them."""
    plugins = discover(whole=Whole())
    assert plugins.engines["parrot"].plugin == "whole"
    assert isinstance(plugins.engines["parrot"].object, Parrot)
    assert plugins.offers["polly"].plugin == plugins.apis["version"].plugin == "whole"
    report = report_of(plugins, "whole")
    assert report.provides == ("engine parrot", "api version", "model polly")
    assert (report.error, report.distribution) == (None, None)


def test_builtins_come_first_and_belong_to_the_core():
    """The core's own plugins are ordinary plugins, listed before all others."""
    reports = discover(whole=Whole()).reports
    assert [report.name for report in reports[: len(BUILTINS)]] == list(BUILTINS)
    assert {report.distribution for report in reports[: len(BUILTINS)]} == {"lllms-core"}


def test_an_installed_distribution_is_found(install):
    """An entry point of the group `lllms` is a plugin, with the name and version of its distribution."""
    install("parrot", ENGINE_SOURCE)
    plugins = Plugins.discover(environ={"LLLMS_PLUGINS": "parrot"})
    assert plugins.engines["parrot"].plugin == "parrot"
    report = report_of(plugins, "parrot")
    assert (report.version, report.distribution, report.provides) == ("1.5", "dist-parrot", ("engine parrot",))


def test_installed_plugins_are_asked_in_order_of_their_names(install):
    """Which of two engines with the same name is kept does not depend on sys.path."""
    install("zebra", ENGINE_SOURCE)
    install("ant", ENGINE_SOURCE)
    plugins = Plugins.discover(environ={"LLLMS_PLUGINS": "zebra,ant"})
    assert plugins.engines["parrot"].plugin == "ant"


def test_a_plugin_that_cannot_be_imported_is_listed_and_harms_no_other(install):
    """An import error becomes a report with the reason and the traceback."""
    install("broken", "import lllms_no_such_module")
    install("parrot", ENGINE_SOURCE)
    plugins = Plugins.discover(environ={"LLLMS_PLUGINS": "broken,parrot"})
    report = report_of(plugins, "broken")
    assert report.error == "cannot be imported: ModuleNotFoundError: No module named 'lllms_no_such_module'"
    assert "import lllms_no_such_module" in report.traceback
    assert "parrot" in plugins.engines


@pytest.mark.parametrize("source", ["raise SystemExit(3)", "def f(:", "raise Exception"])
def test_whatever_an_import_raises_is_reported(install, source):
    """Even a module that exits does not end the program."""
    install("broken", source)
    plugins = Plugins.discover(environ={"LLLMS_PLUGINS": "broken"})
    assert report_of(plugins, "broken").error.startswith("cannot be imported: ")


def test_a_hook_that_raises_costs_only_its_own_objects():
    """Objects from the plugin's other hooks stay in use; those of the failed hook do not."""
    plugins = discover(bad=raising(ValueError("no luck")), whole=Whole())
    report = report_of(plugins, "bad")
    assert report.error == "lllms_engines raised ValueError: no luck"
    assert "no luck" in report.traceback
    assert report.provides == ("model polly",)
    assert plugins.engines["parrot"].plugin == "whole"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (None, "lllms_engines must return an iterable of Engine objects, not None"),
        ("parrot", "lllms_engines must return an iterable of Engine objects, not 'parrot'"),
        ({"parrot": 1}, "lllms_engines must return an iterable of Engine objects, not {'parrot': 1}"),
        ([3], "lllms_engines must return an iterable of Engine objects, not of 3"),
    ],
)
def test_a_hook_that_returns_nonsense_is_reported(answer, error):
    """The report says what the hook should return and what it returned."""
    plugins = discover(bad=returning(answer))
    assert report_of(plugins, "bad").error == error
    assert not plugins.engines


def test_a_class_in_place_of_an_instance_is_explained():
    """The most common mistake gets a hint."""
    error = report_of(discover(bad=returning([Parrot])), "bad").error
    assert error.endswith("it must be an instance: Parrot()")
    assert "a plugin is a module or an instance" in report_of(discover(bad=Whole), "bad").error


@pytest.mark.parametrize("name", [None, "", 3])
def test_an_object_without_a_name_is_refused(name):
    """Every object needs a name, since it is requested by name."""

    class Nameless(Parrot):
        pass

    Nameless.name = name
    assert report_of(discover(bad=returning([Nameless()])), "bad").error.endswith("which has no name")


def test_two_objects_of_one_name_are_an_error_that_names_both_plugins():
    """The first keeps the name; the report of the later plugin says so, and its other objects are in use."""

    class Rival:
        @hookimpl
        def lllms_engines(self):
            other = Parrot()
            other.name = "crow"
            return [Parrot(), other]

    plugins = discover(whole=Whole(), rival=Rival())
    assert plugins.engines["parrot"].plugin == "whole"
    assert plugins.engines["crow"].plugin == "rival"
    assert report_of(plugins, "rival").error == (
        "plugins 'whole' and 'rival' both provide engine 'parrot', and the first keeps it: disable one of the two"
    )
    assert report_of(plugins, "whole").error is None


def test_two_plugins_of_one_name_are_a_conflict(install):
    """The second distribution that claims a plugin's name is reported, and not confused with the first."""
    install("parrot", ENGINE_SOURCE)
    install("parrot", "raise RuntimeError('never imported')", distribution="other")
    reports = [r for r in Plugins.discover(environ={"LLLMS_PLUGINS": "parrot"}).reports if r.name == "parrot"]
    assert [report.error for report in reports] == [None, "there is already a plugin 'parrot' from dist-parrot"]


def test_a_misspelt_hook_is_reported():
    """A marked function that is not a hook is named, with the hook that was probably meant."""

    class Misspelt:
        @hookimpl
        def lllms_engine(self):
            return []

        @hookimpl
        def lllms_models(self):
            return [ModelOffer("polly", engine="parrot")]

    plugins = discover(bad=Misspelt())
    assert report_of(plugins, "bad").error == "lllms_engine is not a hook of lllms (did you mean 'lllms_engines'?)"
    assert "polly" in plugins.offers


def test_a_hook_without_its_marker_is_reported(install):
    """A function that looks like a hook but is not marked is reported, since it would never be called."""
    install("unmarked", "import lllms_core\ndef lllms_engines():\n    return []\n")
    plugins = Plugins.discover(environ={"LLLMS_PLUGINS": "unmarked"})
    assert report_of(plugins, "unmarked").error == "lllms_engines lacks the @hookimpl marker"


def test_a_hook_with_wrong_parameters_is_reported():
    """A hook with a parameter that does not exist cannot be registered."""

    class Greedy:
        @hookimpl
        def lllms_engines(self, config):
            return []

    assert report_of(discover(bad=Greedy()), "bad").error.startswith("cannot be registered: ")


def test_a_hook_wrapper_is_reported():
    """Every plugin is called separately, so there is nothing to wrap."""

    class Wrapper:
        @hookimpl(wrapper=True)
        def lllms_engines(self):
            return (yield)

    assert "lllms_engines is a wrapper" in report_of(discover(bad=Wrapper()), "bad").error


def test_lllms_plugins_allows_only_what_it_names(install):
    """Installed plugins that the variable leaves out are not even imported; unknown names are reported."""
    install("parrot", ENGINE_SOURCE)
    install("broken", "raise RuntimeError('imported')")
    plugins = Plugins.discover(environ={"LLLMS_PLUGINS": " parrot, parot "})
    assert plugins.engines.keys() == {"parrot"}
    assert report_of(plugins, "broken").disabled
    assert report_of(plugins, "broken").error is None
    assert report_of(plugins, "parot").error.startswith("LLLMS_PLUGINS names it, but it is not installed")


def test_lllms_plugins_left_empty_means_the_builtins_only(install):
    """The empty string is a value: no installed plugin at all. An embedder's own objects are not affected."""
    install("parrot", ENGINE_SOURCE)
    plugins = discover(environ={"LLLMS_PLUGINS": ""}, mine=SimpleNamespace())
    in_use = [report.name for report in plugins.reports if not report.disabled]
    assert in_use == [*BUILTINS, "mine"]


def test_plugins_can_be_disabled(install):
    """`disable` applies to installed plugins, built-in ones and an embedder's; unknown names are reported."""
    install("parrot", "raise RuntimeError('imported')")
    plugins = Plugins.discover(
        environ={"LLLMS_PLUGINS": "parrot"}, disable=["parrot", "status", "mine", "nobody"], extra={"mine": Whole()},
    )
    assert {report.name for report in plugins.reports if report.disabled} >= {"parrot", "status", "mine"}
    assert not plugins.engines
    assert report_of(plugins, "nobody").error.startswith("plugins.disable names it, but it is not installed")


@pytest.mark.parametrize("strict", ["1", "true"])
def test_strict_turns_a_failure_into_an_error(strict):
    """With LLLMS_STRICT the first failure is raised, with the plugin's name and the cause."""
    environ = {**ALONE, "LLLMS_STRICT": strict}
    only = list(BUILTINS)  # the built-ins are not tested here
    with pytest.raises(PluginLoadFailed, match="plugin 'bad': lllms_engines raised ValueError: no luck") as caught:
        Plugins.discover(environ=environ, disable=only, extra={"bad": raising(ValueError("no luck"))})
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(PluginConflict, match="plugins 'a' and 'b' both provide engine 'parrot'"):
        Plugins.discover(environ=environ, disable=only, extra={"a": Whole(), "b": Whole()})


@pytest.mark.parametrize("lax", ["", "0", "false"])
def test_strict_can_be_off(lax):
    """LLLMS_STRICT can be switched off by a negative value."""
    plugins = discover({**ALONE, "LLLMS_STRICT": lax}, bad=raising(ValueError("no luck")))
    assert report_of(plugins, "bad").error


def test_two_discoveries_share_nothing():
    """There is no global manager: each call builds a separate one."""
    assert "parrot" in discover(whole=Whole()).engines
    assert "parrot" not in discover().engines


def test_a_missing_engine_is_explained_by_the_plugin_that_failed():
    """The error about a missing configured engine leads back to its plugin."""
    plugins = discover(parrot=raising(ValueError("no luck")), whole=Whole())
    assert "plugin 'parrot' failed: lllms_engines raised ValueError: no luck" in plugins.why_no_engine("parrot")
    disabled = Plugins.discover(environ=ALONE, disable=["parrot"], extra={"parrot": Whole()})
    assert "(no plugin provides any engine); plugin 'parrot' is disabled" in disabled.why_no_engine("parrot")


def cli():
    group = click.Group("lllms")
    group.add_command(click.Command("serve"))
    return group


def test_plugins_add_commands():
    """A command of a plugin becomes one of the program's, and the report says so."""
    plugins, group = discover(whole=Whole()), cli()
    plugins.add_commands(group)
    assert group.commands.keys() == {"serve", "squawk"}
    assert report_of(plugins, "whole").provides[-1] == "commands"


def test_a_plugin_whose_commands_fail_adds_none():
    """A partial failure leaves nothing behind, and the other plugins' commands work."""

    class Bad:
        @hookimpl
        def lllms_commands(self, cli):
            cli.add_command(click.Command("half"))
            raise ValueError("no luck")

    plugins, group = discover(bad=Bad(), whole=Whole()), cli()
    plugins.add_commands(group)
    assert group.commands.keys() == {"serve", "squawk"}
    assert report_of(plugins, "bad").error == "lllms_commands raised ValueError: no luck"
    assert report_of(plugins, "bad").provides == ()


def test_a_plugin_cannot_replace_a_command():
    """An existing command stays; the plugin's is reported."""

    class Usurper:
        @hookimpl
        def lllms_commands(self, cli):
            cli.add_command(click.Command("serve", help="mine"))

    plugins, group = discover(bad=Usurper()), cli()
    plugins.add_commands(group)
    assert group.commands["serve"].help is None
    assert report_of(plugins, "bad").error == "there is already a command 'serve'"


def test_strict_holds_for_commands_too():
    """With LLLMS_STRICT a plugin's failing command is an error."""

    class Bad:
        @hookimpl
        def lllms_commands(self):
            raise ValueError("no luck")

    plugins = Plugins.discover(environ={**ALONE, "LLLMS_STRICT": "1"}, disable=list(BUILTINS), extra={"bad": Bad()})
    with pytest.raises(PluginError, match="plugin 'bad': lllms_commands raised ValueError: no luck"):
        plugins.add_commands(cli())


@pytest.mark.parametrize(
    "code",
    [
        "import lllms_core",
        "from lllms_core.plugins import Plugins; print(Plugins.discover().reports)",
        "from lllms_core.host import Host; Host()",
        "from lllms_core.cli import cli; cli(['--help'], standalone_mode=False)",
        "from lllms_core.cli import cli; cli(['plugins'], standalone_mode=False)",
    ],
)
def test_no_engine_library_is_imported_before_a_model_is_loaded(code):
    """Importing, listing plugins and looking up models do not load native libraries."""
    program = f"import sys\n{code}\nassert not {{'llama_cpp', 'gpt4all', 'torch'}} & sys.modules.keys()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_one_scheme_belongs_to_one_downloader():
    """A downloader for a scheme that is already taken is left out, and the report names both."""

    class Mine(FileDownloader):
        name = "mine"

    class Provider:
        @hookimpl
        def lllms_downloaders(self):
            return [Mine()]

    plugins = Plugins.discover(environ=ALONE, extra={"extra": Provider()})
    assert "mine" not in plugins.downloaders
    assert "file" in plugins.downloaders
    report = plugins.reports[-1]
    assert report.provides == ()
    assert "downloader 'mine' is for 'file:', and so is 'file' of plugin 'downloaders'" in (report.error or "")
