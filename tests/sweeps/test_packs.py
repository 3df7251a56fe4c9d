"""Which runs are trained together, and what becomes of packs that are too large."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from masked_sae.config import RunConfig
from masked_sae.runs.config_file import write_config
from masked_sae.runs.run import Run, make_run
from masked_sae.runs.state import read_state
from masked_sae.sweeps import packs
from masked_sae.sweeps.packs import (
    fits_here,
    fits_in_job,
    fits_side_by_side,
    label_of,
    make_packs,
    most_side_by_side,
    train_members,
)
from masked_sae.training.memory import pack_bytes
from masked_sae.training.threads import with_threads
from masked_sae.training.train_pack import Outcome, train_pack
from support.composing import small_config
from support.processes import runs_at

Make = Callable[..., Run]


@pytest.fixture
def make(neox_folder: Path, corpus_folder: Path, tmp_path: Path) -> Make:
    """A run with these overrides, which a sweep varies."""

    def made(*overrides: str) -> Run:
        config = small_config(neox_folder, corpus_folder, tmp_path, *overrides)
        return make_run(config, dict(one.split("=", 1) for one in overrides))

    return made


def at_ks(run: Run, *ks: int, pack: str = "auto") -> list[Run]:
    """The run at each of these sparsities."""
    configs = [replace(run.config, pack=pack, sae=replace(run.config.sae, k=k)) for k in ks]  # type: ignore[call-arg]
    return [make_run(config, {**run.swept, "sae.k": str(k)}) for config, k in zip(configs, ks, strict=True)]


def all_fit(runs: Sequence[Run]) -> bool:
    return True


def at_most(count: int) -> Callable[[Sequence[Run]], bool]:
    return lambda runs: len(runs) <= count


def sizes(found: Sequence[Sequence[Run]]) -> list[int]:
    return [len(pack) for pack in found]


@pytest.mark.parametrize(
    "override",
    ["sae.k=8", "sae=topk", "sae.d_sae=32", "optim.lr=0.01", "mask.latent.rate=0.1", "mask.input.rate=0.1", "seed=1",
     "lm.hook_name=blocks.0.hook_resid_post", "trainer.log_every_steps=3", "eval=none", "sae.calibrate=none"],
)  # fmt: skip
def test_runs_that_share_forwards_are_a_pack(make: Make, override: str) -> None:
    assert sizes(make_packs([make("data.seed=0"), make("data.seed=0", override)], all_fit)) == [2]


@pytest.mark.parametrize(
    "override",
    ["mask.token.rate=0.3", "mask.token.replacement=random", "data.seed=1", "data.train_tokens=1024",
     "data.batch_size=32", "lm.batch_size=4", "data.context_length=8", "trainer.threads=2", "trainer.device=auto"],
)  # fmt: skip
def test_others_are_not(make: Make, override: str) -> None:
    assert sizes(make_packs([make("mask.token.rate=0.1"), make("mask.token.rate=0.1", override)], all_fit)) == [1, 1]


def test_runs_begun_with_other_threads_are_not_a_pack_unless_they_start_over(make: Make) -> None:
    begun, new = (make("trainer.threads=null", f"sae.k={k}") for k in (4, 8))
    begun.folder.path.mkdir(parents=True)
    write_config(begun.folder.config, with_threads(begun, 3).settings)
    assert sizes(make_packs([begun, new], all_fit)) == [1, 1]
    again = [replace(run, config=replace(run.config, force=True)) for run in (begun, new)]
    assert sizes(make_packs(again, all_fit)) == [2]


def test_a_run_that_was_not_made_to_be_trained_stands_alone_and_no_folder_is_twice_in_a_pack(make: Make) -> None:
    run, other = make("sae.k=4"), make("sae.k=8")
    found = replace(other, shares=None)
    assert make_packs([run, found, found], all_fit) == [[run], [found], [found]]
    same = replace(run, config=replace(run.config, output_dir="elsewhere"))
    assert make_packs([run, same, other], all_fit) == [[run, other], [same]]


def test_packs_keep_the_order_of_runs_and_are_of_even_sizes(make: Make) -> None:
    plain, masked = (at_ks(make(f"mask.token.rate={rate}"), *range(1, 11)) for rate in (0, 0.1))
    mixed = [run for both in zip(plain, masked, strict=True) for run in both]
    found = make_packs(mixed, at_most(4))
    assert sizes(found) == [4, 3, 3, 4, 3, 3]
    assert [run for pack in found for run in pack] == [*plain, *masked]


def test_auto_spreads_over_workers_and_a_number_does_not(make: Make) -> None:
    plain, masked = make("mask.token.rate=0"), make("mask.token.rate=0.1")
    for workers, expected in ((1, [7, 2]), (3, [4, 3, 2]), (5, [2, 2, 2, 1, 2]), (20, [1] * 9)):
        for pack, wanted in (("auto", expected), ("7", [7, 2]), ("3", [3, 2, 2, 2]), ("1", [1] * 9)):
            runs = [*at_ks(plain, *range(1, 8), pack=pack), *at_ks(masked, 1, 2, pack=pack)]
            assert sizes(make_packs(runs, all_fit, workers)) == wanted


def test_auto_goes_by_the_memory_of_this_machine_with_a_margin_and_a_number_by_all_of_it(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "36")
    large = make("sae.d_sae=4096")
    for pack, share in (("auto", 0.8), ("9", 1.0)):
        runs = at_ks(large, *range(1, 9), pack=pack)
        held = max(n for n in range(1, 9) if pack_bytes([run.config for run in runs[:n]]) <= share * (36 << 20))
        assert 1 < held < 8
        assert fits_here(runs[:held]) and not fits_here(runs[: held + 1])
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "1")
    assert fits_here(runs[:1]) and not fits_here(runs[:2])


def test_the_workers_of_a_workstation_share_its_memory(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = at_ks(make("sae.d_sae=4096"), *range(1, 9))
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "36")
    held = max(n for n in range(1, 9) if fits_here(runs[:n]))
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "108")
    assert fits_side_by_side(3)(runs[:held]) and not fits_side_by_side(3)(runs[: held + 1])
    assert fits_side_by_side(1)(runs) and fits_side_by_side(1000)(runs[:1])
    assert most_side_by_side(runs) == int(0.8 * (108 << 20) / pack_bytes([runs[0].config]))


def test_a_job_is_bounded_by_the_memory_that_it_asks_for_or_else_by_a_few(make: Make) -> None:
    runs = at_ks(make("sae.d_sae=4096"), *range(1, 11))
    assert fits_in_job({"mem_gb": 4})(runs)
    assert not fits_in_job({"mem_gb": 0.01})(runs[:2]) and fits_in_job({"mem_gb": 0.01})(runs[:1])
    for settings in ({}, {"mem_gb": None}, {"mem_gb": 0.01, "gpus_per_node": 1}, {"mem_gb": 4, "gres": "gpu:1"},
                     {"mem_gb": 4, "additional_parameters": {"gpus-per-task": 1}}):  # fmt: skip
        assert sizes(make_packs(runs, fits_in_job(settings))) == [5, 5], settings
    assert fits_in_job({"mem_gb": 4, "gpus_per_node": 0, "gres": None, "additional_parameters": {}})(runs)


def test_a_pack_is_called_by_what_its_settings_are_where_that_says_it_all(make: Make) -> None:
    slow, fast = (make(f"optim.lr={rate}") for rate in (0.1, 0.2))
    both = [*at_ks(slow, 4, 8), *at_ks(fast, 4, 8)]
    assert label_of(both[:1]) == "optim.lr=0.1, sae.k=4"
    assert label_of(both) == "optim.lr=0.1,0.2, sae.k=4,8"
    assert label_of(both[:2]) == "optim.lr=0.1, sae.k=4,8"
    assert label_of(both[:3]) == "optim.lr=0.1, sae.k=4 and 2 more"
    assert label_of(at_ks(slow, *range(1, 64))) == "optim.lr=0.1, sae.k=1 and 62 more"


@pytest.mark.slow
def test_a_pack_too_large_for_its_machine_is_trained_in_halves(
    make: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = at_ks(make("eval=none"), 4, 8, 16)
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "1")
    assert [state and state.status for state in train_members(runs)] == ["done"] * 3
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("note: eval=none, sae.k=4,8,16: a pack of about ") and len(said) == 2
    assert said[0].endswith(" GiB, and here are 0.00098 GiB: trained in halves")


@pytest.mark.slow
def test_members_that_run_out_of_memory_together_are_trained_in_smaller_packs(
    make: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The GPU of this test holds two."""
    tried: list[int] = []

    def train(runs: Sequence[Run], patience: float = 0.0) -> list[Outcome]:
        tried.append(len(runs))
        if len(runs) <= 2:
            return train_pack(runs, patience)
        held, *others = runs
        return [*train_pack([held]), *(Outcome(run, None, torch.OutOfMemoryError("CUDA")) for run in others)]

    monkeypatch.setattr(packs, "train_pack", train)
    runs = at_ks(make("eval=none"), 1, 2, 4, 8)
    assert [state and state.status for state in train_members(runs)] == ["done"] * 4
    assert tried == [4, 2, 1]
    assert "eval=none, sae.k=2,4,8: out of memory in a pack of 4" in capsys.readouterr().err


