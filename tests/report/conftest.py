"""A headless Chromium for the page's tests."""

import os
import shutil
from collections.abc import Generator
from typing import Any

import pytest


@pytest.fixture(scope="module")
def browser() -> Generator[Any]:
    """A Chromium that keeps what pages write to its console; skipped where there is none, unless one is required."""
    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        if os.environ.get("MASKED_SAE_REQUIRE_BROWSER") == "1":
            pytest.fail("MASKED_SAE_REQUIRE_BROWSER=1, but chromium or chromedriver is not installed")
        pytest.skip("no chromium with chromedriver")
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1366,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    yield opened
    opened.quit()
