"""The page at `/` as people use it, in Chromium, over real servers."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from browsers_for_tests import PHONE, WIDE, Browser, browsing
from gates_for_tests import Gate, GatePlugin
from placements_for_tests import TwoPlugin, host_at_places
from servers_for_tests import hang, served
from waits_for_tests import GUARD

from lllms_core.builtin.status import live
from lllms_core.hookspecs import hookimpl
from lllms_core.placements import Place
from lllms_core.rendezvous import versions
from lllms_core.serve import listen
from lllms_core.testing import running_server
from lllms_core.testing.servers import running_host
from lllms_core.types import ModelOffer

pytestmark = [pytest.mark.slow, pytest.mark.browser]

NASTY = "<img src=x onerror='window.hacked = 1'>"
SCRIPT = [
    {"when": "think", "thinks": "Let me see.", "replies": ["Well, yes."]},
    {"when": "html", "replies": [f"<script>window.hacked = 1</script>{NASTY}<b>bold</b>"]},
    {"when": "fail", "replies": ["one two three"], "fault": "fail", "after": 1},
    {"replies": ["first answer", "second answer", "third answer"]},
]
BOT = {"engine": "mock", "isolation": "thread", "options": {"script": SCRIPT}}
KEYS = ["alice: sk-all", {"name": "little", "key": "sk-little", "models": ["tiny"]}]
ESCAPE, TAB, ENTER = "\ue00c", "\ue004", "\ue007"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(str(tmp_path_factory.mktemp("browser"))) as made:
        yield made


@pytest.fixture
def browser(chromium: Browser, monkeypatch: pytest.MonkeyPatch) -> Iterator[Browser]:
    """The browser, with an empty console; the page must write nothing into it. Servers look often."""
    monkeypatch.setattr(live, "LOOK", 0.05)
    chromium.resize(WIDE)
    chromium.prefer("light")
    chromium.errors()
    yield chromium
    wrong = [one for one in chromium.errors() if "Failed to load resource" not in one]  # as refusals are told
    assert wrong == []
    chromium.open("about:blank")


class Bed:
    """A server whose model `gate` obeys the test, and a client of it that waits in a thread."""

    def __init__(self, url: str, gate: Gate) -> None:
        self.url = url
        self.gate = gate
        self._threads: list[threading.Thread] = []

    def ask(self, model: str, text: str = "Hi") -> None:
        """Send a request, and leave it alone."""
        body = {"model": model, "messages": [{"role": "user", "content": text}]}

        def post() -> None:
            with suppress(httpx.HTTPError):  # some tests end the server meanwhile
                httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=GUARD)

        thread = threading.Thread(target=post)
        thread.start()
        self._threads.append(thread)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(GUARD)


@contextmanager
def bed(models: dict[str, Any] | None = None, **server: object) -> Iterator[Bed]:
    gate = Gate()
    tables = {"gate": {"engine": "gate"}, "bot": BOT} if models is None else models
    with running_server(tables, {"gate": GatePlugin(gate)}, **server) as url:
        made = Bed(url, gate)
        try:
            yield made
        finally:
            gate.load.set()
    made.join()


def pieces(gate: Gate, *given: str | None) -> None:
    for one in given:
        gate.pieces.put(one)


def choose(browser: Browser, model: str) -> None:
    """Choose the model to try, as soon as it is offered."""
    browser.find("#try-model option", model)
    browser.run("document.getElementById('try-model').value = arguments[0]", model)


def test_it_shows_what_happens_as_it_happens(browser: Browser) -> None:
    """Models, instances, requests and timelines change without a reload; nothing comes from elsewhere."""
    with bed() as server:
        browser.open(server.url)
        browser.find("#live", "live")
        browser.run("window.same = true")
        browser.find("#model-rows li", "gate\nnot loaded")
        browser.find("#model-rows .chips li", "embeddings")
        assert "Nothing runs" in browser.text("#request-rows")
        server.ask("gate")
        browser.find("#model-rows li", "loading")
        browser.find("#request-rows li", "Waits: loading")
        server.gate.load.set()
        pieces(server.gate, "one ", "two ")
        row = browser.find("#request-rows li", "answering")
        browser.until(lambda: "2 tokens" in row.text)
        browser.find("#instance-rows li", "busy\nCPU")
        assert "1 of" in browser.text("#counts")
        pieces(server.gate, None)
        browser.find("#ended-rows li", "gate\ndone")
        browser.find("#request-rows", "Nothing runs")
        browser.click("#ended-rows summary")
        told = browser.find("#ended-rows .told", "submitted").text
        assert "assigned: gate:" in told
        assert "answer " in told
        assert browser.run("return window.same")
        assert all(one.startswith(server.url) for one in browser.requests())
        assert browser.run("return document.cookie") == ""


def test_it_finds_its_server_again(browser: Browser) -> None:
    """When the server is gone the page says so and tries again by itself; with the next server it is live."""
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
    with running_server({"before": BOT}, port=port) as url:
        browser.open(url)
        browser.find("#model-rows", "before")
    browser.find("#live", "not connected; next try in")
    with running_server({"after": BOT}, port=port):
        browser.find("#model-rows", "after")
        browser.find("#live", "live")
        assert "before" not in browser.text("#model-rows")


def test_its_buttons_load_unload_and_cancel(browser: Browser) -> None:
    """Models are loaded and unloaded; a request that runs is cancelled once that is confirmed, and not before."""
    with bed() as server:
        browser.open(server.url)
        browser.click("[aria-label='Load: bot']")
        browser.find("#model-rows li", "bot\nloaded")
        browser.click("[aria-label='Unload: bot']")
        browser.find("#model-rows li", "bot\nnot loaded")
        server.gate.load.set()
        server.ask("gate")
        pieces(server.gate, "one ")
        browser.find("#request-rows li", "answering")
        for answer in ("Keep it", ESCAPE):
            browser.click("#request-rows button", "Cancel")
            browser.find("#sure", "Cancel the request for gate?")
            browser.click("#sure button", answer) if answer != ESCAPE else browser.type(ESCAPE)
            browser.gone("#sure")
            assert httpx.get(f"{server.url}/").json()["requests"]["running"] == 1
        browser.click("#request-rows button", "Cancel")
        browser.click("#sure-yes")
        browser.find("#ended-rows li", "cancelled")
        browser.find("#request-rows", "Nothing runs")


def test_a_download_is_seen_and_cancelled(browser: Browser, tmp_path: Path) -> None:
    """A download shows its progress; it is cancelled once that is confirmed, and its model can be fetched again."""
    with served({"/weights.gguf": b"GGUF" + bytes(1_000_000)}) as site:
        site.faults = [hang(400_000)] * 8
        models = {"far": {"engine": "llamacpp", "url": f"{site.url}/weights.gguf"}}
        with bed(models, models_dir=str(tmp_path)) as server:
            browser.open(server.url)
            browser.find("#model-rows li", "far\nnot downloaded")
            browser.click("[aria-label='Download and load: far']")
            browser.find("#download-rows li", "of 1.0 MB")
            browser.find("#model-rows li", "far\ndownloading")
            browser.until(lambda: browser.run("return document.querySelector('#download-rows progress').value") > 0.1)
            browser.click("#download-rows button", "Cancel")
            browser.find("#sure", "The bytes received are kept")
            browser.click("#sure-yes")
            browser.find("#model-rows li", "far\nnot downloaded")


def test_a_model_that_cannot_load_says_why(browser: Browser, tmp_path: Path) -> None:
    """A model with a broken file is shown with the cause before anybody asks for it; a failed try is told."""
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"no model" * 100)
    with bed({"broken": {"engine": "llamacpp", "file": str(file), "isolation": "thread"}, "bot": BOT}) as server:
        browser.open(server.url)
        row = browser.find("#model-rows li", "cannot be loaded")
        assert "is not a GGUF file" in row.text
        browser.until(lambda: browser.text("#try-model") == "bot")  # the only one to be tried
        browser.click("[aria-label='Try again: broken']")
        browser.find("#errors", "cannot be loaded")
        browser.find("#model-rows li", "next try in")
        browser.click("#errors button", "Dismiss")
        browser.gone("#errors p")


def test_a_model_is_tried(browser: Browser) -> None:
    """An answer streams and can be stopped; thoughts stand apart; a conversation continues until it is cleared."""
    with bed() as server:
        server.gate.load.set()
        browser.open(server.url)
        choose(browser, "gate")
        browser.click("#message")
        browser.type("Tell me", ENTER)
        pieces(server.gate, "one ", "two ")
        browser.find("#log .assistant .text", "one two")
        assert browser.run("return document.getElementById('log').ariaBusy") == "true"
        browser.click("#stop")
        browser.find("#log .about", "Stopped")
        browser.until(lambda: not httpx.get(f"{server.url}/").json()["requests"]["running"])
        browser.click("#clear")
        browser.gone("#log .said")
        choose(browser, "bot")
        for turn in ("first", "second"):
            browser.type(f"turn {turn}", ENTER)
            browser.find("#log .assistant .text", f"{turn} answer")
            browser.find("#log .said:last-of-type .about", "tokens")
        browser.type("think", ENTER)
        browser.find("#log .assistant .text", "Well, yes.")
        thoughts = browser.find("#log .thoughts")
        assert thoughts.text == "Thoughts"  # closed once the answer has begun
        thoughts.click()
        browser.until(lambda: "Let me see." in thoughts.text)
        browser.find("#log .said:last-of-type .about", "tokens")
        browser.click("#message")
        browser.type("fail", ENTER)
        browser.find("#log .about.fault")
        browser.find("#log .said:last-of-type .text", "one")
        assert browser.run("return sessionStorage.length + localStorage.length") == 0


def test_no_text_becomes_html(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever models, their descriptions and their answers are called and say, it is shown as it is written."""

    class Offering:
        @hookimpl
        def lllms_models(self) -> list[ModelOffer]:
            return [ModelOffer(NASTY, "mock", options={"script": SCRIPT}, description=f"about {NASTY}")]

    monkeypatch.setattr("lllms_core.catalog.is_model_name", lambda name: True)
    with running_server({}, {"offering": Offering()}) as url:
        browser.open(url)
        browser.find("#model-rows h3", NASTY)
        browser.find("#model-rows", f"about {NASTY}")
        choose(browser, NASTY)
        browser.click("#message")
        browser.type("html please", ENTER)
        browser.find("#log .assistant .text", f"<script>window.hacked = 1</script>{NASTY}<b>bold</b>")
        browser.find("#ended-rows h3", NASTY)
        browser.click("#ended-rows summary")
        browser.find("#ended-rows .told", NASTY)
        assert browser.run("return window.hacked ?? null") is None
        assert browser.run("return document.querySelectorAll('img, b:not(#who-name), main script').length") == 0
        refused = "try { document.body.innerHTML = '<i>x</i>'; return '' } catch (error) { return error.name }"
        assert browser.run(refused) == "TypeError"  # the browser itself refuses it
        browser.errors()


