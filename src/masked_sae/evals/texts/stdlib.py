"""Labelled texts without network: the running Python's standard library.

Topics are packages; kinds are code (source without docstrings), prose (the docstrings) and reference (`pydoc` topics).

Axes: N texts.
"""

import ast
import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from masked_sae.errors import InputError
from masked_sae.evals.texts.labelled import LabelledTexts, ProbingTask, ShiftTask, Sizes, SpuriousTask, framed
from masked_sae.randomness import numpy_generator
from masked_sae.text.documents import Document, stdlib_documents
from masked_sae.text.tokenizer import SpecialTokens, encode

PACKAGES = ("asyncio", "email", "http", "importlib", "unittest", "xml")  # several files and enough prose in each
KINDS = ("code", "prose", "reference")
CODE, PROSE, REFERENCE = range(3)
_REFERENCE = "reference"  # the package of what has none

Task = TypeVar("Task", bound=LabelledTexts)


@dataclass(frozen=True)
class _Chunks:
    """One file's texts of one kind, each of the same number of tokens."""

    package: str
    kind: int
    file: str
    texts: list[list[int]]


def stdlib_tasks(
    tokenizer: Any,
    special: SpecialTokens,
    *,
    text_tokens: int = 32,
    packages: Sequence[str] = PACKAGES,
    sizes: Sizes | None = None,
    test_share: float = 0.25,
    seed: int = 0,
) -> tuple[ProbingTask | SpuriousTask | ShiftTask, ...]:
    """Tasks on the same texts: which package (code and prose mixed), which kind, package against kind, code to prose.

    A text is `text_tokens` consecutive tokens of one file; texts do not overlap. Whole files are train or test, code
    and docstrings of a file alike, so that no text has a neighbour, and no probe a file's names, on the other side.
    Every class has the same number of texts; the smallest decides.

    Args:
        sizes: most texts of a package in one kind; by default all that there are.
        test_share: share of a package's prose that the test files have, nearly.

    Raises:
        InputError: a package is not there, or has too little text to be split.
    """
    if len(set(packages)) < 2:
        raise ValueError(f"packages={list(packages)}: expected two of the standard library at least")
    chunks = _all_chunks(tokenizer, text_tokens, packages)
    test_files = {file for package in (*packages, _REFERENCE) for file in _test_files(chunks, package, test_share)}
    cells: dict[tuple[str, int, bool], list[list[int]]] = {}
    for part in chunks:
        cells.setdefault((part.package, part.kind, part.file not in test_files), []).extend(part.texts)
    kinds = [(package, kind) for package in packages for kind in (CODE, PROSE)] + [(_REFERENCE, REFERENCE)]
    counts = {train: _count(cells, packages, train, sizes, text_tokens) for train in (True, False)}
    texts: list[list[int]] = []
    rows: list[tuple[str, int, bool]] = []
    for package, kind in kinds:
        for train in (True, False):
            found = cells.get((package, kind, train), [])
            wanted = counts[train] * (len(packages) if kind == REFERENCE else 1)
            order = numpy_generator(seed, "labelled texts", len(rows)).permutation(len(found))[:wanted]
            texts += [found[i] for i in sorted(order.tolist())]
            rows += [(package, kind, train)] * len(order)
    names = {package: index for index, package in enumerate((*packages, _REFERENCE))}
    package_N = np.array([names[package] for package, _, _ in rows])
    kind_N, train_N = np.array([kind for _, kind, _ in rows]), np.array([train for _, _, train in rows])
    tokenized = framed(texts, special)

    def task(
        kind_of_task: Callable[..., Task], name: str, chosen_N: NDArray[np.bool_], labels_N: Any, **more: Any
    ) -> Task:
        chosen = torch.from_numpy(chosen_N.nonzero()[0])
        extra = {key: torch.from_numpy(v)[chosen] if isinstance(v, np.ndarray) else v for key, v in more.items()}
        return kind_of_task(
            name=f"stdlib/{name}",
            texts=tokenized,
            rows_N=chosen,
            train_N=torch.from_numpy(train_N)[chosen],
            labels_N=torch.from_numpy(labels_N.astype(np.int64))[chosen],
            **extra,
        )

    in_package_N, every_N = package_N < len(packages), np.ones(len(rows), dtype=bool)
    tasks: list[ProbingTask | SpuriousTask | ShiftTask] = [
        task(ProbingTask, "package", in_package_N, package_N, label_names=tuple(packages)),
        task(ProbingTask, "kind", every_N, kind_N, label_names=KINDS),
        task(
            ShiftTask,
            "code_to_prose",
            in_package_N,
            package_N,
            label_names=tuple(packages),
            shifted_N=kind_N == PROSE,
        ),
    ]
    for first, second in zip(packages[::2], packages[1::2], strict=False):
        pair_N = np.isin(package_N, [names[first], names[second]])
        labels_N = package_N == names[second]
        attributes: dict[str, Any] = {"attribute_names": ("code", "prose"), "attributes_N": kind_N == CODE}
        name = f"{first}_{second}_code_prose"
        tasks.append(task(SpuriousTask, name, pair_N, labels_N, label_names=(first, second), **attributes))
    return tuple(tasks)


