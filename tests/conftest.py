"""Models and texts that the tests share, made once a session."""

import importlib
import os

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hypothesis import Phase
from hypothesis import settings as hypothesis_settings

from masked_sae.activations.lm import LM, load_lm
from masked_sae.commands.search_path import OwnConfigurationFirst
from masked_sae.text.tokenizer import load_tokenizer
from support.making import HOOK, make_bert, make_neox, make_texts, write_jsonl, write_parquet
from support.ranks import Processes, processes
from support.wandb_recorder import WandbServer

torch.set_num_threads(1)  # these tensors are small: a second thread only waits

# The same examples each time, so that a change is judged by itself, and the first failing one as it is: making it small
# takes minutes where an example takes a second. `pytest --hypothesis-profile=default` draws new ones.
WITHOUT_SHRINKING = tuple(phase for phase in Phase if phase is not Phase.shrink and phase is not Phase.explain)
hypothesis_settings.register_profile("gate", derandomize=True, report_multiple_bugs=False, phases=WITHOUT_SHRINKING)
hypothesis_settings.load_profile("gate")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first, so that two workers end together. Those on SLURM mostly wait: one is the very
    first, another comes after the long ones, so that something else runs beside each.
    """
    for item in items:
        for fixture, marker in (("wandb_server", pytest.mark.server), ("sae_lens", pytest.mark.peers)):
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(marker)
        if item.get_closest_marker("cuda") is not None and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
    seconds = {"container": 60, "server": 15, "long": 30, "slow": 4}  # about so many a test
    patience: Counter[Path] = Counter()
    for item in items:
        patience[item.path] += max((seconds.get(mark.name, 0) for mark in item.iter_markers()), default=0)
    on_slurm = list(dict.fromkeys(item.path for item in items if item.get_closest_marker("slurm") is not None))
    on_slurm.sort(key=lambda path: -patience[path])
    long = {item.path for item in items if item.get_closest_marker("long") is not None}
    rank = dict.fromkeys(on_slurm, 2) | dict.fromkeys(on_slurm[:1], 0)
    items.sort(
        key=lambda item: (rank.get(item.path, 1 if item.path in long else 3), -patience[item.path], str(item.path))
    )


@pytest.fixture(scope="module")
def two() -> Generator[Processes]:
    with processes(2) as found:
        yield found


@pytest.fixture(scope="module")
def four() -> Generator[Processes]:
    with processes(4) as found:
        yield found


@pytest.fixture(autouse=True)
def _threads() -> Generator[None]:
    """A run may set torch's threads for its process; the next test has its own back."""
    yield
    torch.set_num_threads(1)


@pytest.fixture
def hydra_as_it_was() -> Generator[None]:
    """For tests that start a command in their own process, where `conf/` is searched for differently from then on."""
    yield
    GlobalHydra.instance().clear()
    of_search_path = Plugins.instance().plugin_type_to_subclass_list[SearchPathPlugin]
    of_search_path[:] = [one for one in of_search_path if one is not OwnConfigurationFirst]


@pytest.fixture(scope="session")
def neox_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_neox(tmp_path_factory.mktemp("neox"))


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def bert_base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT without an output layer."""
    return make_bert(tmp_path_factory.mktemp("bert_base"), with_head=False)


@pytest.fixture(scope="session")
def neox(neox_folder: Path) -> LM:
    return load_lm(str(neox_folder), HOOK)


@pytest.fixture(scope="session")
def bert(bert_folder: Path) -> LM:
    return load_lm(str(bert_folder), HOOK)


@pytest.fixture(scope="session")
def neox_tokenizer(neox_folder: Path) -> Any:
    return load_tokenizer(str(neox_folder))


@pytest.fixture(scope="session")
def bert_tokenizer(bert_folder: Path) -> Any:
    return load_tokenizer(str(bert_folder))


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return make_texts(120)


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    """The texts in three files: .txt, .jsonl and .parquet."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "a.txt").write_text("\n\n".join(texts[:10]))
    write_jsonl(folder / "b.jsonl", texts[10:60])
    write_parquet(folder / "c.parquet", texts[60:])
    return folder


@pytest.fixture(scope="session")
def sae_lens() -> Any:
    """SAELens; skipped where it is not, unless it is required."""
    try:
        return importlib.import_module("sae_lens")
    except ImportError as error:
        if os.environ.get("MASKED_SAE_REQUIRE_PEERS") == "1":
            pytest.fail(f"MASKED_SAE_REQUIRE_PEERS=1, but SAELens cannot be imported: {error}")
        pytest.skip("the extra `peers` is not installed")


@pytest.fixture
def wandb_server() -> Generator[WandbServer]:
    """A recorder of what W&B's client sends, which has to know everything that is asked of it."""
    server = WandbServer()
    yield server
    server.close()
    assert server.unknown == []
