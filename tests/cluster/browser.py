"""A headless Chromium, as somebody would look at the operator's page."""

import base64
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from clusters.console import ClusterError
from clusters.packages import missing_packages, require_packages

# Debian's names, each with a program that only this package brings.
PACKAGES = {"chromium": "chromium", "chromium-driver": "chromedriver"}
DESKTOP, PHONE = (1360, 900), (390, 844)


class Browser:
    """One window of it."""

    def __init__(self, driver: Chrome) -> None:
        self._driver = driver
        self.requested: list[str] = []
        """Addresses that were asked for, so far as `errors` has looked."""

    def open(self, address: str) -> None:
        self._driver.get(address)

    def find(self, selector: str) -> WebElement:
        return self._driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self._driver.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """What a person reads there."""
        return [element.text for element in self.all(selector)]

    def run(self, script: str, *arguments: Any) -> Any:
        return self._driver.execute_script(script, *arguments)

    @contextmanager
    def another_tab(self) -> Iterator[None]:
        """Look at another tab, and come back."""
        first = self._driver.current_window_handle
        self._driver.switch_to.new_window("tab")
        yield
        self._driver.close()
        self._driver.switch_to.window(first)

    def resize(self, size: tuple[int, int], *, dark: bool = False) -> None:
        """Have the page as wide as a screen or a phone, and in its light or dark colours."""
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE}
        self._command("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._command("Emulation.setEmulatedMedia", {"features": [scheme]})

    def screenshot(self, file: Path, *, height: int | None = None) -> None:
        """The page from its top, all of it or as much as `height`."""
        size = self._command("Page.getLayoutMetrics", {})["cssContentSize"]
        clip = {
            "x": 0,
            "y": 0,
            "width": size["width"],
            "height": min(size["height"], height or size["height"]),
            "scale": 1,
        }
        taken = self._command("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        file.write_bytes(base64.b64decode(taken["data"]))

    def errors(self) -> list[str]:
        """What the console complained about since it was last asked."""
        for entry in self._driver.get_log("performance"):  # type: ignore[no-untyped-call]
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self.requested.append(message["params"]["request"]["url"])
        return [entry["message"] for entry in self._driver.get_log("browser")]  # type: ignore[no-untyped-call]

    def _command(self, name: str, parameters: dict[str, Any]) -> Any:
        return self._driver.execute_cdp_cmd(name, parameters)


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser, installed as root on Debian and its kin; elsewhere, without one, the test is skipped."""
    if missing_packages(PACKAGES):
        try:
            require_packages(PACKAGES, "looking at the page")
        except ClusterError as error:
            pytest.skip(str(error))
    options = ChromeOptions()
    # Root's Chromium has no sandbox, and containers have a small /dev/shm.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # By their paths: otherwise Selenium would look for others, and download them.
    options.binary_location = shutil.which("chromium") or ""
    driver = Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
