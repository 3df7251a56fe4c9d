"""What stands where a token was masked."""

from typing import Any

from masked_sae.errors import InputError
from masked_sae.text.tokenizer import MEAN_TOKEN

_OF_TOKENIZER = ("bos", "eos", "pad", "unk", "mask")
NAMED_REPLACEMENTS = (*_OF_TOKENIZER, "mean", "random")


def replacement_ids(tokenizer: Any, replacement: str, key: str = "mask.token.replacement") -> tuple[int, ...] | None:
    """The token ids that masking writes, in turn over the masked positions; None stands for random ones.

    A name of `NAMED_REPLACEMENTS` is that, whatever the vocabulary has; `mean` is a token beyond it, whose embedding is
    the mean of the vocabulary's. What is exactly one token of the vocabulary is that token. Any other text is
    tokenized, without special tokens.

    Args:
        key: of the configuration, that names it.

    Raises:
        InputError: the tokenizer has no such token, or cannot write this text.
    """
    if replacement == "random":
        return None
    if replacement == "mean":
        return (MEAN_TOKEN,)
    if replacement in _OF_TOKENIZER:
        token = getattr(tokenizer, f"{replacement}_token_id")
        if token is None:
            has = [name for name in _OF_TOKENIZER if getattr(tokenizer, f"{name}_token_id") is not None]
            valid = f"a token that this tokenizer has: {', '.join([*has, 'mean', 'random'])}, or a text"
            raise InputError(key, replacement, valid)
        return (token,)
    if replacement in tokenizer.get_vocab():
        return (tokenizer.convert_tokens_to_ids(replacement),)
    ids = tuple(tokenizer(replacement, add_special_tokens=False)["input_ids"])
    if not ids or tokenizer.unk_token_id in ids:
        valid = f"one of {', '.join(NAMED_REPLACEMENTS)}, a token of the vocabulary, or a text that it can spell"
        raise InputError(key, replacement, valid)
    return ids
