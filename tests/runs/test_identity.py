"""A run's name follows from what it is, not from where or how it is run."""

from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest

from masked_sae.config import RunConfig
from masked_sae.runs.identity import HOW, is_part_of, run_id
from masked_sae.training.preparation import identify
from support.composing import small_config


@pytest.fixture
def config(neox_folder: Path, corpus_folder: Path, tmp_path: Path) -> RunConfig:
    return small_config(neox_folder, corpus_folder, tmp_path)


def name(config: RunConfig, swept: dict[str, str] | None = None) -> str:
    return identify(config, swept or {}).folder.run_id


def test_it_shows_the_swept_values(config: RunConfig) -> None:
    assert name(config, {"mask.token.rate": "0.1", "sae.k": "4"}).startswith("rate0.1-k4-")
    assert name(config, {"mask.token.replacement": "<|pad|> /x"}).startswith("replacement_pad_x-")


def test_it_stays_what_it_was() -> None:
    """Else runs that are done would be trained again. A new default changes it too, as it should."""
    config = small_config(Path("owner/lm"), Path("text"), Path("out"), "mask.token.rate=0.1")
    assert run_id(config, {"sae.k": "4"}, "digest of the text") == "k4-b3c3b4bb"


def test_an_architecture_without_k_has_ids_by_its_own_settings(
    neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    gated = small_config(neox_folder, corpus_folder, tmp_path, "sae=gated")
    assert gated.sae.k is None
    assert name(replace(gated, sae=replace(gated.sae, sparsity_coefficient=0.5))) != name(gated)


def test_paths_devices_and_loggers_do_not_enter(config: RunConfig, tmp_path: Path) -> None:
    same = replace(
        config,
        output_dir=str(tmp_path / "elsewhere"),
        force=True,
        trainer=replace(config.trainer, threads=2, log_every_steps=9),
        logger=replace(config.logger, wandb=replace(config.logger.wandb, mode="offline")),
        lm=replace(config.lm, name=str(copytree(config.lm.name, tmp_path / "lm copy"))),
        data=replace(config.data, path=[str(copytree(config.data.path[0], tmp_path / "text copy"))], store_dir="x"),
    )
    assert name(same) == name(config)


def test_a_setting_holds_those_below_it_and_none_that_begin_alike() -> None:
    assert is_part_of("trainer", HOW) and is_part_of("trainer.threads", HOW) and is_part_of("data.store_dir", HOW)
    assert not is_part_of("trainers", HOW) and not is_part_of("data", HOW) and not is_part_of("data.store_dirs", HOW)


def test_every_setting_of_the_result_does(config: RunConfig) -> None:
    others = [
        replace(config, seed=1),
        replace(config, sae=replace(config.sae, k=5)),
        replace(config, optim=replace(config.optim, lr=0.01)),
        replace(config, mask=replace(config.mask, token=replace(config.mask.token, span=2))),
        replace(config, data=replace(config.data, train_tokens=2048)),
        replace(config, lm=replace(config.lm, hook_name="blocks.0.hook_resid_post")),
    ]
    assert len({name(other) for other in [config, *others]}) == len(others) + 1


def test_so_do_the_words_of_the_text_and_the_weights(config: RunConfig, tmp_path: Path, bert_folder: Path) -> None:
    text = tmp_path / "other.txt"
    text.write_text("other words\n")
    assert name(replace(config, data=replace(config.data, path=[str(text)]))) != name(config)
