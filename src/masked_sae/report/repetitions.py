"""What repeats a run: another text order, another draw of the SAE, or both."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Repetition(NamedTuple):
    """All that chance decided in a run.

    Attributes:
        data_seed: drew the stream. Runs of one data seed have read the same text in the same order: a text order is a
            cluster, and clusters are the sample.
        seed: drew the SAE: first weights, latent and input masks.
    """

    data_seed: int
    seed: int


@dataclass(frozen=True)
class Repetitions:
    """Those that a figure rests on."""

    those: tuple[Repetition, ...] = ()

    @property
    def text_orders(self) -> int:
        return len({one.data_seed for one in self.those})

    @property
    def seeds_alone(self) -> bool:
        """Whether every seed has a text order of its own, so that to count seeds is to count text orders."""
        return len({one.seed for one in self.those}) == self.text_orders == len(self.those)

    @property
    def seeds_of_text_order(self) -> tuple[int, int]:
        """In how many seeds a text order was repeated: the fewest, the most."""
        counts = Counter(one.data_seed for one in self.those).values()
        return min(counts, default=0), max(counts, default=0)


NONE = Repetitions()


def show_count(shown: Repetitions, run: Repetitions = NONE) -> str:
    """`5 seeds`, `4 of 5 seeds`, or, where seeds share text orders, `3 text orders x 2 seeds`.

    Args:
        run: all that were trained, where some of them may not be shown.
    """
    run = run if run.those else shown
    if run.seeds_alone:
        return _of(f"{len(shown.those)}", len(shown.those), len(run.those), "seed")
    (fewest, most), (_, most_run) = shown.seeds_of_text_order, run.seeds_of_text_order
    orders = _of(f"{shown.text_orders}", shown.text_orders, run.text_orders, "text order")
    return f"{orders} x {_of(f'{fewest} to {most}' if fewest < most else f'{most}', fewest, most_run, 'seed')}"


def _of(number: str, count: int, of: int, what: str) -> str:
    total = f" of {of}" if of > count else ""
    return f"{number}{total} {what}{'' if number == '1' and of <= 1 else 's'}"


def text_order_means(values_P: Sequence[float] | NDArray[np.float64], data_seeds: Sequence[int]) -> NDArray[np.float64]:
    """The mean of each text order's values, in order of appearance: (P, ...) to (text orders, ...).

    What is made of them is the plain mean of these means: a text order counts once, however many seeds it has.
    """
    values_P = np.asarray(values_P, dtype=np.float64)
    places = {seed: place for place, seed in enumerate(dict.fromkeys(data_seeds))}
    place_P = np.array([places[seed] for seed in data_seeds], dtype=np.int64)
    return np.array([values_P[place_P == place].mean(axis=0) for place in places.values()])
