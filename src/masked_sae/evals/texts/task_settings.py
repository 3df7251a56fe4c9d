"""Labelled texts as a configuration names them: `eval.tasks`, from Hugging Face datasets."""

from collections.abc import Mapping, Sequence
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
            _texts(checked.get(key, []))


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
    entries: list[Any] = [datasets] if isinstance(datasets, Mapping) else list(datasets)
    known = [field.name for field in fields(HubTexts)]
    texts: list[HubTexts] = []
    for entry in entries:
        for key in entry:
            if key not in known:
                raise InputError("eval.tasks", key, f"a dataset's keys: {', '.join(known)}")
        if not {"name", "classes"} <= entry.keys():
            raise InputError("eval.tasks", dict(entry), "a dataset with a name and its classes")
        texts.append(HubTexts(**entry))
    return texts


def _checked(entry: Any, number: int) -> Mapping[str, Any]:
    if not isinstance(entry, Mapping) or entry.get("task") not in _KEYS:
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
    return entry
