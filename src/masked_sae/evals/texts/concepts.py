"""Sets of concepts that an LM knows of a token, with positions to look for them: what absorption is measured on.

Axes: N texts, T positions, P read positions of all texts, in order, C concepts, V vocabulary.
"""

import keyword
import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masked_sae.activations.held_out import sequences_of_all
from masked_sae.activations.lm import LM
from masked_sae.activations.sequences import Sequences
from masked_sae.errors import InputError
from masked_sae.evals.texts.activation_cache import TokenizedTexts
from masked_sae.randomness import numpy_generator
from masked_sae.text.tokenizer import encode

TRAIN_SHARE = 0.8


@dataclass(frozen=True)
class Concepts:
    """Positions, and which concepts hold at each.

    Attributes:
        set_name: of the set, as in `absorption/<set_name>/…`.
        names: of the concepts, C of them.
        labels_PC: bool; a position may have several, or none.
        test_P: bool; the probes are fitted on the others.
        minimum: as many concepts must be measurable on an LM for a mean over them to say something.
        pairs: of a general concept and a special case of it: where the second holds, so does the first.
    """

    set_name: str
    texts: TokenizedTexts
    names: tuple[str, ...]
    labels_PC: Tensor
    test_P: Tensor
    minimum: int
    pairs: tuple[tuple[int, int], ...] = ()


def first_letter(
    lm: LM,
    *,
    words: int | None = None,
    examples: int = 10,
    train_share: float = TRAIN_SHARE,
    seed: int,
    minimum: int = 20,
) -> Concepts:
    """The first letter of the vocabulary's alphabetic tokens, a to z; one word a text, read at the word's token.

    A text is `examples` solved ones, `{word} has the first letter: {LETTER}`, and the word's own without its answer
    (Chanin et al. 2024, arXiv 2409.14507, in SAEBench's settings). It is put together from token ids, so that a word
    is one token wherever it stands. Examples of a training word are training words, those of a test word test words,
    never the word itself.

    Args:
        words: at most that many of the vocabulary, chosen at random; None for all.
        minimum: of measurable letters, SAEBench's.

    Raises:
        InputError: the vocabulary has too few such words, or the text is longer than the LM takes.
    """
    letters = string.ascii_lowercase
    generator = numpy_generator(seed, "first letter")
    ids, initials = _alphabetic(lm)
    chosen = generator.permutation(len(ids))[:words]
    ids, initials = ids[chosen], initials[chosen]
    n_train = int(train_share * len(ids))
    if min(n_train, len(ids) - n_train) <= examples:
        valid = f"more than {examples} alphabetic words to learn from and to test on; found {len(ids)} in all"
        raise InputError("eval.concept_words", words, valid)

    ends, phrases = lm.special, ["\n", " has the first letter:", *(f" {letter.upper()}" for letter in letters)]
    separator, question, *answers = encode(lm.tokenizer, phrases)
    texts: list[list[int]] = []
    positions: list[int] = []
    for word in range(len(ids)):
        first, stop = (0, n_train) if word < n_train else (n_train, len(ids))
        others = first + generator.choice(stop - first, examples + 1, replace=False)
        text = [*ends.prefix, *separator]
        for other in others[others != word][:examples]:
            text += [int(ids[other]), *question, *answers[initials[other]], *separator]
        positions.append(len(text))
        texts.append([*text, int(ids[word]), *question, *ends.suffix])
    lengths_N = torch.tensor([len(text) for text in texts])
    longest = int(lengths_N.max())
    if lm.context_limit is not None and longest > lm.context_limit:
        valid = f"an LM that takes its texts, of up to {longest} tokens: this one takes {lm.context_limit}"
        raise InputError("eval.concepts", "first_letter", valid)
    tokens_NT = torch.zeros(len(texts), longest, dtype=torch.long)
    for row, text in enumerate(texts):
        tokens_NT[row, : len(text)] = torch.tensor(text)
    read_NT = torch.zeros_like(tokens_NT, dtype=torch.bool)
    read_NT[torch.arange(len(texts)), torch.tensor(positions)] = True
    labels_PC = torch.from_numpy(initials)[:, None] == torch.arange(len(letters))
    test_P = torch.arange(len(texts)) >= n_train
    return Concepts(
        "first_letter", TokenizedTexts(tokens_NT, lengths_N, read_NT), tuple(letters), labels_PC, test_P, minimum
    )


TOKEN_CLASSES: dict[str, Callable[[str], bool]] = {
    "capitalised": lambda text: text.strip()[:1].isupper(),
    "keyword": lambda text: text.strip() in keyword.kwlist,
    "digit": lambda text: text.strip().isdigit(),
    "punctuation": lambda text: bool(text.strip()) and all(char in string.punctuation for char in text.strip()),
    "bracket": lambda text: any(char in "()[]{}" for char in text),
    "quote": lambda text: any(char in "\"'`" for char in text),
    "underscore": lambda text: "_" in text,
    "leading space": lambda text: text.startswith(" ") and bool(text.strip()),
    "newline": lambda text: "\n" in text,
    "white space": lambda text: bool(text) and not text.strip(),
}


def token_class(
    lm: LM, held_out: Sequences, *, tokens: int, train_share: float = TRAIN_SHARE, seed: int, minimum: int = 5
) -> Concepts:
    """What kind of token stands at each position of a text, by its string; for LMs too small to spell.

    Args:
        held_out: held-out text. Sequences are spread over all of it, and each is either learnt from or tested on.
        tokens: about as many positions.

    Raises:
        InputError: the text is too short to have sequences for both.
    """
    indices = sequences_of_all(held_out, tokens)
    n_sequences = len(indices)
    n_train = int(train_share * n_sequences)
    if n_train < 1 or n_train == n_sequences:
        raise InputError("eval.concept_tokens", tokens, f"enough for 2 or more sequences of {held_out.content_length}")
    tokens_NT, kept_NT = held_out.read(indices)
    texts = TokenizedTexts(tokens_NT, torch.full((n_sequences,), tokens_NT.shape[1]), kept_NT)
    order = numpy_generator(seed, "token class").permutation(n_sequences)
    test_N = torch.from_numpy(order >= n_train)
    strings = vocabulary_strings(lm.tokenizer)
    classes_VC = torch.tensor([[holds(text) for holds in TOKEN_CLASSES.values()] for text in strings])
    labels_PC = classes_VC[tokens_NT[kept_NT]]
    return Concepts("token_class", texts, tuple(TOKEN_CLASSES), labels_PC, test_N[texts.texts_P], minimum)


def vocabulary_strings(tokenizer: Any) -> list[str]:
    """What each token stands for in a text, its leading space included, by id; empty for ids without a token."""
    tokens: list[str | None] = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return ["" if token is None else _string(tokenizer, token) for token in tokens]


def _string(tokenizer: Any, token: str) -> str:
    text: str = tokenizer.convert_tokens_to_string([token])
    # SentencePiece's decoder drops the space before the first token.
    return f" {text}" if token.startswith("▁") and not text.startswith(" ") else text


def _alphabetic(lm: LM) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids of the tokens of ASCII letters only, but for one leading space, and each one's first letter, 0 to 25."""
    ids: list[int] = []
    initials: list[int] = []
    for token, text in enumerate(vocabulary_strings(lm.tokenizer)):
        word = text.removeprefix(" ")
        if word.isascii() and word.isalpha() and token not in lm.special.ids:
            ids.append(token)
            initials.append(string.ascii_lowercase.index(word[0].lower()))
    return np.array(ids, dtype=np.int64), np.array(initials, dtype=np.int64)
