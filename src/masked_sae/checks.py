"""Refusals of single values, with the key, the value and what would be valid."""

import math
import unicodedata
from collections.abc import Sequence
from typing import Any

from masked_sae.errors import InputError

DTYPES = ("float32", "bfloat16")  # finest first
MOST = 10**12  # steps, tokens, latents: more than anybody has
MOST_AT_ONCE = 10**9  # of what is multiplied with another such size: their product is below 2^63
MOST_COEFFICIENT = 1e9
MOST_SEED = 2**63 - 1
_MOST_BYTES_OF_A_NAME = 255


def finite(key: str, value: float) -> None:
    if not math.isfinite(value):
        raise InputError(key, value, "a finite number")


def one_of(key: str, value: Any, valid: Sequence[str]) -> None:
    if value not in valid:
        raise InputError(key, value, "one of " + ", ".join(valid))


def share(key: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise InputError(key, value, "a number from 0 to 1")


def share_below_1(key: str, value: float) -> None:
    if not 0 <= value < 1:
        raise InputError(key, value, "a number from 0 to 1, which itself is excluded: it would hide all")


def above(key: str, value: float, bound: float) -> None:
    if not value > bound:
        raise InputError(key, value, f"a number above {bound}")


def at_least(key: str, value: float, bound: float) -> None:
    if not value >= bound:
        raise InputError(key, value, f"at least {bound}")


def at_most(key: str, value: float, bound: float) -> None:
    if not value <= bound:
        raise InputError(key, value, f"at most {bound:,}" if isinstance(bound, int) else f"at most {bound:g}")


def within(key: str, value: float, least: float, most: float) -> None:
    """A finite number between two bounds, both allowed."""
    at_least(key, value, least)
    if value == math.inf:
        finite(key, value)
    at_most(key, value, most)


def count(key: str, value: int, least: int = 1, most: int = MOST) -> None:
    """A number of steps, tokens or other things."""
    within(key, value, least, most)


def coefficient(key: str, value: float) -> None:
    """The weight of a term: any more would leave nothing of the others."""
    within(key, value, 0, MOST_COEFFICIENT)


def is_coarser(dtype: str, other: str) -> bool:
    return other in DTYPES and DTYPES.index(dtype) > DTYPES.index(other)


def seed(key: str, value: int) -> None:
    within(key, value, 0, MOST_SEED)


def filled(key: str, value: str) -> None:
    if not value.strip():
        raise InputError(key, repr(value), "a text that is not empty")


def path(key: str, value: str) -> None:
    """A file, folder, glob or hub name that a file system can have."""
    if not value.strip():
        raise InputError(key, repr(value), "a path: an empty one would be the working folder")
    if value.startswith("~"):
        raise InputError(key, value, "a path; ~ is your home folder, ~NAME that of a user who exists")
    if any(len(os_bytes(part)) > _MOST_BYTES_OF_A_NAME for part in value.split("/")):
        raise InputError(key, f"{value[:40]}…", f"a path whose names have at most {_MOST_BYTES_OF_A_NAME} bytes each")


def plain_text(key: str, value: str) -> None:
    """Text that names, files and tables take: no NUL, no line breaks, no bytes that are no text."""
    odd = next((letter for letter in value if unicodedata.category(letter) in ("Cc", "Cs")), None)
    if odd is not None:
        raise InputError(key, value, f"a text without control characters such as {odd!a}")


def os_bytes(text: str) -> bytes:
    """As a file system counts them."""
    return text.encode("utf-8", "replace")
