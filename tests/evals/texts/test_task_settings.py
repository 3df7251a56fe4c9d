"""Labelled texts as a configuration names them."""

from collections import Counter
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
    ],
)
def test_another_form_is_refused_before_anything_is_read(dataset: str, change: dict[str, Any], message: str) -> None:
    entry = {key: value for key, value in (entries(dataset)[0] | change).items() if value is not None}
    with pytest.raises(InputError, match=message):
        check_tasks([entry])


def test_saebenchs_tasks_have_the_form() -> None:
    tasks = compose(["eval=saebench"]).eval.tasks
    check_tasks(tasks)
    kinds = Counter(task["task"] for task in tasks)
    assert kinds == {"probing": 8, "spurious": 4, "shift": 1}
