"""What a user sees of a mistake: one line, a non-zero exit, and nothing left behind.

The line is made in this process by the code that the command runs; a few go through the command itself.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from masked_sae.command_line import clear_errors
from support.commands import command
from support.making import compose, make_neox, make_texts, small_run, write_jsonl, write_parquet

pytestmark = pytest.mark.slow

BAD_INPUT, FAILED = 2, 1


@pytest.fixture
def run(neox_folder: Path, corpus_folder: Path, tmp_path: Path) -> list[str]:
    """Overrides of a run that works."""
    return small_run(neox_folder, corpus_folder, tmp_path)


def error_line(exit_code: int | str | None, stderr: str) -> str:
    assert exit_code not in (0, None)
    *others, line = stderr.splitlines()
    assert others == [], stderr
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def refused(overrides: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    """In this process."""
    from masked_sae.sweeps.local import train_alone

    capfd.readouterr()
    with pytest.raises(SystemExit) as info, clear_errors():
        train_alone(compose(overrides))
    return error_line(info.value.code, capfd.readouterr().err)


def with_broken_weights(folder: Path) -> Path:
    """Finite ones, in the first block's MLP, that no activation is finite behind."""
    make_neox(folder)
    weights = load_file(folder / "model.safetensors")
    weights["gpt_neox.layers.0.mlp.dense_4h_to_h.weight"][3] = 3e38
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_the_run_that_the_mistakes_are_made_in_works(run: list[str], tmp_path: Path) -> None:
    ended = command(run)
    assert ended.returncode == 0, ended.stderr
    assert len(list((tmp_path / "runs").glob("*/*/results.json"))) == 1


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["lm.hook_name=blocks.1.hook_resid_pst"], ["lm.hook_name=", "resid_pst", "near", "blocks.1.hook_resid_post"]),
        (["lm.hook_name=blocks.9.hook_resid_post"], ["lm.hook_name=", "blocks.9", "near", "hook_resid_post"]),
        (["lm.hook_name=blocks.1.attn.hook_pattern"], ["lm.hook_name=", "one vector for each token"]),
        (["lm.hook_name=blocks.1.hook_mlp_in"], ["lm.hook_name=blocks.1.hook_mlp_in"]),
        (["sae.d_sae=0"], ["sae.d_sae=0", "at least 1"]),
        (["sae.k=65"], ["sae.k=65", "sae.d_sae=64"]),
        (["mask.token.rate=1.5"], ["mask.token.rate=1.5", "0 to 1"]),
        (["mask.token.replacement=mask"], ["mask.token.replacement=mask", "bos, eos, mean, random"]),
        (["data.context_length=65"], ["data.context_length=65", "at most 64"]),
        (["data.context_length=4000000"], ["data.context_length=4000000", "at most"]),
        (["data.train_tokens=1000010"], ["data.train_tokens=1000010", "at most", "epochs", "data.max_epochs=1"]),
        (["lm.name=no/such/folder"], ["lm.name=no/such/folder", "folder that exists"]),
        (["lm.name=no-such-owner/no-such-model"], ["lm.name=no-such-owner/no-such-model", "local folder"]),
        (["data=hub", "data.path=null", "data.name=no-such/dataset"], ["data.name=no-such/dataset", "data=text"]),
        (["data.path=no/such/*.txt"], ["data.path=no/such/*.txt", ".jsonl"]),
        (["data.validation_share=0.0001"], ["data.validation_share=0.0001", "validation split"]),
        (["seed=-1"], ["seed=-1"]),
    ],
    ids=lambda value: value[-1] if value[-1].count("=") == 1 else None,
)
def test_a_setting_that_cannot_be_used_is_one_line(
    overrides: list[str], parts: list[str], run: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if overrides[0] == "data=hub":
        run = [o for o in run if not o.startswith(("data=", "data.path="))]
        overrides = [o for o in overrides if not o.startswith("data.path=")]
    line = refused([*run, *overrides], capfd)
    for part in parts:
        assert part in line
    assert not (tmp_path / "runs").exists()


def write_nothing(folder: Path) -> Path:
    (folder / "t.txt").write_text(" \n\n")
    return folder / "t.txt"


def write_binary(folder: Path) -> Path:
    (folder / "t.txt").write_bytes(bytes(range(256)) * 100)
    return folder / "t.txt"


def write_nul(folder: Path) -> Path:
    (folder / "t.txt").write_bytes(b"text\x00" * 1000)
    return folder / "t.txt"


def write_broken_jsonl(folder: Path) -> Path:
    path = write_jsonl(folder / "t.jsonl", make_texts(30))
    path.write_text(path.read_text() + '{"text": "cut o')
    return path


def write_broken_parquet(folder: Path) -> Path:
    path = write_parquet(folder / "t.parquet", make_texts(2000))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + whole[-200:])
    return path


def write_short(folder: Path) -> Path:
    return write_jsonl(folder / "t.jsonl", ["ab", "cd", "ef", "gh", "ij", "kl", "mn", "op"])


