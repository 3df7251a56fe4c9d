"""Labelled texts as a configuration names them."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from masked_sae.activations.lm import LM
from masked_sae.errors import InputError
from masked_sae.evals.texts.labelled import ProbingTask, ShiftTask, SpuriousTask
from masked_sae.evals.texts.task_settings import check_tasks, hub_tasks
from support.making import compose


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two kinds of text by two kinds of people, 40 of each to train and 20 to test."""
    folder = tmp_path_factory.mktemp("dataset")
    for split, count in (("train", 40), ("test", 20)):
        rows = [
            {"text": f"{split} {kind} {person} {i}", "kind": kind, "person": person}
            for kind in (0, 1)
            for person in (0, 1)
            for i in range(count)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")
    return str(folder)


def entries(dataset: str) -> list[dict[str, Any]]:
    both = {"name": dataset, "label_column": "kind", "classes": {"a": 0, "b": 1}}
    swapped = both | {"classes": {"a": 1, "b": 0}}
    sizes = {"train": 16, "test": 8, "context_length": 32}
    people = {"attribute_column": "person", "attributes": [1, 0]}
    return [
        {"task": "probing", "name": "kinds", "datasets": [both], **sizes},
        {"task": "spurious", "name": "people", "dataset": both | people, "attribute_names": ["one", "zero"], **sizes},
        {"task": "shift", "name": "shifted", "datasets": [both], "shifted": [swapped], **sizes},
    ]  # fmt: skip


def test_every_kind_of_task_comes_in_the_sizes_asked_for(neox: LM, dataset: str) -> None:
    probing, spurious, shift = hub_tasks(entries(dataset), neox.tokenizer, neox.special, seed=0)
    assert isinstance(probing, ProbingTask) and isinstance(spurious, SpuriousTask) and isinstance(shift, ShiftTask)
    assert Counter(probing.labels_N[probing.train_N].tolist()) == {0: 8, 1: 8}
    assert Counter(probing.labels_N[~probing.train_N].tolist()) == {0: 4, 1: 4}
    assert probing.label_names == ("a", "b") and spurious.attribute_names == ("one", "zero")
    assert int(shift.shifted_N.sum()) == len(shift.shifted_N) // 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "guessing"}, "a mapping with task: probing, spurious, shift"),
        ({"datasets": None}, "the key datasets"),
        ({"epochs": 3}, "keys of a probing task"),
        ({"datasets": [{"name": "x", "classes": {}, "colour": 1}]}, "a dataset's keys"),
        ({"datasets": [{"name": "x"}]}, "a name and its classes"),
        ({"task": ["probing"]}, "a mapping with task: probing, spurious, shift"),
        ({"name": 5}, "entry 0: name: expected a text; this is 5"),
        ({"train": "many"}, "train: expected a whole number of 4 or more; this is 'many'"),
        ({"test": 1}, "test: expected a whole number of 4 or more; this is 1"),
        ({"context_length": True}, "context_length: expected a whole number of 1 or more"),
        ({"datasets": "x"}, "a list of datasets"),
        ({"datasets": ["x"]}, "a dataset: a mapping with a name and its classes"),
        ({"datasets": [{"name": 5, "classes": {"a": 0}}]}, "name: expected a text; this is 5"),
        ({"datasets": [{"name": "x", "classes": ["a"]}]}, "classes: expected a mapping of names to values"),
        ({"datasets": [{"name": "x", "classes": {}}]}, "classes: expected a mapping of names to values"),
        ({"datasets": [{"name": "x", "classes": {"a": [0]}}]}, "classes: expected a mapping of names to values"),
        ({"datasets": [{"name": "x", "classes": {"a": 0}, "text_columns": "text"}]}, "text_columns: expected a list"),
        ({"datasets": [{"name": "x", "classes": {"a": 0}, "attributes": [1]}]}, "attributes: expected a list of two"),
        ({"datasets": [{"name": "x", "classes": {"a": 0}, "streaming": "yes"}]}, "streaming: expected true or false"),
        (
            {"datasets": [{"name": "x", "classes": {"a": 0}, "skip_characters": -1}]},
            "skip_characters: expected a whole",
        ),
        (
            {"datasets": [{"name": "x", "classes": {"a": 0}, "label_column": 3}]},
            "label_column: expected a text or null",
        ),
    ],
)
def test_another_form_is_refused_before_anything_is_read(dataset: str, change: dict[str, Any], message: str) -> None:
    entry = {key: value for key, value in (entries(dataset)[0] | change).items() if value is not None}
    with pytest.raises(InputError, match=message):
        check_tasks([entry])