def _count(
    cells: dict[tuple[str, int, bool], list[list[int]]],
    packages: Sequence[str],
    train: bool,
    sizes: Sizes | None,
    text_tokens: int,
) -> int:
    counts = {
        package: min(len(cells.get((package, kind, train), [])) for kind in (CODE, PROSE)) for package in packages
    }
    poorest = min(counts, key=lambda package: counts[package])
    if counts[poorest] < 4:
        split = "train" if train else "test"
        valid = f"less: {poorest} has {counts[poorest]} texts of so many tokens to {split} on, which are too few"
        raise InputError("eval.text_tokens", text_tokens, valid)
    limit = counts[poorest] if sizes is None else (sizes.train if train else sizes.test)
    return min(counts[poorest], limit)


def _test_files(chunks: Sequence[_Chunks], package: str, test_share: float) -> Iterator[str]:
    """Files in the order of their prose, the longest first, each to the side that lacks the most."""
    here = [part for part in chunks if part.package == package and part.kind != CODE]
    total = sum(len(part.texts) for part in here)
    lacking = {True: test_share * total, False: (1 - test_share) * total}
    for part in sorted(here, key=lambda part: (-len(part.texts), part.file)):
        test = lacking[True] > lacking[False]
        lacking[test] -= len(part.texts)
        if test:
            yield part.file


def _all_chunks(tokenizer: Any, text_tokens: int, packages: Sequence[str]) -> list[_Chunks]:
    found: list[tuple[str, int, str, str]] = []
    for document in stdlib_documents():
        place, package, *_ = document.key.split("/")
        if place == "pydoc":
            found.append((_REFERENCE, REFERENCE, document.key, document.text))
        elif package in packages:
            code, prose = code_and_prose(document)
            found += [(package, CODE, document.key, code), (package, PROSE, document.key, prose)]
    for package in packages:
        if all(package != where for where, *_ in found):
            valid = f"labelled texts of your own: this Python's standard library has no {package}"
            raise InputError("eval.tasks", "[]", valid)
    encoded = encode(tokenizer, [text for *_, text in found])
    return [
        _Chunks(package, kind, file, _cut(tokens, text_tokens))
        for (package, kind, file, _), tokens in zip(found, encoded, strict=True)
    ]


def _cut(tokens: list[int], size: int) -> list[list[int]]:
    return [tokens[start : start + size] for start in range(0, len(tokens) - size + 1, size)]


def code_and_prose(document: Document) -> tuple[str, str]:
    """A module's source without its docstrings, and the docstrings, dedented, in order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes in old modules
        tree = ast.parse(document.text)
    docstrings = sorted((node for node in map(_docstring, ast.walk(tree)) if node), key=lambda node: node.lineno)
    prose = "\n\n".join(inspect.cleandoc(str(node.value)) for node in docstrings)
    lines = document.text.splitlines(keepends=True)
    for node in docstrings:
        for line in range(node.lineno - 1, node.end_lineno or node.lineno):
            lines[line] = ""
    return "".join(lines), prose


def _docstring(node: ast.AST) -> ast.Constant | None:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
        first = node.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            return first.value
    return None