def test_a_server_with_keys_asks_for_one(browser: Browser) -> None:
    """Without a key the page shows nothing; with one, what that may see. It is gone with the tab, or on request."""
    with running_server({"tiny": BOT, "large": BOT}, api_keys=KEYS) as url:
        browser.open(url)
        browser.find("#key-form")
        browser.gone("#page")
        assert "tiny" not in browser.run("return document.documentElement.outerHTML")
        browser.type("sk-wrong", ENTER)
        browser.find("#key-fault", "incorrect API key")
        browser.type("sk-little", ENTER)
        browser.find("#model-rows", "tiny")
        assert "large" not in browser.run("return document.documentElement.outerHTML")
        browser.find("#who", "key little")
        browser.click("#message")
        browser.type("Hi", ENTER)
        browser.find("#log .assistant .text", "first answer")
        browser.click("[aria-label='Unload: tiny']")
        browser.find("#model-rows li", "tiny\nnot loaded")
        browser.driver.refresh()
        browser.find("#model-rows", "tiny")  # the tab remembers the key
        assert browser.run("return document.cookie") == ""
        assert not any("sk-" in one for one in browser.requests())
        browser.click("#forget")
        browser.find("#key-form")
        browser.type("sk-all", ENTER)
        browser.find("#model-rows", "large")
        browser.errors()


