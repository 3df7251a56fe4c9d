"""Framing, the standard library's labelled texts, and those of datasets in a folder."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from masked_sae.activations.lm import LM
from masked_sae.errors import InputError
from masked_sae.evals.texts.hub import HubTexts, probing_task, shift_task, spurious_task
from masked_sae.evals.texts.labelled import LabelledTexts, ProbingTask, ShiftTask, Sizes, SpuriousTask, framed
from masked_sae.evals.texts.stdlib import CODE, PROSE, code_and_prose, stdlib_tasks
from masked_sae.text.documents import Document
from masked_sae.text.tokenizer import SpecialTokens, special_tokens

pytestmark = pytest.mark.slow

Tasks = tuple[ProbingTask | SpuriousTask | ShiftTask, ...]
PAIR = ("email", "http")


def test_texts_stand_between_the_special_tokens_and_only_they_are_read() -> None:
    special = SpecialTokens(prefix=(1,), suffix=(2,), separator=2, ids=(0, 1, 2))
    reading = framed([[5, 6, 7], [8], [9, 2, 9]], special)
    assert reading.tokens_NT.tolist() == [[1, 5, 6, 7, 2], [1, 8, 2, 0, 0], [1, 9, 2, 9, 2]]
    assert reading.lengths_N.tolist() == [5, 3, 5]
    assert reading.read_NT.int().tolist() == [[0, 1, 1, 1, 0], [0, 1, 0, 0, 0], [0, 1, 0, 1, 0]]


def test_code_loses_its_docstrings_and_prose_is_their_text() -> None:
    source = '''"""A module.

Of two lines.
"""
import os  # kept

def one():
    """Says one."""
    return "not a docstring"

class Two:
    def three(self):
        """Says
        three."""
'''
    code, prose = code_and_prose(Document("stdlib/m.py", source))
    assert prose == "A module.\n\nOf two lines.\n\nSays one.\n\nSays\nthree."
    assert code == 'import os  # kept\n\ndef one():\n    return "not a docstring"\n\nclass Two:\n    def three(self):\n'


@pytest.fixture(scope="module")
def stdlib(neox: LM) -> Tasks:
    return stdlib_tasks(neox.tokenizer, neox.special, text_tokens=40, packages=PAIR, sizes=Sizes(60, 20))


def cells(task: LabelledTexts) -> list[int]:
    return (2 * task.labels_N + task.train_N).bincount().tolist()


def test_the_standard_library_gives_every_kind_of_task_on_one_reading(stdlib: Tasks) -> None:
    package, kind, shift, spurious = stdlib
    assert all(task.texts is package.texts for task in stdlib)
    assert package.label_names == PAIR and cells(package) == [40, 120, 40, 120]
    assert kind.label_names == ("code", "prose", "reference") and cells(kind) == [40, 120] * 3
    assert isinstance(shift, ShiftTask) and shift.shifted_N.sum() == 160
    assert isinstance(spurious, SpuriousTask) and spurious.label_names == PAIR
    quadrants = 2 * spurious.labels_N + spurious.attributes_N
    assert quadrants[spurious.train_N].bincount().tolist() == [60] * 4
    assert quadrants[~spurious.train_N].bincount().tolist() == [20] * 4


def test_all_texts_have_one_length_and_are_what_their_labels_say(stdlib: Tasks, neox: LM) -> None:
    import email
    import http

    package, kind, *_ = stdlib
    assert (package.texts.lengths_N == 40 + 1).all()
    sources = {}
    for index, module in enumerate((email, http)):
        folder = Path(str(module.__file__)).parent
        sources[index] = "\0".join(path.read_text(encoding="utf-8") for path in folder.rglob("*.py"))
    kinds = dict(zip(kind.rows_N.tolist(), kind.labels_N.tolist(), strict=True))
    checked = 0
    for row, label in zip(package.rows_N.tolist(), package.labels_N.tolist(), strict=True):
        text = neox.tokenizer.decode(package.texts.tokens_NT[row, 1:])
        line = max(text.split("\n")[1:-1], key=len, default="").strip()
        if len(line) > 12:
            checked += 1
            assert line in sources[label]
            assert kinds[row] in (CODE, PROSE)
    assert checked > 8


def test_no_file_is_on_both_sides(neox: LM) -> None:
    """Every text is found in its file; a file's texts are all train or all test."""
    task, *_ = stdlib_tasks(neox.tokenizer, neox.special, text_tokens=40, packages=PAIR, sizes=None)
    import email
    import http

    contents = {}
    for module in (email, http):
        for path in Path(str(module.__file__)).parent.rglob("*.py"):
            code, prose = code_and_prose(Document("", path.read_text(encoding="utf-8")))
            contents[path] = code + "\0" + prose
    sides: dict[Path, set[bool]] = {}
    for row, train in zip(task.rows_N.tolist(), task.train_N.tolist(), strict=True):
        text = neox.tokenizer.decode(task.texts.tokens_NT[row, 1:])
        holders = [path for path, content in contents.items() if text in content]
        if len(holders) == 1:
            sides.setdefault(holders[0], set()).add(train)
    assert len(sides) > 8
    assert all(len(side) == 1 for side in sides.values())
    assert {side for sides_of in sides.values() for side in sides_of} == {True, False}
    assert 0.1 < (~task.train_N).float().mean() < 0.4


