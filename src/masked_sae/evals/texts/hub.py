"""Labelled texts from Hugging Face datasets, on the hub or in a folder, in SAEBench's sizes.

Axes: N texts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from masked_sae.errors import InputError, first_line
from masked_sae.evals.texts.labelled import LabelledTexts, ProbingTask, ShiftTask, Sizes, SpuriousTask, framed
from masked_sae.randomness import numpy_generator
from masked_sae.text.hub_datasets import stream_rows
from masked_sae.text.tokenizer import SpecialTokens, encode

CONTEXT_LENGTH = 128  # tokens, special ones included, of which longer texts keep the first (SAEBench)
PROBE_TEXTS = Sizes(train=4000, test=1000)  # of a probe, one half of its class (SAEBench)
Key = tuple[str, bool | None]  # a class and, where there is one, an attribute


@dataclass(frozen=True)
class HubTexts:
    """Where labelled texts are; plain values, as a configuration has them.

    Attributes:
        name: hub name, or local folder.
        classes: class name -> value in the label column; the names' order is that of the labels. Without a label
            column all texts are of the one class.
        text_columns: joined by a line end; `a.b` is key b of column a.
        configuration, revision: of the dataset.
        test_split: None sets test texts aside from the train split.
        attribute_column, attributes: a second attribute and its values that count as True and False. Every class has as
            many texts of either.
        streaming: take the first texts that fit, without loading the whole; else a seeded choice.
        skip_characters: left out at the start of a text (licences); only with texts of `min_characters` are taken.
    """

    name: str
    classes: Mapping[str, Any]
    label_column: str | None = None
    text_columns: Sequence[str] = ("text",)
    configuration: str | None = None
    revision: str | None = None
    train_split: str = "train"
    test_split: str | None = "test"
    attribute_column: str | None = None
    attributes: tuple[Any, Any] = (1, 0)
    streaming: bool = False
    skip_characters: int = 0
    min_characters: int = 1


def probing_task(
    name: str,
    parts: Sequence[HubTexts],
    tokenizer: Any,
    special: SpecialTokens,
    *,
    context_length: int = CONTEXT_LENGTH,
    sizes: Sizes = PROBE_TEXTS,
    seed: int = 0,
) -> ProbingTask:
    """Classes of equal size, half a probe's texts each; with an attribute, half of these of either value.

    Args:
        parts: datasets that add up, each with classes of its own.
        sizes: of a probe's balanced set.

    Raises:
        InputError: a dataset cannot be read, or has too few texts.
    """
    found = _Found(seed)
    for part in parts:
        share = 4 if part.attribute_column else 2
        quota = Sizes(sizes.train // share, sizes.test // share)
        found.take(part, dict.fromkeys(_keys(part), quota))
    names = [label for part in parts for label in part.classes]
    return ProbingTask(**found.task(name, names, tokenizer, special, context_length))


def spurious_task(
    name: str,
    part: HubTexts,
    attribute_names: tuple[str, str],
    tokenizer: Any,
    special: SpecialTokens,
    *,
    context_length: int = CONTEXT_LENGTH,
    sizes: Sizes = PROBE_TEXTS,
    seed: int = 0,
) -> SpuriousTask:
    """Two classes and an attribute: quadrants of a quarter of a probe's texts, two of them double to train with a bias.

    The second class and the attribute's True agree (the first class and False).

    Raises:
        InputError: as above, or not two classes.
    """
    if len(part.classes) != 2 or part.attribute_column is None:
        raise InputError("eval.tasks", f"{name}: {list(part.classes)}", "two classes, and an attribute column")
    first, _ = part.classes
    found = _Found(seed)
    train, test = sizes.train // 4, sizes.test // 4
    # `agree`: the second class with True, the first with False.
    found.take(part, {key: Sizes(train * (1 + ((key[0] != first) == key[1])), test) for key in _keys(part)})
    attributes_N = torch.tensor([bool(attribute) for (_, attribute), _, _ in found.rows])
    task = found.task(name, list(part.classes), tokenizer, special, context_length)
    return SpuriousTask(**task, attribute_names=attribute_names, attributes_N=attributes_N)


def shift_task(
    name: str,
    inside: Sequence[HubTexts],
    shifted: Sequence[HubTexts],
    tokenizer: Any,
    special: SpecialTokens,
    *,
    context_length: int = CONTEXT_LENGTH,
    sizes: Sizes = PROBE_TEXTS,
    seed: int = 0,
) -> ShiftTask:
    """The same classes in two distributions, each in SAEBench's sizes.

    Raises:
        InputError: as above, or the classes differ.
    """
    names = [label for part in inside for label in part.classes]
    if sorted(names) != sorted(label for part in shifted for label in part.classes):
        raise InputError("eval.tasks", f"{name}: {names}", "the same class names in distribution and shifted")
    found = _Found(seed)
    counts: list[int] = []
    for parts in (inside, shifted):
        for part in parts:
            part = replace(part, attribute_column=None)
            found.take(part, {key: Sizes(sizes.train // 2, sizes.test // 2) for key in _keys(part)})
        counts.append(len(found.rows))
    shifted_N = torch.arange(counts[1]) >= counts[0]
    return ShiftTask(**found.task(name, names, tokenizer, special, context_length), shifted_N=shifted_N)


def _keys(part: HubTexts) -> list[Key]:
    values = (True, False) if part.attribute_column else (None,)
    return [(label, value) for label in part.classes for value in values]


@dataclass
class _Found:
    """Texts taken so far. No text is taken twice, so train and test share none."""

    seed: int
    rows: list[tuple[Key, bool, str]] = field(default_factory=list[tuple[Key, bool, str]])
    seen: set[str] = field(default_factory=set[str])

    def take(self, part: HubTexts, quotas: Mapping[Key, Sizes]) -> None:
        if part.test_split is None:
            both = {key: quota.train + quota.test for key, quota in quotas.items()}
            for key, texts in self._texts(part, part.train_split, both).items():
                generator = numpy_generator(self.seed, f"split of {key}")
                order = generator.permutation(len(texts)) if part.streaming else np.arange(len(texts))
                held_out = set(order[: quotas[key].test].tolist())
                self.rows += [(key, i not in held_out, text) for i, text in enumerate(texts)]
            return
        for split, train in ((part.train_split, True), (part.test_split, False)):
            wanted = {key: quota.train if train else quota.test for key, quota in quotas.items()}
            for key, texts in self._texts(part, split, wanted).items():
                self.rows += [(key, train, text) for text in texts]

    def _texts(self, part: HubTexts, split: str, wanted: Mapping[Key, int]) -> dict[Key, list[str]]:
        found: dict[Key, list[str]] = {key: [] for key in wanted}
        missing = sum(wanted.values())
        for row in _rows(part, split, self.seed):
            key = _key_of(part, row)
            if key is None or len(found[key]) == wanted[key]:
                continue
            text = _text(part, row)
            if text is None or len(text) < max(1, part.min_characters) or not text.strip() or text in self.seen:
                continue
            self.seen.add(text)
            found[key].append(text[part.skip_characters :])
            missing -= 1
            if missing == 0:
                return found
        poorest = min(found, key=lambda key: len(found[key]) - wanted[key])
        label = poorest[0] if poorest[1] is None else f"{poorest[0]} with {part.attribute_column}={poorest[1]}"
        valid = f"{wanted[poorest]} texts of {label} in split {split!r} (there are {len(found[poorest])})"
        raise InputError("eval.tasks", part.name, valid)

    def task(
        self, name: str, names: Sequence[str], tokenizer: Any, special: SpecialTokens, context_length: int
    ) -> dict[str, Any]:
        """The fields that all tasks have."""
        around = len(special.prefix) + len(special.suffix)
        room = context_length - around
        if room < 1:
            valid = f"a context_length of more than the {around} special tokens around a text"
            raise InputError("eval.tasks", f"{name}: {context_length}", valid)
        texts = [text for *_, text in self.rows]
        encoded = [ids[:room] for ids in encode(tokenizer, texts)]
        places = {label: index for index, label in enumerate(names)}
        return LabelledTexts(
            name=name,
            texts=framed(encoded, special),
            rows_N=torch.arange(len(texts)),
            train_N=torch.tensor([train for _, train, _ in self.rows]),
            label_names=tuple(names),
            labels_N=torch.tensor([places[label] for (label, _), _, _ in self.rows]),
        ).__dict__


def _key_of(part: HubTexts, row: Mapping[str, Any]) -> Key | None:
    """The class and attribute of a row, or None where it has none of those asked for."""
    if part.label_column is None:
        label = next(iter(part.classes))
    else:
        value = _value(part, row, part.label_column)
        label = next((name for name, of_class in part.classes.items() if of_class == value), None)
    if label is None or part.attribute_column is None:
        return None if label is None else (label, None)
    attribute = _value(part, row, part.attribute_column)
    return (label, attribute == part.attributes[0]) if attribute in part.attributes else None


def _text(part: HubTexts, row: Mapping[str, Any]) -> str | None:
    """None where a column has none: a null is not the word "None"."""
    texts = [_value(part, row, column) for column in part.text_columns]
    for column, text in zip(part.text_columns, texts, strict=True):
        if not isinstance(text, str | None):
            raise InputError("eval.tasks", f"{part.name}:{column}", f"a column of texts; it has {type(text).__name__}")
    return None if None in texts else "\n".join(texts)


def _value(part: HubTexts, row: Mapping[str, Any], column: str) -> Any:
    value: Any = row
    for key in column.split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise InputError("eval.tasks", f"{part.name}:{column}", f"one of its columns: {', '.join(row)}")
        value = value[key]
    return value


def _rows(part: HubTexts, split: str, seed: int) -> Iterator[Mapping[str, Any]]:
    import datasets

    try:
        if part.streaming:
            yield from stream_rows(part.name, split, part.revision, part.configuration)
            return
        data: Any = datasets.load_dataset(part.name, part.configuration, split=split, revision=part.revision)
        yield from data.select(numpy_generator(seed, f"rows of {split}").permutation(len(data)))
    except Exception as error:  # whatever a library says of what anybody has written
        reason = first_line(error.__cause__ or error)
        valid = f"a dataset with split {split!r} that can be reached and read, on the hub or in a folder ({reason})"
        raise InputError("eval.tasks", part.name, valid) from error
