"""A headless Chromium for the page's tests."""

import pytest

from support.browsing import chromium

browser = pytest.fixture(scope="module")(chromium)