def test_the_same_seed_gives_the_same_texts(neox: LM, stdlib: Tasks) -> None:
    again = stdlib_tasks(neox.tokenizer, neox.special, text_tokens=40, packages=PAIR, sizes=Sizes(60, 20))
    assert again[0].texts.digest() == stdlib[0].texts.digest()


@pytest.mark.parametrize(
    ("packages", "key"),
    [(("email", "no_such_package"), "eval.tasks"), (("email", "sqlite3"), "eval.text_tokens")],
)
def test_packages_that_cannot_be_split_are_refused(neox: LM, packages: tuple[str, ...], key: str) -> None:
    with pytest.raises(InputError, match=f"{re.escape(key)}=.*{packages[1]}"):
        stdlib_tasks(neox.tokenizer, neox.special, text_tokens=400, packages=packages)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Biographies: three professions, two genders, some texts twice; and reviews with a nested text."""
    folder = tmp_path_factory.mktemp("biographies")
    for split, count in (("train", 240), ("test", 120)):
        rows = [
            {
                "job": i % 3,
                "gender": i // 3 % 2,
                "bio": f"a {'abc'[i % 3]} {'xy'[i // 3 % 2]} {split} {i // 2 * 2 if i > 200 else i}",
                "pair": {"en": f"english {split} {i}", "fr": f"french {split} {i} " + "long " * 40},
            }
            for i in range(count)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")
    return folder


def texts_of(task: LabelledTexts, tokenizer: Any) -> list[str]:
    reading = task.texts
    return [
        tokenizer.decode(tokens_T[read_T]) for tokens_T, read_T in zip(reading.tokens_NT, reading.read_NT, strict=True)
    ]


def biographies(folder: Path, **changes: Any) -> HubTexts:
    settings: dict[str, Any] = {"label_column": "job", "text_columns": ["bio"], "classes": {"a": 0, "c": 2}}
    return HubTexts(str(folder), **(settings | changes))


def test_a_datasets_classes_are_balanced_by_the_attribute(folder: Path, neox_tokenizer: Any) -> None:
    part = biographies(folder, attribute_column="gender", attributes=(0, 1))
    special = special_tokens(neox_tokenizer)
    task = probing_task("bios", [part], neox_tokenizer, special, sizes=Sizes(80, 40))
    assert task.label_names == ("a", "c") and cells(task) == [20, 40, 20, 40]
    texts = texts_of(task, neox_tokenizer)
    assert len(set(texts)) == len(texts)
    for text, label, train in zip(texts, task.labels_N.tolist(), task.train_N.tolist(), strict=True):
        assert text.startswith(f"a {'ac'[label]} ")
        assert ("train" in text) == train
    for label in (0, 1):
        of_label = [text for text, other in zip(texts, task.labels_N.tolist(), strict=True) if other == label]
        assert sum(" x " in text for text in of_label) == sum(" y " in text for text in of_label) == 30


def test_quadrants_that_agree_are_double_in_training(folder: Path, neox_tokenizer: Any) -> None:
    part = biographies(folder, attribute_column="gender", attributes=(0, 1))
    special = special_tokens(neox_tokenizer)
    task = spurious_task("bios", part, ("x", "y"), neox_tokenizer, special, sizes=Sizes(40, 20))
    quadrants = 2 * task.labels_N + task.attributes_N
    assert quadrants[task.train_N].bincount().tolist() == [20, 10, 10, 20]
    assert quadrants[~task.train_N].bincount().tolist() == [5] * 4
    for text, attribute in zip(texts_of(task, neox_tokenizer), task.attributes_N.tolist(), strict=True):
        assert (" x " in text) == attribute


@pytest.mark.parametrize("streaming", [False, True])
def test_classes_may_come_from_columns_and_test_texts_from_the_train_split(
    folder: Path, neox_tokenizer: Any, streaming: bool
) -> None:
    """As in Europarl: one text column for each language, one split, texts cut to the context length."""
    parts = [
        HubTexts(str(folder), {language: None}, text_columns=[f"pair.{language}"], test_split=None, streaming=streaming)
        for language in ("en", "fr")
    ]
    special = special_tokens(neox_tokenizer)
    task = probing_task("languages", parts, neox_tokenizer, special, sizes=Sizes(100, 40), context_length=32)
    assert cells(task) == [20, 50, 20, 50]
    assert (task.texts.lengths_N[task.labels_N == 1] == 32).all()
    assert (task.texts.lengths_N[task.labels_N == 0] < 32).all()
    texts = texts_of(task, neox_tokenizer)
    assert all("train" in text for text in texts) and len(set(texts)) == len(texts)


def test_a_shift_has_the_same_classes_in_two_datasets(folder: Path, neox_tokenizer: Any) -> None:
    inside = biographies(folder)
    shifted = biographies(folder, classes={"c": 1, "a": 0}, text_columns=["pair.en"])
    special = special_tokens(neox_tokenizer)
    task = shift_task("shift", [inside], [shifted], neox_tokenizer, special, sizes=Sizes(40, 20))
    assert task.label_names == ("a", "c")
    assert task.shifted_N.sum() == 60 and (~task.shifted_N).sum() == 60
    for text, shifted_text in zip(texts_of(task, neox_tokenizer), task.shifted_N.tolist(), strict=True):
        assert text.startswith("english") == shifted_text


def test_starts_are_skipped_and_short_texts_left_out(folder: Path, neox_tokenizer: Any) -> None:
    part = HubTexts(
        str(folder),
        {"fr": None},
        text_columns=["pair.fr"],
        skip_characters=len("french "),
        min_characters=len("french train 10 ") + 200,
    )
    other = HubTexts(str(folder), {"en": None}, text_columns=["pair.en"])
    special = special_tokens(neox_tokenizer)
    task = probing_task("x", [part, other], neox_tokenizer, special, sizes=Sizes(20, 10), context_length=16)
    french = [t for t, label in zip(texts_of(task, neox_tokenizer), task.labels_N.tolist(), strict=True) if label == 0]
    assert all(text.startswith(("train", "test")) for text in french)
    assert not any(text.split()[1] in set("0123456789") for text in french)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": {"a": 0, "z": 9}}, "texts of z"),
        ({"label_column": "work"}, "one of its columns: job, gender, bio, pair"),
        ({"test_split": "dev"}, "split 'dev'"),
    ],
)
def test_what_a_dataset_lacks_is_said_in_a_line(
    folder: Path, neox_tokenizer: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        special = special_tokens(neox_tokenizer)
        probing_task("x", [biographies(folder, **changes)], neox_tokenizer, special, sizes=Sizes(40, 20))


def test_a_folder_that_is_not_there_is_said(neox_tokenizer: Any, tmp_path: Path) -> None:
    special = special_tokens(neox_tokenizer)
    with pytest.raises(InputError, match=r"eval\.tasks"):
        probing_task("x", [biographies(tmp_path / "nowhere")], neox_tokenizer, special, sizes=Sizes(8, 4))


def test_labels_index_the_names_and_rows_the_reading(stdlib: Tasks) -> None:
    for task in stdlib:
        assert task.labels_N.max() == len(task.label_names) - 1
        assert task.rows_N.max() < task.texts.count
        assert len(task.rows_N) == len(task.labels_N) == len(task.train_N)
        assert torch.equal(task.rows_N, task.rows_N.unique())
