"""What a sweep cannot show is said before it trains."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from masked_sae.config import RunConfig
from masked_sae.sweeps.claims import what_a_claim_lacks
from support.composing import small_config

pytestmark = pytest.mark.slow


@pytest.fixture
def config(neox_folder: Path, corpus_folder: Path, tmp_path: Path) -> RunConfig:
    return small_config(neox_folder, corpus_folder, tmp_path, "name=sweep")


def test_a_sweep_says_before_it_trains_what_it_cannot_show(config: RunConfig) -> None:
    masked = replace(config, mask={**config.mask, "token": replace(config.mask["token"], rate=0.1)})
    plain = replace(config, mask={**config.mask, "token": replace(config.mask["token"], rate=0.0)})
    seeds = [replace(one, seed=seed) for one in (masked, plain) for seed in (0, 1)]
    assert what_a_claim_lacks(seeds) == []
    (lacking,) = what_a_claim_lacks([masked, plain])
    assert lacking == "one seed, so nothing tells an effect from chance (add seed=0,1,2,3,4)"
    assert what_a_claim_lacks([masked, replace(plain, seed=1)]) == [lacking]
    assert what_a_claim_lacks(seeds[:2]) == ["no unmasked run to compare with (add mask.token.rate=0)"]
    assert what_a_claim_lacks(seeds[2:]) == ["no masked run (add mask.token.rate=0,0.1)"]


def test_one_text_order_is_said_however_many_seeds_it_has(config: RunConfig) -> None:
    def members(*repetitions: tuple[int, int | None], rate: float) -> list[RunConfig]:
        mask = {**config.mask, "token": replace(config.mask["token"], rate=rate)}
        return [
            replace(config, mask=mask, seed=seed, data=replace(config.data, seed=data_seed))
            for seed, data_seed in repetitions
        ]

    def lacking(plain: Sequence[tuple[int, int | None]], masked: Sequence[tuple[int, int | None]]) -> list[str]:
        return what_a_claim_lacks([*members(*plain, rate=0.0), *members(*masked, rate=0.1)])

    one_order = [(seed, 7) for seed in range(3)]
    said = "one text order, so nothing tells an effect from chance (add data.seed=0,1,2)"
    assert lacking(one_order, one_order) == [said]
    assert lacking([(0, 0), (0, 1)], [(0, 0), (0, 1)]) == []
    assert lacking([(0, 0), (0, 1)], [(0, 0), (1, 1)]) == [said]  # of the second order no two runs are a pair
    assert lacking([(0, 1), (1, 0)], [(0, 1), (1, 0)]) == []
    assert lacking([(5, None), (0, 1)], [(5, 5), (0, 1)]) == []  # null is the seed


def test_a_price_at_one_sparsity_may_match_no_l0(neox_folder: Path, corpus_folder: Path, tmp_path: Path) -> None:
    rates = [
        small_config(neox_folder, corpus_folder, tmp_path, "sae=gated", f"mask.token.rate={rate}", f"seed={seed}")
        for rate in (0, 0.1)
        for seed in (0, 1)
    ]
    (lacking,) = what_a_claim_lacks(rates)
    assert "one sparsity" in lacking and lacking.endswith("(sweep sae.sparsity_coefficient)")
    more = [replace(one, sae=replace(one.sae, sparsity_coefficient=9.0)) for one in rates]  # type: ignore[call-arg]
    assert what_a_claim_lacks([*rates, *more]) == []


def test_a_run_with_another_cure_is_no_baseline(neox_folder: Path, corpus_folder: Path, tmp_path: Path) -> None:
    def members(*overrides: str) -> list[RunConfig]:
        seeds = [f"seed={seed}" for seed in (0, 1)]
        return [small_config(neox_folder, corpus_folder, tmp_path, "mask=none", *overrides, seed) for seed in seeds]

    cured, plain = members("sae.orthogonality=0.1"), members()
    assert what_a_claim_lacks([*cured, *plain]) == []
    assert what_a_claim_lacks(cured) == ["no unmasked run to compare with (add mask.token.rate=0)"]
    assert what_a_claim_lacks(plain) == ["no masked run (add mask.token.rate=0,0.1)"]