def test_it_fits_a_phone_and_follows_the_rules_of_accessibility(browser: Browser, tmp_path: Path) -> None:
    """At 390 pixels nothing is cut off, and no rule of WCAG 2.1 AA that axe checks is broken, light or dark."""
    file = tmp_path / f"{'a-long-name-' * 8}.gguf"
    file.write_bytes(b"no model" * 100)
    models = {
        "gate": {"engine": "gate"}, "bot": BOT, "organisation/" + "very-long-model-name-" * 4: BOT,
        "broken": {"engine": "llamacpp", "file": str(file)},
    }
    with bed(models) as server:
        browser.open(server.url)
        server.ask("gate", "x")
        server.ask("bot", "think")
        browser.find("#ended-rows li", "bot")
        browser.find("#request-rows li", "loading")
        browser.find("#model-rows li", "is not a GGUF file")
        browser.click("#ended-rows summary")
        browser.find("#ended-rows .told", "submitted")
        choose(browser, "bot")
        browser.click("#message")
        browser.type("think", ENTER)
        browser.find("#log .about", "tokens")
        for scheme in ("light", "dark"):
            browser.prefer(scheme)
            for size in (WIDE, PHONE):
                browser.resize(size)
                assert browser.complaints() == {}, (scheme, size)
                assert _cut_off(browser) == [], (scheme, size)
        browser.resize(PHONE)
        server.gate.load.set()
        pieces(server.gate, "one ")
        browser.find("#request-rows li", "answering")
        browser.run("document.querySelector('#request-rows button').focus()")
        browser.type(ENTER)
        browser.find("#sure")
        assert browser.complaints() == {}
        assert _cut_off(browser) == []
        browser.type(ESCAPE)
        pieces(server.gate, None)
    with running_server({"tiny": BOT}, api_keys=KEYS) as url:
        browser.open(url)
        browser.find("#key-form")
        assert browser.complaints() == {}
        assert _cut_off(browser) == []
        browser.errors()