def test_attribute_names_are_two(dataset: str) -> None:
    for names in ("ab", ["a"], [1, 2], None):
        with pytest.raises(InputError, match="attribute_names: expected a list of two"):
            check_tasks([entries(dataset)[1] | {"attribute_names": names}])


def write_rows(folder: Path, rows: list[dict[str, Any]]) -> str:
    folder.mkdir(exist_ok=True)
    for split in ("train", "test"):
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")
    return str(folder)


def with_dataset(name: str, **changes: Any) -> dict[str, Any]:
    both = {"name": name, "label_column": "kind", "classes": {"a": 0, "b": 1}} | changes
    return {"task": "probing", "name": "kinds", "datasets": [both], "train": 4, "test": 4}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "content",
    [b"", b"no parquet at all", b"PAR1" + bytes(60) + b"PAR1"],
)
def test_a_dataset_that_cannot_be_read_is_told_in_one_line(
    neox: LM, content: bytes, streaming: bool, tmp_path: Path
) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"eval\.tasks=.*: expected a dataset with split") as info:
        hub_tasks([with_dataset(str(tmp_path), streaming=streaming)], neox.tokenizer, neox.special, seed=0)
    assert "\n" not in str(info.value)


def test_a_null_is_no_text_and_a_number_is_none(neox: LM, tmp_path: Path) -> None:
    rows = [{"text": None if i % 3 == 0 else f"text {i}", "kind": i % 2, "count": i} for i in range(40)]
    name = write_rows(tmp_path / "nulls", rows)
    asked = with_dataset(name, test_split=None)
    (task,) = hub_tasks([asked], neox.tokenizer, neox.special, seed=0)
    texts = [neox.tokenizer.decode(t[read]) for t, read in zip(task.texts.tokens_NT, task.texts.read_NT, strict=True)]
    assert len(texts) == 8 and all(text.startswith("text ") for text in texts)
    with pytest.raises(InputError, match="a column of texts; it has int"):
        hub_tasks([with_dataset(name, text_columns=["count"])], neox.tokenizer, neox.special, seed=0)


def test_labels_of_any_type_are_compared(neox: LM, tmp_path: Path) -> None:
    name = write_rows(tmp_path / "lists", [{"text": f"text {i}", "kind": [i % 2]} for i in range(40)])
    with pytest.raises(InputError, match="2 texts of a in split 'train' \\(there are 0\\)"):
        hub_tasks([with_dataset(name)], neox.tokenizer, neox.special, seed=0)


def test_a_context_without_room_for_text_is_refused(bert: LM, dataset: str) -> None:
    with pytest.raises(InputError, match="a context_length of more than the 2 special tokens around a text"):
        hub_tasks([with_dataset(dataset) | {"context_length": 2}], bert.tokenizer, bert.special, seed=0)


def test_a_special_token_that_a_text_spells_is_text(neox: LM, tmp_path: Path) -> None:
    rows = [{"text": f"{i} <|endoftext|> and more", "kind": i % 2} for i in range(40)]
    asked = with_dataset(write_rows(tmp_path / "spelled", rows), test_split=None) | {"context_length": 9}
    (task,) = hub_tasks([asked], neox.tokenizer, neox.special, seed=0)
    assert task.texts.lengths_N.tolist() == [9] * 8 and task.texts.read_NT.sum(1).tolist() == [8] * 8


def test_saebenchs_tasks_have_the_form() -> None:
    tasks = compose(["eval=saebench"]).eval.tasks
    check_tasks(tasks)
    kinds = Counter(task["task"] for task in tasks)
    assert kinds == {"probing": 8, "spurious": 4, "shift": 1}
