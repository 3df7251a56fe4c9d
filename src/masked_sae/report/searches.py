"""What a search found, stated from runs that had no part in the choice.

The best of many runs is the luckiest among the good ones: its own figures flatter it. So nothing is said of them but
which it was; what it is worth is the mean over new seeds, once it was trained on these.
"""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masked_sae.errors import DamagedFileError
from masked_sae.report.catalogue import our_catalogue
from masked_sae.report.repetitions import Repetition, Repetitions, show_count, text_order_means
from masked_sae.report.sentences import decimals
from masked_sae.report.statistics import Interval, t_interval
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.results import Results, read_results
from masked_sae.runs.search_record import Found, SearchRecord, read_search
from masked_sae.runs.sweep_record import Member, read_members


@dataclass(frozen=True)
class Best:
    """Attributes:
    settings: that were found.
    confirmed: a line for each objective, from new seeds; none where there are none.
    """

    settings: str
    confirmed: tuple[str, ...]


@dataclass(frozen=True)
class Search:
    """Attributes:
    line: what was searched, for what, in how many runs.
    confirm: the command that trains what was found on new seeds.
    confirmed_in: the folder of the runs that it trains.
    """

    sweep: str
    line: str
    best: tuple[Best, ...]
    confirm: str
    confirmed_in: str


def read_searches(sweeps: Sequence[Path]) -> tuple[list[Search], list[str]]:
    """Those of the sweeps that are searches, and what of their records could not be read."""
    found: list[Search] = []
    damage: list[str] = []
    for sweep in sweeps:
        try:
            record = read_search(sweep)
        except DamagedFileError as damaged:
            damage.append(str(damaged))
            continue
        if record is not None:
            found.append(_search(sweep, record))
    return found, damage


def searches_text(searches: Sequence[Search]) -> str:
    """The same in Markdown; empty where there is none."""
    lines: list[str] = []
    for one in searches:
        lines += ["", one.line, ""]
        for best in one.best:
            lines.append(f"- Best of its own runs: `{best.settings}`. " + (" ".join(best.confirmed) or _UNCONFIRMED))
        if not all(best.confirmed for best in one.best):
            lines += ["", f"    {one.confirm}"]
    return "\n".join(lines) + "\n" if lines else ""


_UNCONFIRMED = "To be confirmed on new seeds: it was chosen for its own figures, which flatter it."


def _search(sweep: Path, record: SearchRecord) -> Search:
    trials = ", ".join(f"{count} {_ENDS.get(state, state)}" for state, count in record.trials.items())
    searched = ", ".join(f"{key} {words}" for key, words in record.searched.items())
    objectives = " and ".join(record.objectives)
    line = f"{sweep.resolve().name} is a search for {objectives} over {searched}: {trials}."
    place = sweep.parent / record.confirmed_in
    best = tuple(_best(sweep, place, record.objectives, one) for one in record.best)
    return Search(sweep.resolve().name, line, best, shlex.join(record.confirm), str(place))


_ENDS = {"complete": "done", "fail": "failed", "running": "not ended"}  # what Optuna calls otherwise


def _best(sweep: Path, place: Path, objectives: Sequence[str], found: Found) -> Best:
    chosen_on = _repetition(_results(RunFolder(sweep / found.run_id)))
    of_seed: dict[Repetition, Results] = {}
    for member in read_members(place):
        if not _is_of(member, found.settings) or (results := _results(member.folder)) is None:
            continue
        repetition = _repetition(results)
        if repetition is not None and not _shares(repetition, chosen_on):
            of_seed[repetition] = results
    lines = tuple(line for key in objectives if (line := _mean(key, of_seed)))
    return Best(", ".join(f"{key}={value}" for key, value in found.settings.items()), lines)


def _is_of(member: Member, settings: Mapping[str, str]) -> bool:
    return all(member.swept.get(key) == value for key, value in settings.items())


def _shares(one: Repetition, other: Repetition | None) -> bool:
    """Whether chance decided the same in both, of the text or of the SAE."""
    return other is not None and (one.data_seed == other.data_seed or one.seed == other.seed)


def _results(folder: RunFolder) -> Results | None:
    try:
        return read_results(folder)
    except (OSError, DamagedFileError):
        return None  # the table of its own sweep says so


def _repetition(results: Results | None) -> Repetition | None:
    if results is None:
        return None
    seed: Any = results.config.get("seed")
    data: Any = results.config.get("data")
    of_text: Any = data.get("seed") if isinstance(data, Mapping) else None
    if not isinstance(seed, int):
        return None
    return Repetition(of_text if isinstance(of_text, int) else seed, seed)


def _mean(key: str, of_seed: Mapping[Repetition, Results]) -> str:
    values = {one: results.metrics[key] for one, results in of_seed.items() if key in results.metrics}
    if not values:
        return ""
    interval = t_interval(text_order_means(list(values.values()), [one.data_seed for one in values]))
    label = our_catalogue().describe(key).label
    return f"On {show_count(Repetitions(tuple(values)))} that had no part in the choice, {label}: {_shown(interval)}."


def _shown(interval: Interval) -> str:
    if math.isnan(interval.low):
        return f"{interval.mean:.3g}, without an interval"
    digits = decimals(interval.high - interval.low)
    return f"{interval.mean:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
