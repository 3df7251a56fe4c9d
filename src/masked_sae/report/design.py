"""What the runs were for: how each was masked, or cured otherwise, how sparse it was made, and what else differs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from masked_sae.report.runs_table import Runs
from masked_sae.runs.identity import HOW, is_part_of
from masked_sae.runs.sweep_record import heading

_REPEATED = ("seed", "data.seed")
# Runs that differ in these alone are still compared: as repetitions, or as the same but for rounding. Unlike in a run's
# id, another LM is something else, and so is another way of measuring.
_COMPARABLE = (*HOW, *_REPEATED, "name", "objective", "lm.batch_size", "eval.families", "eval.batch_size")


@dataclass(frozen=True)
class Arm:
    """One way of masking, or of what is to do the same, for all its runs.

    Attributes:
        rate: of the kind of mask that the arms differ in; None where they differ in more than that.
    """

    label: str
    unmasked: bool
    rate: float | None


@dataclass(frozen=True)
class Design:
    """Attributes:
    arms: unmasked first, without any other cure either; then by rate.
    sparsities: labels such as `k 16`, sparsest first.
    strata: runs that differ in anything but mask, cures, sparsity and seeds are never compared; one empty label if none
        do.
    places: one row for each measured run, under its index in `Runs.table`: `seed` and `data_seed`, and as positions
        `arm`, `sparsity` and `stratum`.
    varied: settings that differ between runs, with their values.
    fixed: settings that all runs share.
    """

    arms: tuple[Arm, ...]
    sparsities: tuple[str, ...]
    strata: tuple[str, ...]
    places: pd.DataFrame
    varied: Mapping[str, tuple[Any, ...]]
    fixed: Mapping[str, Any]

    @property
    def baseline(self) -> int | None:
        """The place of the unmasked arm."""
        return 0 if self.arms and self.arms[0].unmasked else None


def read_design(runs: Runs) -> Design:
    """Finds arms, sparsities and strata in the settings that differ between the runs that were measured."""
    table = runs.measured
    arm_of, arms = _arms(_masks(runs), runs.labels)
    known = table[table[list(runs.settings)].notna().any(axis=1)]  # SAEs from elsewhere may have no settings
    differing = [key for key in runs.settings if len(distinct(known[key], keep_none=True)) > 1]
    sparsity_keys = [key for key in differing if key in runs.sparsity]
    sparsity_keys = sparsity_keys or [key for key in runs.sparsity if key in runs.settings and known[key].notna().any()]
    sparsity_of, sparsities = _labelled(table, sparsity_keys, runs.labels)
    stratum_keys = [
        key
        for key in differing
        if not (key.startswith("mask.") or key in runs.cures or key in sparsity_keys or is_part_of(key, _COMPARABLE))
        and not _follows(table, key, sparsity_keys)
        and not _of_some_architectures(known, key)
    ]
    stratum_of, strata = _labelled(known, stratum_keys, runs.labels)
    if len(known) < len(table):
        strata = (*strata, "settings not known")
        stratum_of = stratum_of.reindex(table.index, fill_value=len(strata) - 1)
    places = pd.DataFrame({"arm": arm_of, "sparsity": sparsity_of, "stratum": stratum_of, **_seeds(table)})
    shown = [key for key in runs.settings if not is_part_of(key, _COMPARABLE) or key in _REPEATED]
    values = {key: distinct(runs.own[key]) for key in shown}
    varied = {key: found for key, found in values.items() if len(found) > 1}
    of_some = {key for key in values if key.startswith("sae.") and known[key].isna().any()}
    fixed = {key: found[0] for key, found in values.items() if len(found) == 1 and key not in of_some}
    return Design(arms, sparsities, strata, places, varied, fixed)


def _seeds(table: pd.DataFrame) -> dict[str, "pd.Series[Any]"]:
    """Of each run; where `data.seed` is not set, or was not known yet, `seed` has drawn the stream too."""
    seed = table["seed"] if "seed" in table else pd.Series(float("nan"), index=table.index)
    own = table["data.seed"] if "data.seed" in table else pd.Series(float("nan"), index=table.index)
    return {"seed": seed, "data_seed": seed.where(own.isna(), own)}


def _masks(runs: Runs) -> pd.DataFrame:
    """What hides anything in each measured run, and what else is to cure what masks are."""
    rows: list[dict[str, Any]] = []
    measured = runs.measured
    cures = runs.cures.loc[measured.index].to_dict("records")
    for name, masks, cured in zip(measured["run_id"], runs.masks.loc[measured.index], cures, strict=True):
        unknown = {"masked": True, "other": f"{name} (mask not known)"}
        known: dict[str, Any] = {str(key): value for key, value in cured.items() if value is not None}
        known |= masks or {}
        rows.append(unknown if masks is None else {"masked": bool(known), **known})
    return pd.DataFrame(rows, index=measured.index)


def _arms(masks: pd.DataFrame, labels: Mapping[str, str]) -> tuple["pd.Series[int]", tuple[Arm, ...]]:
    keys = [key for key in masks.columns if key != "masked"]
    rates = [key for key in keys if key.endswith(".rate") or key == "other" or not key.startswith("mask.")]
    masked = masks[masks["masked"]] if len(masks) else masks
    name_by = [key for key in keys if len(distinct(masked[key], keep_none=key in rates)) > 1] or rates or keys
    arms: dict[tuple[Any, ...], Arm] = {}
    places: list[tuple[Any, ...]] = []
    for _, row in masks.iterrows():
        values = tuple(row[key] for key in name_by)
        places.append(_comparable(values) if row["masked"] else ())
        if not row["masked"]:
            arms[()] = Arm("unmasked", True, 0.0)
        else:
            rate = float(values[0]) if len(name_by) == 1 and name_by[0].endswith(".rate") else None
            arms[places[-1]] = Arm(_mask_label(name_by, values, labels), False, rate)
    order = sorted(arms)
    arm_of = pd.Series([order.index(place) for place in places], index=masks.index, dtype="int64")
    return arm_of, tuple(arms[place] for place in order)


def _mask_label(keys: Iterable[str], values: Iterable[Any], labels: Mapping[str, str]) -> str:
    parts = [
        str(value) if key == "other" else f"{_mask_setting(key, labels)} {show_setting(value)}"
        for key, value in zip(keys, values, strict=True)
        if not _is_none(value)
    ]
    return ", ".join(parts) or "masked"


def _mask_setting(key: str, labels: Mapping[str, str]) -> str:
    """A rate without a name of its own has the mask's."""
    if key not in labels and key.endswith(".rate"):
        return f"{heading(key.removesuffix('.rate'), {})} mask rate"
    return heading(key, labels)


