"""Chromium without a window, driven by Selenium."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from typing import Any, TypeVar

import pytest
from waits_for_tests import GUARD

T = TypeVar("T")

DRIVER = "/usr/bin/chromedriver"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)
WIDE, PHONE = (1280, 900), (390, 844)
KINDS = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice")
"""The rules that the page has to follow, of those that axe knows."""


class Browser:
    """A browser with one page. Elements are named by CSS selectors."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        """Load a page as a new tab would: without anything that a page before has kept."""
        self.driver.get(url)
        self.run("try { sessionStorage.clear() } catch {}")
        self.driver.get(url)

    def run(self, script: str, *arguments: object) -> Any:
        """Run a script in the page, and return its result."""
        return self.driver.execute_script(script, *arguments)

    def until(self, act: Callable[[], T]) -> T:
        """Return the result of `act` once it is true; elements may come and go meanwhile."""
        from selenium.common.exceptions import WebDriverException
        from selenium.webdriver.support.ui import WebDriverWait

        waiting = WebDriverWait(self.driver, GUARD, poll_frequency=0.05, ignored_exceptions=[WebDriverException])
        try:
            return waiting.until(lambda _: act())
        except Exception:
            print(self.text("body"), self.errors(), sep="\n")  # noqa: T201  # what pytest shows of a failure
            raise

    def find(self, selector: str, text: str = "") -> Any:
        """Return the first visible element that a selector finds, with this text in it; wait for one."""

        def look() -> Any:
            found = self.driver.find_elements("css selector", selector)
            return next((one for one in found if one.is_displayed() and text in one.text), None)

        return self.until(look)

    def text(self, selector: str) -> str:
        """Return the visible text of all elements that a selector finds now."""
        return str(self.run(
            "return [...document.querySelectorAll(arguments[0])].map((one) => one.innerText).join('\\n')", selector,
        ))

    def gone(self, selector: str) -> None:
        """Wait until a selector finds nothing visible."""
        self.until(lambda: not any(one.is_displayed() for one in self.driver.find_elements("css selector", selector)))

    def click(self, selector: str, text: str = "") -> None:
        """Click an element as soon as it is there."""
        self.find(selector, text).click()

    def type(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver, duration=0).send_keys(*keys).perform()

    def resize(self, size: tuple[int, int]) -> None:
        """Show the page at this size."""
        width, height = size
        self._devtools("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500,
        })

    def prefer(self, scheme: str) -> None:
        """Prefer `light` or `dark` pages."""
        wanted = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
        features = [{"name": name, "value": value} for name, value in wanted.items()]
        self._devtools("Emulation.setEmulatedMedia", {"features": features})

    def scripts(self, *, run: bool) -> None:
        """Let later pages run scripts, or not."""
        self._devtools("Emulation.setScriptExecutionDisabled", {"value": not run})

    def requests(self) -> list[str]:
        """Return the addresses of everything that the page has loaded or asked for."""
        return list(self.run("return performance.getEntriesByType('resource').map((one) => one.name)"))

    def errors(self) -> list[str]:
        """Return the lines of the console since the last call, which are errors and warnings."""
        return [one["message"] for one in self.driver.get_log("browser")]

    def complaints(self) -> Mapping[str, list[str]]:
        """Return the rules of accessibility that the page breaks, with the elements."""
        if not self.run("return typeof axe === 'object'"):
            self.run(files("axe_core_python").joinpath("axe.min.js").read_text())
        found = self.driver.execute_async_script(
            "const [kinds, done] = arguments;"
            "const wanted = { runOnly: kinds, resultTypes: ['violations'] };"
            "axe.run(document, wanted).then(done, (error) => done(`${error}`));",
            [*KINDS],
        )
        assert isinstance(found, dict), found
        return {one["id"]: [node["html"][:200] for node in one["nodes"]] for one in found["violations"]}

    def _devtools(self, command: str, values: Mapping[str, object]) -> None:
        self.driver.execute_cdp_cmd(command, json.loads(json.dumps(values)))


@contextmanager
def browsing(folder: str) -> Iterator[Browser]:
    """Run a browser that keeps its files in this folder; skips the test if there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install '.[dev]'")
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    driver = shutil.which("chromedriver") or shutil.which(DRIVER)
    if program is None or driver is None:
        pytest.skip("Chromium and its driver are not installed: make page, or apt-get install chromium chromium-driver")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={folder}", f"--window-size={WIDE[0]},{WIDE[1]}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=Service(driver))
    try:
        browser = Browser(made)
        browser.resize(WIDE)
        yield browser
    finally:
        made.quit()
