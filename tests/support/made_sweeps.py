"""Sweeps whose truth is known: run folders as `src.train` leaves them, with metrics from a formula."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from masked_sae.runs.curve import COLUMNS, VALIDATED
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.state import RunState, write_state
from masked_sae.runs.sweep_record import Member, record_members
from support.making import compose

RATES, KS, SEEDS = (0.0, 0.1, 0.2), (8, 16, 32), (0, 1, 2)
_SHIFT = 2.0  # L0 grows by this times the mask rate, in the logarithm
VALIDATE_EVERY = 4  # as with the defaults, where rows come every 50 steps and validations every 200
ATTEMPT: dict[str, Any] = {
    "began": "2026-11-01T12:00:00+00:00",
    "step": 0,
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "versions": {"python": "3.12.1", "masked-sae": "1.0", "torch": "2.10.0"},
    "device": "a CPU",
    "threads": 2,
}


def truth(l0: float) -> dict[str, float]:
    """What an SAE of this L0 would measure without noise, masked or not: curved, as real ones are."""
    return {
        "core/explained_variance": 1 - 0.55 * (l0 / 8) ** -0.35,
        "core/ce_recovered": 1 - 0.1 * (l0 / 8) ** -0.7,
        "core/dead_latents": 0.02,
        "absorption/token_class/full_absorption": 0.35 * math.exp(-l0 / 18),
        "absorption/token_class/absorption_fraction": 0.4 * math.exp(-l0 / 18),
        "absorption/token_class/l0": 1.1 * l0,
        "sparse_probing/top_1": 0.7 + 0.03 * math.log(l0),
        "sparse_probing/top_5": 0.8 + 0.03 * math.log(l0),
        "sparse_probing/lm": 0.95,
        "sparse_probing/l0": 0.95 * l0,
        "tpp/top_20": 0.05 + 0.02 * math.log(l0),
        "scr/top_20": 0.1 + 0.02 * math.log(l0),
        "ood/auc_latents": 0.8,
        "ood/auc_latents_oracle": 0.9,
        "ood/gap": 0.12 - 0.01 * math.log(l0),
        "ood/gap_low": 0.05,
        "ood/gap_high": 0.15,
        "ood/lm_gap": 0.03,
    }


def make_sweep(
    sweep: Path,
    *,
    rates: Sequence[float] = RATES,
    ks: Sequence[int] = KS,
    seeds: Sequence[int] = SEEDS,
    data_seeds: Sequence[int | None] = (None,),
    effect: Mapping[str, float] | None = None,
    noise: float = 0.005,
    noise_seed: int = 0,
    only: Sequence[str] | None = None,
    steps: int = 4,
    settings: Mapping[str, Any] | None = None,
) -> list[Member]:
    """Writes a sweep over mask rate, k, data seed and seed.

    Args:
        data_seeds: each with all seeds; None: as the seed.
        effect: for a metric, what a mask rate of 1 adds to it.
        noise: standard deviation between runs.
        only: the metrics that were measured; None for all.
        steps: rows of each training curve.
        settings: changes of the configuration, by dotted key.
    """
    rng = np.random.default_rng(noise_seed)
    base = asdict(compose([]))
    members: list[Member] = []
    for rate, k, data_seed, seed in itertools.product(rates, ks, data_seeds, seeds):
        l0 = k * math.exp(_SHIFT * rate + rng.normal(0, 0.02))
        metrics = {key: value + rng.normal(0, noise) for key, value in truth(l0).items()}
        for key, slope in (effect or {}).items():
            metrics[key] += slope * rate
        metrics = {"core/l0": l0} | {key: value for key, value in metrics.items() if only is None or key in only}
        swept = {"mask.token.rate": str(rate), "sae.k": str(k), "seed": str(seed)}
        changes = {"mask.token.rate": rate, "sae.k": k, "data.seed": data_seed, "seed": seed, **(settings or {})}
        config = with_settings(base, changes)
        text = ""
        if data_seed is not None:
            swept["data.seed"], text = str(data_seed), f"-data.seed{data_seed}"
        folder = RunFolder(sweep / f"rate{rate}-k{k}{text}-seed{seed}")
        write_done(folder, config, metrics, steps)
        members.append(Member(folder, swept))
    record_members(sweep, members)
    return members


def write_done(folder: RunFolder, config: Mapping[str, Any], metrics: Mapping[str, Any], steps: int = 4) -> None:
    """A run that is done, as it is left but for what nobody reads here: weights, checkpoints, histograms.

    Its files are written plainly: a thousand of them should not wait for the disk.
    """
    import json

    folder.path.mkdir(parents=True, exist_ok=True)
    folder.config.write_text(json.dumps(config))  # JSON is YAML
    curve = [_row(i, metrics["core/l0"], validated=i % VALIDATE_EVERY == 0 or i == steps) for i in range(1, steps + 1)]
    columns = ("step", "tokens", *COLUMNS, *VALIDATED)
    rows = [",".join(str(row.get(column, "")) for column in columns) for row in curve]
    folder.metrics.write_text("\n".join([",".join(columns), *rows]) + "\n")
    folder.attempts.write_text(json.dumps([ATTEMPT]))
    results = {"run_id": folder.run_id, "status": "done", "config": config, "metrics": metrics}
    folder.results.write_text(json.dumps(results))
    state = RunState(folder.run_id, "done", step=steps, steps=steps, tokens=steps * 1024, seconds=2.0)
    folder.state.write_text(json.dumps(asdict(state)))


def _row(i: int, l0: float, *, validated: bool) -> dict[str, float]:
    """Of a training curve."""
    row = {"step": i, "tokens": i * 1024} | dict.fromkeys(COLUMNS, 0.5)
    row |= {"loss": round(1 / i, 4), "explained_variance": round(1 - 0.5 / i, 4), "l0": round(l0, 3)}
    if validated:
        row |= {"val/l0": round(l0 * (1 + 1 / i), 3), "val/explained_variance": round(1 - 0.6 / i, 4)}
        row["val/ce_recovered"] = round(1 - 0.7 / i, 4)
    return row


def with_settings(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a nested configuration with these dotted keys changed."""
    import copy

    changed: dict[str, Any] = copy.deepcopy(dict(config))
    for key, value in changes.items():
        holder = changed
        *parents, last = key.split(".")
        for parent in parents:
            holder = holder[parent]
        holder[last] = value
    return changed


def break_members(members: Sequence[Member]) -> None:
    """Has the first fail, the second be gone, and the third stop half-way."""
    import shutil

    failed, gone, half = members[:3]
    failed.folder.results.unlink()
    write_state(failed.folder.state, RunState(failed.folder.run_id, "failed", step=1, steps=4), error="the loss is nan")
    shutil.rmtree(gone.folder.path)
    half.folder.results.unlink()
    state = RunState(half.folder.run_id, "preempted", step=2, steps=4)
    write_state(half.folder.state, state, error="stopped by SIGTERM")