def _labelled(
    table: pd.DataFrame, keys: list[str], labels: Mapping[str, str]
) -> tuple["pd.Series[int]", tuple[str, ...]]:
    """Numbers the distinct combinations of these settings, smallest first, and names them."""
    combinations = [tuple(row[key] for key in keys) for _, row in table.iterrows()]
    ordered = sorted({_comparable(values): values for values in combinations}.items())
    places = {place: i for i, (place, _) in enumerate(ordered)}
    names = tuple(_label(keys, values, labels) for _, values in ordered)
    positions = [places[_comparable(values)] for values in combinations]
    return pd.Series(positions, index=table.index, dtype="int64"), names


def _label(keys: list[str], values: tuple[Any, ...], labels: Mapping[str, str]) -> str:
    """Without what is None, as what another architecture has is, unless nothing is left."""
    named = list(zip(keys, values, strict=True))
    named = [(key, value) for key, value in named if not _is_none(value)] or named
    return ", ".join(f"{heading(key, labels)} {show_setting(value)}" for key, value in named)


def _of_some_architectures(table: pd.DataFrame, key: str) -> bool:
    """Whether a setting of the SAE differs only in that some architectures do not have it."""
    return key.startswith("sae.") and len(distinct(table[key])) == 1


def _follows(table: pd.DataFrame, key: str, sparsity_keys: list[str]) -> bool:
    """Whether a number of the SAE only goes with the sparsity, as an auxiliary k may."""
    if not key.startswith("sae.") or not sparsity_keys or not pd.api.types.is_numeric_dtype(table[key]):
        return False
    return bool((table.groupby(sparsity_keys, dropna=False)[key].nunique(dropna=False) <= 1).all())


def _comparable(values: tuple[Any, ...]) -> tuple[tuple[bool, float, str], ...]:
    """Numbers by size, words by letter, what is not known last."""
    key: list[tuple[bool, float, str]] = []
    for value in values:
        number = isinstance(value, (int, float)) and not _is_none(value)
        key.append((_is_none(value), float(value) if number else 0.0, "" if number or _is_none(value) else str(value)))
    return tuple(key)


def distinct(column: "pd.Series[Any]", keep_none: bool = False) -> tuple[Any, ...]:
    """The values of a column, smallest first."""
    found = {_comparable((value,)): value for value in column if keep_none or not _is_none(value)}
    return tuple(found[place] for place in sorted(found))


def _is_none(value: object) -> bool:
    return value is None or value != value or value is pd.NA


def show_setting(value: object) -> str:
    if _is_none(value):
        return "not known"
    return f"{value:.10g}" if isinstance(value, float) else str(value)
