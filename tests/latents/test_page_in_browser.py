"""The page of latents as a person meets it: in a headless Chromium, opened from disk."""

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from masked_sae.latents.columns import Latents
from masked_sae.latents.page import write_page
from support.browsing import visit, wait_for
from support.made_latents import FACTS, make_latents

pytestmark = pytest.mark.browser

HOSTILE = [
    " the", " cat", "<script>document.title='owned'</script>", "\u202egnp.exe", "\n", "\x07", "مرحبا", "</script>",
    "<img src=x onerror=\"document.title='owned'\">", "é",
]  # fmt: skip
LATENTS = 300


@pytest.fixture(scope="module")
def latents() -> Latents:
    return make_latents(LATENTS, dict(enumerate(HOSTILE)))


@pytest.fixture(scope="module")
def page(latents: Latents, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "<i>run & #1"
    return write_page(folder, latents, FACTS | {"latents": LATENTS, "run": "<i>made"})


def listed(browser: Any) -> list[int]:
    rows = browser.execute_script("return [...document.querySelectorAll('#rows a')].map(row => row.dataset.latent)")
    return [int(row) for row in rows]


def search(browser: Any, query: str, where: str) -> int:
    """How many latents are found."""
    browser.execute_script(
        """document.querySelector('#query').value = arguments[0];
        document.querySelector('#where').value = arguments[1];
        document.querySelector('#where').dispatchEvent(new Event('change'))""",
        query,
        where,
    )
    return int(browser.find_element("id", "shown").text.split(" ")[0].replace(",", ""))


def shows(browser: Any, latent: int) -> bool:
    return browser.find_element("css selector", "#one h2").text == f"Latent {latent}"


def test_hostile_tokens_are_seen_and_do_nothing(browser: Any, page: Path) -> None:
    visit(browser, page, "#latent=7")
    text = browser.execute_script("return document.querySelector('#one').textContent")
    for seen in (HOSTILE[2], HOSTILE[8], "\\u{202e}gnp.exe", "\\u{7}", "↵", "مرحبا", "</script>"):
        assert seen in text, seen
    assert not re.search("[\u202e\x07\n]", text)
    assert browser.title == "<i>made: latents" and browser.get_log("browser") == []
    assert browser.find_elements("css selector", "main img, main script, header i") == []


def test_nothing_runs_that_is_not_beside_the_page(browser: Any, page: Path) -> None:
    visit(browser, page)
    browser.execute_script(
        """const script = document.createElement('script');
        script.textContent = "document.title = 'owned'";
        document.body.append(script)"""
    )
    assert browser.title != "owned"
    assert "Content Security Policy" in browser.get_log("browser")[0]["message"]


def test_columns_sort(browser: Any, page: Path, latents: Latents) -> None:
    visit(browser, page)
    count_F = latents.activity.count_F.numpy()
    assert listed(browser)[:5] == np.argsort(-count_F, kind="stable")[:5].tolist()
    heading = "#headings [data-column={}]"
    browser.find_element("css selector", heading.format("latent")).click()
    assert listed(browser)[:5] == [0, 1, 2, 3, 4]
    browser.find_element("css selector", heading.format("latent")).click()
    assert listed(browser)[:2] == [LATENTS - 1, LATENTS - 2]
    browser.find_element("css selector", heading.format("max")).click()
    assert listed(browser)[0] == int(latents.activity.max_F.argmax())
    browser.find_element("css selector", heading.format("promotes")).click()
    first = browser.execute_script("return document.querySelector('#rows a .tokens:last-child bdi').textContent")
    assert first == "↵"  # which is nothing once spaces are left out


def test_search_finds_promoted_tokens_contexts_and_numbers(browser: Any, page: Path, latents: Latents) -> None:
    visit(browser, page)
    assert latents.effects is not None
    assert search(browser, "CAT", "promoted") == int((latents.effects.raised_FM == 1).any(1).sum()) > 0
    first_FK, alive_FK = latents.activity.top.first_FK.numpy(), latents.activity.top.value_FK.numpy() > 0
    begins = np.array([first for first in range(len(latents.text_U) - 2) if _reads(latents, first, " the cat")])
    within_FKB = (begins >= first_FK[..., None]) & (begins < first_FK[..., None] + 32)
    assert search(browser, " the cat", "contexts") == int((within_FKB.any(2) & alive_FK).any(1).sum()) > 0
    assert search(browser, "nowhere", "any") == 0
    search(browser, "17", "any")
    assert listed(browser) == [17]
    assert search(browser, "", "any") == LATENTS


def _reads(latents: Latents, first: int, wanted: str) -> bool:
    return "".join(HOSTILE[token] for token in latents.text_U[first : first + 2]) == wanted


def test_links_and_keys_lead_to_latents(browser: Any, page: Path) -> None:
    from selenium.webdriver import Keys

    visit(browser, page, "#latent=123")
    assert shows(browser, 123)
    near = browser.find_element("css selector", "#one .chips a")
    latent = int(near.text)
    near.click()
    wait_for(lambda: shows(browser, latent))
    browser.find_element("css selector", "#headings [data-column=latent]").click()
    browser.find_element("css selector", "#rows a").send_keys(Keys.ENTER)
    wait_for(lambda: shows(browser, 0))
    assert "Dead" in browser.find_element("id", "one").text
    browser.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    wait_for(lambda: shows(browser, 1))
    browser.switch_to.active_element.send_keys(Keys.END)
    wait_for(lambda: shows(browser, LATENTS - 1))
    assert browser.current_url.endswith(f"#latent={LATENTS - 1}")


def test_it_fits_a_phone(browser: Any, page: Path) -> None:
    size = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        visit(browser, page, "#latent=5")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 400
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_data_of_another_page_is_not_shown(browser: Any, tmp_path: Path) -> None:
    page = write_page(
        tmp_path, make_latents(3, {0: "a"}, with_effects=False), FACTS | {"latents": 3, "no_effects": "x"}
    )
    index = tmp_path / "latents_data" / "index.js"
    visit(browser, page)
    assert browser.find_elements("css selector", "[data-column=promotes]") == []
    index.write_text(re.sub(r'("stamp": ")', r"\1of another", index.read_text()))
    browser.refresh()
    wait_for(lambda: "belongs to another page" in browser.find_element("id", "one").text)


def test_a_file_that_is_missing_is_named(browser: Any, latents: Latents, tmp_path: Path) -> None:
    page = write_page(tmp_path, latents, FACTS | {"latents": LATENTS})
    (tmp_path / "latents_data" / "latents-1.js").unlink()
    visit(browser, page, "#latent=299")
    wait_for(lambda: "latents-1.js is not there" in browser.find_element("id", "one").text)


@pytest.mark.long
def test_65536_latents_open_within_two_seconds_and_100_megabytes(browser: Any, tmp_path: Path) -> None:
    texts = {token: f" token{token}" for token in range(50_000)}
    latents = make_latents(65_536, texts, length=1_000_000)
    started = time.monotonic()
    page = write_page(tmp_path, latents, FACTS | {"latents": 65_536})
    wrote = time.monotonic() - started
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert size < 100e6
    seconds: list[float] = []
    for _ in range(3):  # the best of three: other work on the machine is no part of the page
        visit(browser, page)
        opened = browser.execute_script("return performance.getEntriesByName('ready')[0].startTime")
        seconds.append(opened / 1000)
    print(f"\nwritten in {wrote:.1f} s, {size / 1e6:.1f} MB, opens in {min(seconds):.2f} s")
    assert min(seconds) < 2.0, seconds
    started = time.monotonic()
    assert search(browser, "token77", "any") > 0
    print(f"searched in {time.monotonic() - started:.2f} s")
    assert browser.get_log("browser") == []
