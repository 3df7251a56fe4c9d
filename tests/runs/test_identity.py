"""A run's name follows from what it is, not from where or how it is run."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from masked_sae.config import OptimSettings, RunConfig, all_settings
from masked_sae.errors import InputError
from masked_sae.masks.mask import MaskSettings
from masked_sae.runs.identity import HOW, Digests, is_part_of, run_id
from masked_sae.runs.run import make_run
from masked_sae.settings import neutral
from support.composing import small_config
from support.ids import NAMED, Named
from support.making import compose
from support.sides import IN, SIDES


@pytest.fixture
def config(neox_folder: Path, corpus_folder: Path, tmp_path: Path) -> RunConfig:
    return small_config(neox_folder, corpus_folder, tmp_path)


READ = Digests("digest of the text", "digest of the tokenizer", "digest of the weights", {})


def id_of(config: RunConfig, swept: dict[str, str]) -> str:
    return run_id(config, swept, READ)


def name(config: RunConfig, swept: dict[str, str] | None = None) -> str:
    return make_run(config, swept or {}).folder.run_id


def test_it_shows_the_swept_values(config: RunConfig) -> None:
    assert name(config, {"mask.token.rate": "0.1", "sae.k": "4"}).startswith("rate0.1-k4-")
    assert name(config, {"mask.token.replacement": "<|pad|> /x"}).startswith("replacement_pad_x-")


@pytest.mark.parametrize("named", NAMED, ids=lambda named: named.today)
def test_ids_stay_what_they_were(named: Named) -> None:
    """Else runs that are done would be trained again."""
    assert run_id(compose(named.overrides), named.values, READ) == named.today


@pytest.mark.parametrize("part", ["text", "tokenizer", "weights"])
def test_what_a_run_reads_is_in_its_id(part: str) -> None:
    config = compose([])
    assert run_id(config, {}, replace(READ, **{part: "another"})) != run_id(config, {}, READ)


def test_every_key_has_a_side() -> None:
    """A setting that is added has to be put on one; see `settings.neutral` for what keeps old runs' ids."""
    assert all_settings().keys() == SIDES.keys()


@pytest.mark.parametrize("key", all_settings())
def test_a_key_is_on_its_side(key: str) -> None:
    on = ["mask.latent.rate=0.1", "mask.input.rate=0.1"]  # of a mask that is off nothing is in the id
    config = next(made for made in map(compose, (on, ["sae=jumprelu"], ["sae=relu"])) if holder(made, key) is not None)
    before = id_of(config, {"x": "y"})
    where = holder(config, key)
    value = getattr(where, key.split(".")[-1])
    setattr(where, key.split(".")[-1], ["other", str(value)])
    assert (id_of(config, {"x": "y"}) != before) == (SIDES[key] == IN)


def holder(config: Any, key: str) -> Any:
    """What has the key's last part as an attribute; None if nothing has it."""
    *parents, last = key.split(".")
    for parent in parents:
        config = config[parent] if isinstance(config, dict) else getattr(config, parent)
    return config if hasattr(config, last) else None


@dataclass(kw_only=True)
class LaterOptim(OptimSettings):
    momentum: float = neutral(0.0)


def test_a_setting_that_is_added_renames_nothing_while_it_is_neutral() -> None:
    config = compose([])
    later = replace(config, optim=LaterOptim(**asdict(config.optim)))
    assert id_of(later, {}) == id_of(config, {})
    later.optim.momentum = 0.9  # type: ignore[attr-defined]
    assert id_of(later, {}) != id_of(config, {})


def test_a_mask_that_is_added_renames_nothing_while_it_is_off() -> None:
    config = compose([])
    before = id_of(config, {})
    config.mask["mine"] = MaskSettings(rate=0.0, _module_="my_package.my_mask")
    assert id_of(config, {}) == before
    config.mask["mine"].rate = 0.1
    assert id_of(config, {}) != before


def test_a_mask_that_is_not_there_is_one_that_is_off() -> None:
    config = compose(["mask=none"])
    without = compose(["mask=none"])
    del without.mask["latent"]
    assert id_of(without, {}) == id_of(config, {})


def test_topk_has_no_threshold_to_learn() -> None:
    """It used to take `threshold_decay` and pass it over."""
    config = compose(["sae=topk"])
    assert not hasattr(config.sae, "threshold_decay")
    with pytest.raises(InputError, match=r"sae\.threshold_decay=0\.9: expected none, as topk has no such setting"):
        compose(["sae=topk", "+sae.threshold_decay=0.9"])


def test_an_architecture_without_k_has_ids_by_its_own_settings() -> None:
    gated = compose(["sae=gated"])
    assert not hasattr(gated.sae, "k")
    other = compose(["sae=gated", "sae.sparsity_coefficient=0.5"])
    assert id_of(other, {}) != id_of(gated, {})


def test_paths_devices_and_loggers_do_not_enter(config: RunConfig, tmp_path: Path) -> None:
    same = replace(
        config,
        output_dir=str(tmp_path / "elsewhere"),
        force=True,
        trainer=replace(config.trainer, threads=2, log_every_steps=9),
        logger=replace(config.logger, wandb=replace(config.logger.wandb, mode="offline")),
        lm=replace(config.lm, name=str(copytree(config.lm.name, tmp_path / "lm copy"))),
        data=replace(
            config.data,
            path=[str(copytree(config.data.path[0], tmp_path / "text copy"))],
            store_dir=str(tmp_path / "x"),
        ),
    )
    assert name(same) == name(config)


def test_a_setting_holds_those_below_it_and_none_that_begin_alike() -> None:
    assert is_part_of("logger", HOW) and is_part_of("logger.wandb.mode", HOW) and is_part_of("data.store_dir", HOW)
    assert not is_part_of("loggers", HOW) and not is_part_of("data", HOW) and not is_part_of("data.store_dirs", HOW)


def test_every_setting_of_the_result_does(config: RunConfig) -> None:
    others = [
        replace(config, seed=1),
        replace(config, sae=replace(config.sae, k=5)),
        replace(config, optim=replace(config.optim, lr=0.01)),
        replace(config, mask={**config.mask, "token": replace(config.mask["token"], span=2)}),
        replace(config, data=replace(config.data, train_tokens=2048)),
        replace(config, lm=replace(config.lm, hook_name="blocks.0.hook_resid_post")),
    ]
    assert len({name(other) for other in [config, *others]}) == len(others) + 1


def test_neither_does_what_makes_no_difference_at_its_value() -> None:
    off = compose(["mask=none"])
    other = compose(["mask=none", "mask.token.replacement=eos", "mask.token.span=3"])
    assert id_of(off, {}) == id_of(other, {})


def test_so_do_the_words_of_the_text_and_the_weights(config: RunConfig, tmp_path: Path, bert_folder: Path) -> None:
    text = tmp_path / "other.txt"
    text.write_text("other words\n")
    assert name(replace(config, data=replace(config.data, path=[str(text)]))) != name(config)
