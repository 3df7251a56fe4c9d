"""What a run needs, had beforehand; and what is said of it."""

import shutil
from pathlib import Path

import pytest

from masked_sae.activations.hook_points import by_kind, hook_points
from masked_sae.activations.lm import LM
from masked_sae.errors import InputError
from masked_sae.runs.run import make_run
from masked_sae.training.prepare import prepare
from masked_sae.training.train_run import train_run
from support.commands import command
from support.making import D_IN, LAYERS, compose, make_texts, small_run, write_jsonl


def test_a_run_that_was_prepared_needs_no_text_any_more(neox_folder: Path, tmp_path: Path) -> None:
    """Of a dataset of the hub, which counts by its name."""
    write_jsonl(tmp_path / "set" / "train.jsonl", make_texts(200))
    settings = [
        one for one in small_run(neox_folder, tmp_path, tmp_path) if not one.startswith(("data=", "data.path="))
    ]
    config = compose([*settings, "data=hub", f"data.name={tmp_path}/set", "data.validation_share=0.5", "eval=none"])
    said = prepare(config)
    assert not (tmp_path / "runs").exists()
    assert f"read is blocks.1.hook_resid_post: {D_IN}" in said
    assert any(line.split() == [f"blocks.{{0..{LAYERS - 1}}}.hook_resid_post", str(D_IN)] for line in said)
    shutil.rmtree(tmp_path / "set")
    run = make_run(config, {})
    assert train_run(run).status == "done"


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["data.train_tokens=10000000"], "data.train_tokens=10000000: expected at most"),
        (["lm.hook_name=blocks.1.hook_resid_pst"], "lm.hook_name=blocks.1.hook_resid_pst: expected a hook point"),
        (["mask.token.replacement=mask"], "mask.token.replacement=mask: expected"),
    ],
)
def test_what_would_fail_on_a_node_is_refused(
    overrides: list[str], line: str, neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as info:
        prepare(compose([*small_run(neox_folder, corpus_folder, tmp_path), *overrides]))
    assert str(info.value).startswith(line)


@pytest.mark.parametrize("kind", ["neox", "bert"])
def test_every_hook_point_that_is_listed_can_be_read(kind: str, request: pytest.FixtureRequest) -> None:
    lm: LM = request.getfixturevalue(kind)
    found = hook_points(lm)
    assert {name for name in found if name.endswith("hook_resid_post")} == {
        f"blocks.{block}.hook_resid_post" for block in range(LAYERS)
    }
    assert not any("attn_scores" in name for name in found)
    for name in [name for name in found if name.startswith(("blocks.1.", "embed"))]:
        assert lm.at(name).d_in == found[name], name


def test_blocks_have_a_line_together() -> None:
    points = {"embed.hook_out": 8, **{f"blocks.{block}.hook_z": 8 for block in range(3)}}
    points |= {"blocks.0.mlp.hook_out": 8, "blocks.2.mlp.hook_out": 8, "blocks.1.odd": 4, "blocks.0.odd": 2}
    assert [line.split() for line in by_kind(points)] == [
        ["embed.hook_out", "8"],
        ["blocks.{0..2}.hook_z", "8"],
        ["blocks.{0,2}.mlp.hook_out", "8"],
        ["blocks.1.odd", "4"],
        ["blocks.0.odd", "2"],
    ]


@pytest.mark.slow
def test_the_command_says_what_there_is_and_trains_nothing(
    neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    ended = command(small_run(neox_folder, corpus_folder, tmp_path), name="prepare")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert f"blocks.{{0..{LAYERS - 1}}}.hook_resid_post" in ended.stdout
    assert (tmp_path / "store").is_dir() and not (tmp_path / "runs").exists()