def test_it_shows_the_places_of_a_cluster(browser: Browser) -> None:
    """Places appear with their instances, memory and age; a lost one, and one of other versions, say why.

    Each instance names its place. It follows the rules of accessibility, wide and on a phone, light and dark.
    """
    plugin = TwoPlugin()
    with running_host(host_at_places(plugin)) as url:
        events = plugin.placement.events
        assert events is not None
        browser.open(url)
        row = browser.find("#place-rows li", "place one\nin use")
        assert "0 instances" in row.text
        assert "0 bytes of 1.0 GB of memory used" in row.text
        browser.find("#counts", "memory of 2 places, with 4 cores")
        body = {"model": "a", "prompt": "where"}
        where = httpx.post(f"{url}/v1/completions", json=body, timeout=GUARD).json()["choices"][0]["text"]
        instance = httpx.get(f"{url}/").json()["instances"][0]["id"]
        browser.find("#place-rows li", f"place {where}")
        browser.find("#place-rows li .chips li", instance)
        browser.find("#instance-rows li", f"at place {where}")
        browser.find("#ended-rows li", f"at place {where}")
        old = Place("old", "an-old-machine-with-a-long-name-" * 3, 8, versions={**versions(), "python": "2.7"})
        _on_its_loop(plugin, lambda: events.there(old))
        _on_its_loop(plugin, lambda: plugin.placement.lose(where))
        browser.find("#place-rows li", f"place {where}\nlost")
        browser.find("#place-rows li", "python is 2.7 there")
        browser.find("#instance-rows", "None.")
        for scheme in ("light", "dark"):
            browser.prefer(scheme)
            for size in (WIDE, PHONE):
                browser.resize(size)
                assert browser.complaints() == {}, (scheme, size)
                assert _cut_off(browser) == [], (scheme, size)
        browser.scripts(run=False)
        try:
            browser.driver.get(url)
            plain = browser.driver.find_element("css selector", "body").text
            assert f"place {where} lost: it is lost: its link is cut" in plain
        finally:
            browser.scripts(run=True)


def _on_its_loop(plugin: TwoPlugin, act: Callable[[], None]) -> None:
    """Let something happen to the placement, in the event loop of its server."""
    assert plugin.placement.loop is not None
    plugin.placement.loop.call_soon_threadsafe(act)