@pytest.mark.parametrize(
    ("write", "parts"),
    [
        (write_nothing, ["data.path=", "t.txt", "not empty"]),
        (write_binary, ["data.path=", "t.txt"]),
        (write_nul, ["data.path=", "t.txt", "NUL"]),
        (write_broken_jsonl, ["data.path=", "t.jsonl, line 31"]),
        (write_broken_parquet, ["data.path=", "t.parquet"]),
        (write_short, ["data.context_length=32", "tokens"]),
    ],
)
def test_text_that_cannot_be_used_is_one_line_and_leaves_no_store(
    write: Callable[[Path], Path],
    parts: list[str],
    run: list[str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    line = refused([*run, f"data.path={write(tmp_path)}"], capfd)
    for part in parts:
        assert part in line
    assert not (tmp_path / "runs").exists()
    if write is not write_short:
        assert [p for p in (tmp_path / "store").glob("*") if p.suffix != ".lock"] == []


@pytest.mark.parametrize(
    "override",
    [
        "lm.hook_name=blocks.1.hook_resid_pst",
        "data.context_length=65",
        "mask.token.replacement=mask",
        "lm.name=no/folder/x",
    ],
)
def test_what_the_lm_tells_is_refused_before_the_text_is_tokenized(
    override: str, run: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a large corpus that is hours of work."""
    refused([*run, override], capfd)
    assert not (tmp_path / "store").exists()


def test_nan_activations_are_one_line_naming_tokens(
    run: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = refused([*run, f"lm.name={with_broken_weights(tmp_path / 'lm')}"], capfd)
    for part in ("NaN or infinity", "blocks.1.hook_resid_post", "tokens", "ids ["):
        assert part in line
    assert not (tmp_path / "runs").exists()


def without_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop("gpt_neox.layers.2.attention.dense.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def with_two_layers_more(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 5}))


def with_infinity_behind_the_hook(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["gpt_neox.layers.2.attention.dense.weight"][0, 0] = math.inf
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def with_a_list_for_a_configuration(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def with_an_empty_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (without_a_weight, "model.safetensors lacks gpt_neox.layers.2.attention.dense.weight"),
        (with_two_layers_more, "model.safetensors lacks gpt_neox.layers.3."),
        (with_infinity_behind_the_hook, "gpt_neox.layers.2.attention.dense.weight are NaN or inf"),
        (with_a_list_for_a_configuration, "config.json"),
        (with_an_empty_tokenizer, "a tokenizer that can be read"),
    ],
)
def test_a_damaged_lm_is_one_line_before_the_text_is_tokenized(
    damage: Callable[[Path], None], part: str, run: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = make_neox(tmp_path / "lm")
    damage(folder)
    line = refused([*run, f"lm.name={folder}"], capfd)
    assert line.startswith(f"lm.name={folder}: expected ")
    assert part in line
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "store").exists()


# Through the command


def test_an_unknown_key_through_the_command(run: list[str], tmp_path: Path) -> None:
    ended = command([*run, "mask.token.rte=0.2"])
    line = error_line(ended.returncode, ended.stderr)
    assert ended.returncode == BAD_INPUT
    assert "mask.token.rte" in line
    assert "mask.token.rate" in line
    assert not (tmp_path / "runs").exists()


def test_a_rate_beyond_1_through_the_command(run: list[str], tmp_path: Path) -> None:
    ended = command([*run, "mask.token.rate=1.5"])
    assert error_line(ended.returncode, ended.stderr).startswith("mask.token.rate=1.5: ")
    assert ended.returncode == BAD_INPUT
    assert not (tmp_path / "runs").exists()


def test_missing_text_through_the_command(run: list[str], tmp_path: Path) -> None:
    ended = command([*run, f"data.path={tmp_path}/absent"])
    assert error_line(ended.returncode, ended.stderr).startswith(f"data.path={tmp_path}/absent: ")
    assert not (tmp_path / "runs").exists()


def test_an_lm_folder_without_weights_through_the_command(run: list[str], tmp_path: Path) -> None:
    folder = make_neox(tmp_path / "lm")
    (folder / "model.safetensors").unlink()
    ended = command([*run, f"lm.name={folder}"])
    line = error_line(ended.returncode, ended.stderr)
    assert line.startswith(f"lm.name={folder}: ")
    assert "weights" in line
    assert not (tmp_path / "runs").exists()


def test_a_loss_that_is_no_number_through_the_command(run: list[str], tmp_path: Path) -> None:
    """Known only in training: the run's folder says that it failed, and holds no SAE and no results."""
    ended = command([*run, "optim.lr=1e38", "optim.gradient_clip=0", "optim.warmup_steps=0"])
    line = error_line(ended.returncode, ended.stderr)
    assert "the loss is" in line
    assert "optim.lr=1e+38" in line
    assert ended.returncode == FAILED
    [folder] = (tmp_path / "runs").glob("*/*")
    assert '"failed"' in (folder / "state.json").read_text()
    assert not (folder / "results.json").exists()
    assert not (folder / "sae").exists()


def test_a_disk_too_full_for_the_tokens_through_the_command(run: list[str], tmp_path: Path) -> None:
    ended = command(run, file_limit=4_000)
    line = error_line(ended.returncode, ended.stderr)
    assert "no space left" in line
    assert str(tmp_path / "store") in line
    assert ended.returncode == FAILED
    assert not (tmp_path / "runs").exists()
    assert [p for p in (tmp_path / "store").iterdir() if p.suffix != ".lock"] == []


def test_a_disk_too_full_for_the_weights_through_the_command(run: list[str], tmp_path: Path) -> None:
    """Known only when the first checkpoint is written: the run's folder says that it failed, and holds no half."""
    ended = command([*run, "sae.d_sae=2048"], file_limit=300_000)
    line = error_line(ended.returncode, ended.stderr)
    assert "no space left" in line
    assert str(tmp_path / "runs") in line
    assert ended.returncode == FAILED
    [folder] = (tmp_path / "runs").glob("*/*")
    assert '"failed"' in (folder / "state.json").read_text()
    names = {p.name for p in folder.rglob("*") if p.is_file()}
    assert names <= {"config.yaml", "state.json", "attempts.json", "metrics.csv", "histograms.jsonl", ".lock"}