@pytest.mark.slow
def test_one_alone_that_runs_out_of_memory_has_failed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        packs, "train_pack", lambda runs, patience: [Outcome(run, None, torch.OutOfMemoryError("full")) for run in runs]
    )
    runs = at_ks(make(), 4, 8)
    said = [state and (state.status, state.error) for state in train_members(runs)]
    assert said == [("failed", "out of memory (full)")] * 2


@pytest.mark.slow
def test_after_a_signal_nothing_else_of_a_pack_begins(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(runs: Sequence[Run], patience: float = 0.0) -> list[Outcome]:
        first, *others = train_pack(runs, patience)
        assert first.state is not None
        stopped = replace(first, state=replace(first.state, status="preempted"))
        return [stopped, *(replace(one, state=None, error=torch.OutOfMemoryError()) for one in others)]

    monkeypatch.setattr(packs, "train_pack", train)
    runs = at_ks(make("eval=none"), 4, 8)
    assert [state and state.status for state in train_members(runs)] == ["preempted"] * 2
    second = read_state(runs[1].folder.state)
    assert second is not None and second.status == "preempted"
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "1")
    assert [state and state.status for state in train_members(runs)] == ["preempted", None]


@pytest.mark.slow
def test_errors_of_ours_are_printed_with_their_trace_once(
    neox_folder: Path, corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    config: RunConfig = small_config(neox_folder, corpus_folder, tmp_path)
    shared = ZeroDivisionError("of the forward that all share")
    monkeypatch.setattr(packs, "train_pack", lambda runs, patience: [Outcome(run, None, shared) for run in runs])
    states = train_members(runs_at(config, 1e-3, 2e-3))
    assert [state and state.status for state in states] == ["failed"] * 2
    assert capsys.readouterr().err.count("of the forward that all share") == 1
