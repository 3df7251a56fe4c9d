"""A headless Chromium for pages, opened from disk."""

import os
import shutil
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

_READY = "return document.documentElement.dataset.ready === 'yes'"


def chromium() -> Generator[Any]:
    """One that keeps what pages write to its console; skipped where there is none, unless one is required."""
    found, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if found is None or driver is None:
        if os.environ.get("MASKED_SAE_REQUIRE_BROWSER") == "1":
            pytest.fail("MASKED_SAE_REQUIRE_BROWSER=1, but chromium or chromedriver is not installed")
        pytest.skip("no chromium with chromedriver")
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = found
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1366,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    yield opened
    opened.quit()


def wait_for(true: Callable[[], Any], seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return found


def visit(browser: Any, page: Path, fragment: str = "") -> None:
    """Opens a page, and waits until it is ready."""
    browser.get("about:blank")  # a page that is left for its own fragment would not be read again
    browser.get_log("browser")  # forget what earlier pages wrote
    browser.get(page.resolve().as_uri() + fragment)
    wait_for(lambda: browser.execute_script(_READY))