def test_one_machine_has_no_section_for_places(browser: Browser) -> None:
    """A server without a placement shows its own cores and memory, and neither places nor an empty heading."""
    with running_server({"tiny": BOT}) as url:
        browser.open(url)
        browser.find("#model-rows", "tiny")
        browser.find("#counts", "spare workers ready")
        browser.gone("#places")
        assert "Places" not in browser.text("body")


def _cut_off(browser: Browser) -> list[str]:
    """Return the elements that reach beyond the sides of the page, or hide a part of what they hold."""
    return list(browser.run("""
        const width = document.documentElement.clientWidth;
        const wide = (one) => one.right > width + 1 || one.left < -1;
        const shown = [...document.querySelectorAll("body *")].filter((one) => one.checkVisibility()
            && !one.closest(".unseen, .skip, .bar, progress, select, noscript"));
        return shown.filter((one) => wide(one.getBoundingClientRect())
            || (one.scrollWidth > one.clientWidth + 1 && getComputedStyle(one).overflowX !== "visible"))
            .map((one) => one.outerHTML.slice(0, 150));
    """))


def test_a_keyboard_is_enough(browser: Browser) -> None:
    """Tab reaches every control, shows where it is, and leaves again; keys send, stop, confirm and come back."""
    with bed() as server:
        server.gate.load.set()
        browser.open(server.url)
        browser.find("#try-model option", "gate")
        server.ask("bot")
        browser.find("#ended-rows li", "bot")
        browser.find("[aria-label='Unload: bot']")
        browser.run("document.activeElement.blur()")
        reached, unseen = [], []
        for _ in range(60):
            browser.type(TAB)
            name, outlined, end = browser.run("""
                const one = document.activeElement;
                const style = getComputedStyle(one);
                return [one.ariaLabel || one.id || one.textContent.trim(), style.outlineStyle !== "none",
                        one === document.body];
            """)
            if end or (reached and name == reached[0]):
                break
            reached.append(name)
            unseen += [] if outlined else [name]
        wanted = {"Skip to the models", "Models", "Load: gate", "Unload: bot", "try-model", "clear", "message", "send"}
        assert wanted <= set(reached), reached
        assert unseen == []
        assert any("bot" in one and "in all" in one for one in reached)  # the summary of an ended request
        choose(browser, "gate")
        browser.run("document.querySelector('.skip').focus()")
        browser.type(ENTER)
        browser.until(lambda: browser.run("return document.activeElement.id") == "models")
        _press_alt_t(browser)
        assert browser.run("return document.activeElement.id") == "message"
        browser.type("Hi", ENTER)
        pieces(server.gate, "one ")
        browser.find("#log .assistant .text", "one")
        browser.type(ESCAPE)
        browser.find("#log .about", "Stopped")
        assert browser.run("return document.activeElement.id") == "message"


def _press_alt_t(browser: Browser) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    ActionChains(browser.driver, duration=0).key_down(Keys.ALT).send_keys("t").key_up(Keys.ALT).perform()


def test_focus_stays_while_things_change(browser: Browser) -> None:
    """A button keeps the focus while its row changes; when its row goes, the focus moves to the section."""
    with bed() as server:
        server.gate.load.set()
        browser.open(server.url)
        server.ask("gate")
        pieces(server.gate, "one ")
        browser.find("#request-rows li", "answering")
        browser.run("document.querySelector('#request-rows button').focus()")
        pieces(server.gate, "two ", "three ")
        browser.find("#request-rows li", "3 tokens")
        assert browser.run("return document.activeElement.textContent") == "Cancel"
        pieces(server.gate, None)
        browser.find("#request-rows", "Nothing runs")
        assert browser.run("return document.activeElement.id") == "requests"


def test_it_is_readable_without_scripts(browser: Browser) -> None:
    """A browser without JavaScript sees models and instances as tables, and a sentence names what it lacks."""
    with running_server({"tiny": BOT}) as url:
        browser.scripts(run=False)
        try:
            browser.driver.get(url)
            text = browser.driver.find_element("css selector", "body").text
            assert "Without JavaScript" in text
            assert "tiny" in text
            assert not browser.driver.find_element("css selector", "#page").is_displayed()
        finally:
            browser.scripts(run=True)
