"""Refusals of single values, with the key, the value and what would be valid."""

import math
from collections.abc import Sequence
from typing import Any

from masked_sae.errors import InputError

DTYPES = ("float32", "bfloat16")


def finite(key: str, value: float) -> None:
    if not math.isfinite(value):
        raise InputError(key, value, "a finite number")


def one_of(key: str, value: Any, valid: Sequence[str]) -> None:
    if value not in valid:
        raise InputError(key, value, "one of " + ", ".join(valid))


def share(key: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise InputError(key, value, "a number from 0 to 1")


def above(key: str, value: float, bound: float) -> None:
    if not value > bound:
        raise InputError(key, value, f"a number above {bound}")


def at_least(key: str, value: float, bound: float) -> None:
    if not value >= bound:
        raise InputError(key, value, f"at least {bound}")
