"""What tokens look like in a text."""

from collections.abc import Sequence
from typing import Any


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Each token as it reads after another one: with its space before it, where it has one. A token that is part of a
    character only is shown as its vocabulary has it.
    """
    before = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
    start = len(tokenizer.decode(before))
    return [_text(tokenizer, token, before, start) for token in ids]


def _text(tokenizer: Any, token: int, before: list[int], start: int) -> str:
    text = tokenizer.decode([*before, token])[start:]
    if text and "\N{REPLACEMENT CHARACTER}" not in text:
        return text
    known = tokenizer.convert_ids_to_tokens(token)
    return text or f"[{token}]" if known is None else str(known)
