"""What the entry points share: folders that are named, keys that are mistyped, and Ctrl-C."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from masked_sae.command_line import clear_errors, explain, named_folders, quoted, settings_together, store_config
from masked_sae.errors import DamagedFileError, InputError
from support.making import ROOT


def test_a_key_names_one_folder_or_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    config = OmegaConf.create({"one": str(tmp_path / "a"), "several": [str(tmp_path / "a"), "~/b"]})
    assert named_folders("sweep", config.one) == [tmp_path / "a"]
    assert named_folders("sweep", config.several) == [tmp_path / "a", tmp_path / "b"]


def test_a_named_folder_has_to_exist(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"^sae={tmp_path}/b: expected a folder that exists$"):
        named_folders("sae", [str(tmp_path), str(tmp_path / "b")])
    with pytest.raises(InputError, match=r"^sweep=nowhere: expected a sweep's folder$"):
        named_folders("sweep", "nowhere", "a sweep's folder")
    with pytest.raises(InputError, match=r"^sweep=\[\]: expected"):
        named_folders("sweep", OmegaConf.create([]))


@pytest.mark.parametrize("named", ["", [".", ""]])
def test_an_empty_name_is_no_folder(named: str | list[str]) -> None:
    """An empty shell variable does not mean the working folder."""
    with pytest.raises(InputError, match=r"^sweep=: expected a folder that exists$"):
        named_folders("sweep", named)


def test_a_stored_configuration_tells_its_keys() -> None:
    assert store_config("report") == ["sweep", "output_dir", "figures"]


def refused(*arguments: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HYDRA_", "MASKED_SAE_"))}
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.slow
def test_a_mistyped_key_is_told_with_those_of_its_own_command() -> None:
    assert refused("src.report", "sweap=runs/a") == (
        "error: sweap: no such key; expected one of sweep, output_dir, figures"
    )
    line = refused("src.evaluate", "swep=runs/a")
    assert line.startswith("error: swep: no such key; expected one of those in conf/ (near: sweep")


def in_clean_up() -> None:
    """As omegaconf does where Ctrl-C meets it inside a copy."""
    half_made = None
    try:
        raise KeyboardInterrupt
    finally:
        half_made._invalidate_flags_cache()  # type: ignore[attr-defined]


def wrapped() -> None:
    try:
        in_clean_up()
    except AttributeError as error:
        raise ConfigCompositionException("In 'train'") from error


@pytest.mark.parametrize("interrupted", [in_clean_up, wrapped])
def test_ctrl_c_stays_one_where_a_library_puts_its_own_error_on_top(
    interrupted: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as info, clear_errors():
        interrupted()
    assert info.value.code == 130
    assert capsys.readouterr().err == ""


def test_the_same_error_without_ctrl_c_is_told() -> None:
    with pytest.raises(AttributeError), clear_errors():
        None._invalidate_flags_cache()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["+sweep=seeds", "-m", "seed=1"], ["+sweep=seeds", "seed=1", "-m"]),
        (["-m", "--config-dir", "conf", "sae=mine"], ["sae=mine", "-m", "--config-dir", "conf"]),
        (["--info", "defaults", "sae.k=3"], ["sae.k=3", "--info", "defaults"]),
        (["--info", "sae.k=3"], ["sae.k=3", "--info"]),
        (["--cfg", "job", "seed=1"], ["seed=1", "--cfg", "job"]),
        (["-m", "--cfg", "job", "seed=1,2"], ["seed=1,2", "--cfg", "job"]),
        (["-m", "seed=1,2"], ["seed=1,2", "-m"]),
        ([], []),
    ],
)
def test_options_may_stand_anywhere(given: list[str], meant: list[str]) -> None:
    assert settings_together(given) == meant


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("data.path=/a=b.txt", "data.path='/a=b.txt'"),
        ("data.path=/a=1,/b,c=2", "data.path='/a=1',/b,'c=2'"),
        ("data.path=/a.txt", "data.path=/a.txt"),
        ("output_dir=~/x", "output_dir='~/x'"),
        ("name=größe", "name='größe'"),
        ("lm.name=a-b/c_1.5", "lm.name=a-b/c_1.5"),
        ("data.path='/a=b.txt'", "data.path='/a=b.txt'"),
        ("data.path=[a=1,b]", "data.path=[a=1,b]"),
        ("seed=range(start=1,stop=3)", "seed=range(start=1,stop=3)"),
        ("name=${oc.env:A}", "name=${oc.env:A}"),
        ("--watch", "--watch"),
    ],
)
def test_a_value_may_have_an_equals_sign(given: str, meant: str) -> None:
    assert quoted(given) == meant


@pytest.mark.parametrize(
    "code", ["EACCES", "EPERM", "EROFS", "ENOTDIR", "EISDIR", "EEXIST", "ENAMETOOLONG", "ELOOP", "EIO", "ESTALE"]
)
def test_what_a_user_can_mend_about_a_path_is_one_line(code: str) -> None:
    number = getattr(errno, code)
    line = explain(OSError(number, os.strerror(number), "/a/\x1b[31mb"))
    assert line is not None and line.startswith("/a/\\x1b[31mb: ") and os.strerror(number) in line
    assert explain(OSError(number, os.strerror(number))) is None


def test_a_trace_is_shown_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASKED_SAE_FULL_ERROR_SET", raising=False)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(NotADirectoryError), clear_errors():
        (Path(__file__) / "x").mkdir()


def test_a_damaged_file_is_one_line() -> None:
    assert explain(DamagedFileError(Path("/a"), "cut short", "remove it")) == "/a is damaged (cut short): remove it"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            "+sweep=mask_rate",
            "+sweep=mask_rate: expected -m on the same command line: without it there would be one run",
        ),
        ("seed=1,2", "seed=1,2: expected -m to sweep over it, seed=[1,2] for a list"),
        ("seed=range(3)", "seed=range(3): expected -m to sweep over it"),
        ("data=text data.path=/a(b).txt", "data.path=/a(b).txt: expected key=value as Hydra reads it; a text with"),
        ("data=text data.path=/no=thing.txt", "data.path=/no=thing.txt: expected a file or glob"),
        ("sae.d_sae=100000000", "sae.d_sae=100000000: expected less: training would need at least "),
        ("mask=3", "mask=3: expected a name for a choice of conf/"),
        ("optim=[1]", "settings: expected a name for a choice of conf/"),
        ("logger.wandb.tags=[a] logger.wandb.tags.x=2", "logger.wandb.tags.x=2: expected a name for a choice of"),
        ("--run -m", "Only one of --run, --multirun"),
        ("data.store_dir=/dev/null/x data=text data.path=constraints.txt", "/dev/null/x"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(arguments: str, line: str) -> None:
    assert refused_by_train(*arguments.split()).startswith(f"error: {line}")


def refused_by_train(*arguments: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HYDRA_", "MASKED_SAE_"))}
    command = [sys.executable, "-m", "src.train", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2)
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.slow
def test_the_configuration_of_a_sweep_is_shown_with_or_without_m() -> None:
    command = [sys.executable, "-m", "src.train", "+sweep=mask_rate", "-m", "--cfg", "job"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "name: mask_rate" in done.stdout
