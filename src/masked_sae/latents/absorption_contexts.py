"""The text around a position, to be read by a person.

Axes: N texts, T positions in one, P read positions of all texts.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from masked_sae.errors import printable
from masked_sae.evals.texts.activation_cache import TokenizedTexts
from masked_sae.latents.token_texts import token_texts

_BEFORE, _AFTER = 24, 8  # tokens


@dataclass(frozen=True)
class TokenInContext:
    before: str
    token: str
    after: str


class ContextReader:
    """Reads texts at their read positions; each token's text is looked up once."""

    def __init__(self, tokenizer: Any, texts: TokenizedTexts) -> None:
        self._tokenizer, self._texts = tokenizer, texts
        self._at_P2 = texts.read_NT.nonzero()
        self._text_of: dict[int, str] = {}

    def at(self, position: int) -> TokenInContext:
        text, place = self._at_P2[position].tolist()
        ids = self._texts.tokens_NT[text, : int(self._texts.lengths_N[text])].tolist()
        return TokenInContext(
            self._read(ids[max(0, place - _BEFORE) : place]),
            self._read(ids[place : place + 1]),
            self._read(ids[place + 1 : place + 1 + _AFTER]),
        )

    def most_common(self, positions: Tensor, most: int) -> tuple[list[tuple[str, int]], int]:
        """The tokens that stand most often at these positions, and how many others there are."""
        text_W, place_W = self._at_P2[positions].unbind(1)
        counts = Counter(self._texts.tokens_NT[text_W, place_W].tolist())
        return [(self._read([token]), count) for token, count in counts.most_common(most)], max(0, len(counts) - most)

    def _read(self, ids: Sequence[int]) -> str:
        self._look_up(ids)
        return visible("".join(self._text_of[token] for token in ids))

    def _look_up(self, ids: Iterable[int]) -> None:
        new = sorted(set(ids) - self._text_of.keys())
        self._text_of |= dict(zip(new, token_texts(self._tokenizer, new), strict=True))


def visible(text: str) -> str:
    """With line breaks and tabs as signs, and what else no font shows, or what turns the direction of writing, as it is
    written in Python.
    """
    return printable(text.replace("\n", "↵").replace("\t", "⇥"))
