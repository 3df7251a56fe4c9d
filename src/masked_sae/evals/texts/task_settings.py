"""Labelled texts as a configuration names them: `eval.tasks`, from Hugging Face datasets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from masked_sae.errors import InputError
from masked_sae.evals.texts.hub import (
    CONTEXT_LENGTH,
    PROBE_TEXTS,
    HubTexts,
    probing_task,
    shift_task,
    spurious_task,
)
from masked_sae.evals.texts.labelled import ProbingTask, ShiftTask, Sizes, SpuriousTask
from masked_sae.text.tokenizer import SpecialTokens

_KEYS = {
    "probing": ("datasets",),
    "spurious": ("dataset", "attribute_names"),
    "shift": ("datasets", "shifted"),
}
_COUNTS = {"train": 4, "test": 4, "context_length": 1}  # and their least: a probe has two classes, of two halves
_COMMON = ("task", "name", "train", "test", "context_length")


def hub_tasks(
    entries: Sequence[Mapping[str, Any]], tokenizer: Any, special: SpecialTokens, *, seed: int
) -> tuple[ProbingTask | SpuriousTask | ShiftTask, ...]:
    """The tasks of `eval.tasks`; see conf/eval/saebench.yaml for their form.

    Raises:
        InputError: an entry is not of that form, or its dataset cannot be read.
    """
    return tuple(_task(_checked(entry, number), tokenizer, special, seed) for number, entry in enumerate(entries))


def check_tasks(entries: Sequence[Any]) -> None:
    """Refuses entries of another form, before anything is read.

    Raises:
        InputError: the first that is wrong.
    """
    for number, entry in enumerate(entries):
        checked = _checked(entry, number)
        for key in ("dataset", "datasets", "shifted"):
            if key in checked:
                _texts(checked[key])


def _task(
    entry: Mapping[str, Any], tokenizer: Any, special: SpecialTokens, seed: int
) -> ProbingTask | SpuriousTask | ShiftTask:
    options: dict[str, Any] = {
        "context_length": entry.get("context_length", CONTEXT_LENGTH),
        "sizes": Sizes(entry.get("train", PROBE_TEXTS.train), entry.get("test", PROBE_TEXTS.test)),
        "seed": seed,
    }
    name = entry["name"]
    if entry["task"] == "probing":
        return probing_task(name, _texts(entry["datasets"]), tokenizer, special, **options)
    if entry["task"] == "shift":
        inside, shifted = _texts(entry["datasets"]), _texts(entry["shifted"])
        return shift_task(name, inside, shifted, tokenizer, special, **options)
    (texts,) = _texts([entry["dataset"]])
    true, false = entry["attribute_names"]
    return spurious_task(name, texts, (true, false), tokenizer, special, **options)


def _texts(datasets: Any) -> list[HubTexts]:
    entries: Any = [datasets] if isinstance(datasets, Mapping) else datasets
    if not isinstance(entries, list | tuple):
        raise InputError("eval.tasks", ascii(datasets), "a list of datasets")
    known = [field.name for field in fields(HubTexts)]
    texts: list[HubTexts] = []
    for entry in entries:
        if not isinstance(entry, Mapping):
            raise InputError("eval.tasks", ascii(entry), "a dataset: a mapping with a name and its classes")
        for key in entry:
            if key not in known:
                raise InputError("eval.tasks", key, f"a dataset's keys: {', '.join(known)}")
        if not {"name", "classes"} <= entry.keys():
            raise InputError("eval.tasks", dict(entry), "a dataset with a name and its classes")
        for key, value in entry.items():
            holds, valid = _KINDS[key]
            if not holds(value):
                raise InputError("eval.tasks", f"{entry['name']}: {key}", f"{valid}; this is {value!a}")
        texts.append(HubTexts(**entry))
    return texts


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_text_or_none(value: Any) -> bool:
    return value is None or _is_text(value)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(_is_text, value))


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | None)


def _is_count(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _are_classes(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and _are_texts([*value]) and all(map(_is_plain, value.values()))


def _are_two(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_plain, value))


# Of a dataset's keys: whether a value can be one, and what can.
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (_is_text, "a text"),
    "classes": (_are_classes, "a mapping of names to values"),
    "text_columns": (_are_texts, "a list of columns"),
    "attributes": (_are_two, "a list of two values"),
    "train_split": (_is_text, "a text"),
    "streaming": (lambda value: isinstance(value, bool), "true or false"),
    **dict.fromkeys(("skip_characters", "min_characters"), (_is_count, "a whole number of 0 or more")),
    **dict.fromkeys(
        ("label_column", "configuration", "revision", "test_split", "attribute_column"),
        (_is_text_or_none, "a text or null"),
    ),
}


def _checked(entry: Any, number: int) -> Mapping[str, Any]:
    if not isinstance(entry, Mapping) or entry.get("task") not in tuple(_KEYS):
        valid = f"a mapping with task: {', '.join(_KEYS)}, and a name (entry {number})"
        raise InputError("eval.tasks", entry, valid)
    where = f"entry {number}, {entry.get('name')}"
    needed = ("name", *_KEYS[str(entry["task"])])
    for key in needed:
        if key not in entry:
            raise InputError("eval.tasks", where, f"the key {key}")
    for key in entry:
        if key not in (*_COMMON, *needed):
            valid = f"keys of a {entry['task']} task: {', '.join((*_COMMON, *needed))}"
            raise InputError("eval.tasks", f"{where}: {key}", valid)
    if not _is_text(entry["name"]):
        raise InputError("eval.tasks", f"entry {number}: name", f"a text; this is {entry['name']!a}")
    for key, least in _COUNTS.items():
        if key in entry and not _is_count(entry[key], least):
            valid = f"a whole number of {least} or more; this is {entry[key]!a}"
            raise InputError("eval.tasks", f"{where}: {key}", valid)
    attributes = entry.get("attribute_names", ("a", "b"))
    if not (_are_texts(attributes) and len(attributes) == 2):
        raise InputError("eval.tasks", f"{where}: attribute_names", f"a list of two; this is {attributes!a}")
    return entry
