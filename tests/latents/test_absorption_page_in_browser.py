"""The page of absorption as a person meets it: in a headless Chromium, opened from disk, whatever the tokens are."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from masked_sae.evals.absorbed import Absorbed
from masked_sae.evals.absorption_decisions import ConceptDecisions
from masked_sae.latents.absorption_cases import Case, ConceptCases, ConceptLatent, Outcome
from masked_sae.latents.absorption_contexts import TokenInContext, visible
from masked_sae.latents.absorption_page import write_absorption_page
from masked_sae.latents.absorption_view import Group, ShownConcept, ShownLatent, ShownPosition, ShownSet, Side
from masked_sae.latents.pairing import Match
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.run import Run
from support.browsing import visit
from support.making import compose

pytestmark = pytest.mark.browser

EVIL = "<script>document.title = 'evil'</script><img src=x onerror=document.title=1>"
HOSTILE = [
    EVIL,
    "\N{HEBREW LETTER ALEF}\N{HEBREW LETTER BET}\N{HEBREW LETTER GIMEL}",
    "\N{RIGHT-TO-LEFT OVERRIDE}abc",
    "\n",
    "\t",
    "\0",
]
W = len(HOSTILE)


def concept(name: str, sides: int) -> ShownConcept:
    """Absorbed at every position, each of which is one of the hostile tokens."""
    yes_W, numbers_W = torch.ones(W, dtype=torch.bool), torch.ones(W)
    absorbed = Absorbed(yes_W, torch.full((W,), 5), numbers_W, yes_W, numbers_W, numbers_W)
    cases = ConceptCases(
        name, ConceptDecisions(0, (0.5,), (3,), torch.arange(W), absorbed), (), (), (Outcome.ABSORBED,) * W
    )
    match = Match(7, 0.9, mutual=True) if sides == 2 else None
    main = ShownLatent(ConceptLatent(3, 0.4, 1, 0, 0.5), match=match, role="main")
    absorbing = ShownLatent(ConceptLatent(5, 0.3, W, W), [(visible(one), 1) for one in HOSTILE], 4, match, "")
    case = Case(0, 0, Outcome.ABSORBED, 2.0, 1.0, (0.0,), 5, 2.0, 0.3, 0.6, 1.0)
    contexts = [TokenInContext(visible(one), visible(one), visible(one)) for one in HOSTILE]
    shown = [ShownPosition(context, [case] * sides) for context in contexts]
    return ShownConcept(name, 0.9, [Side(cases, [main], [absorbing])] * sides, [Group(EVIL, 100, 3, shown)])


def runs_in(folder: Path, names: Sequence[str]) -> list[Run]:
    runs = [Run(RunFolder(folder / name), {}, compose()) for name in names]
    for run in runs:
        run.folder.path.mkdir(parents=True)
    return runs


def open_page(browser: Any, folder: Path, runs: Sequence[Run]) -> None:
    concepts = [concept("plain", len(runs)), concept(EVIL, len(runs))]
    several = [1.0] * len(runs)
    measured = ShownSet("some", "weight", "absorption/some/full_absorption", several, several, None, concepts)
    lacking = ShownSet("others", "weight", "", (), (), EVIL, ())
    visit(browser, write_absorption_page(folder / "absorption.html", runs, [measured, lacking]))


@pytest.mark.parametrize("names", [["one"], ["one", "<i>two & #3"]])
def test_hostile_tokens_are_shown_as_they_are_and_do_nothing(browser: Any, tmp_path: Path, names: list[str]) -> None:
    runs = runs_in(tmp_path, names)
    open_page(browser, runs[0].folder.path, runs)
    assert browser.title == f"Absorption: {' against '.join(names)}"
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.querySelectorAll('img, main script').length") == 0
    shown = browser.execute_script(
        "return [...document.querySelectorAll('details p.context bdi.token')].map(e => e.textContent)"
    )
    assert shown == [EVIL, HOSTILE[1], r"\u202eabc", "↵", "⇥", r"\x00"] * 2
    assert EVIL in browser.execute_script("return document.querySelector('section p.warning').textContent")


def test_it_is_read_on_a_desk_and_on_a_telephone(browser: Any, tmp_path: Path) -> None:
    runs = runs_in(tmp_path, ["one", "two"])
    before = browser.get_window_size()
    for width in (1280, 400):
        browser.set_window_size(width, 900)
        open_page(browser, runs[0].folder.path, runs)
        needed, there = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert needed <= there
    browser.set_window_size(before["width"], before["height"])


def test_a_link_to_a_concept_opens_it_and_one_to_a_latent_names_it(browser: Any, tmp_path: Path) -> None:
    (run,) = runs_in(tmp_path, ["one #1"])
    (run.folder.path / "latents.html").write_text("<title>latents</title>")
    open_page(browser, run.folder.path, [run])
    second = browser.find_elements("css selector", "details")[1]
    assert not second.get_property("open")
    browser.find_element("css selector", "a[href='#some-weight-2']").click()
    assert second.get_property("open")
    browser.find_element("css selector", "details[open] a[href$='#latent=5']").click()
    assert browser.title == "latents" and browser.current_url.endswith("/one%20%231/latents.html#latent=5")
