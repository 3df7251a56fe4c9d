"""`plan=true`: a bill for each job and for all, and nothing begun."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from masked_sae.config import RunConfig, check
from masked_sae.errors import InputError
from masked_sae.planning.bill import Bill, bill_of
from masked_sae.planning.show import show_plan
from masked_sae.planning.speed import speed_of
from masked_sae.planning.table import lines_of
from masked_sae.runs.run import Run
from masked_sae.sweeps.foreseen import Foreseen, Place, jobs_here, jobs_on_slurm, jobs_on_workstation, of_search
from masked_sae.sweeps.local import make_runs
from masked_sae.training.train_pack import train_pack
from support.commands import command
from support.composing import small_config, small_overrides
from support.making import compose

PLAN = ("plan=true", "plan_tflops=0.001", "eval=none")
Make = Callable[..., list[Run]]


@pytest.fixture
def make(neox_folder: Path, corpus_folder: Path, tmp_path: Path) -> Make:
    def made(*overrides: str, ks: tuple[int, ...] = (4, 8), rates: tuple[float, ...] = (0.0, 0.3)) -> list[Run]:
        jobs: list[tuple[RunConfig, dict[str, str]]] = []
        for rate in rates:
            for k in ks:
                swept = {"mask.token.rate": str(rate), "sae.k": str(k)}
                given = [f"{key}={value}" for key, value in swept.items()]
                jobs.append((small_config(neox_folder, corpus_folder, tmp_path, *PLAN, *overrides, *given), swept))
        return make_runs(jobs)

    return made


def bill(foreseen: Foreseen) -> Bill:
    return bill_of(foreseen, speed_of(foreseen.packs[0][0].config))


def test_members_of_a_pack_share_its_forwards(make: Make) -> None:
    together, alone = bill(jobs_here(make())), bill(jobs_here(make("pack=1")))
    assert [job.members for job in together.jobs] == [2, 2]
    assert [job.members for job in alone.jobs] == [1, 1, 1, 1]
    assert together.jobs[0].reading.flops == alone.jobs[0].reading.flops
    assert together.jobs[0].tokens == 2 * alone.jobs[0].tokens == 2 * 1536
    assert together.jobs[0].dense == 2 * (alone.jobs[0].dense or 0)
    few, many = alone.jobs[0], alone.jobs[1]  # of k 4 and 8
    assert few.sparse is not None and many.sparse is not None
    assert many.sparse / few.sparse == pytest.approx((8 + 8) / (4 + 8))  # with aux_k 8


def test_masked_positions_that_do_not_count_cost_forwards(make: Make) -> None:
    jobs = bill(
        jobs_here(make("mask.token.loss_positions=unmasked", "data.window_tokens=1536", "lm.batch_size=1"))
    ).jobs
    assert jobs[1].reading.forwards / jobs[0].reading.forwards == pytest.approx(1 / 0.7, rel=0.1)


def test_a_clean_target_costs_a_second_forward_and_a_second_window(make: Make) -> None:
    plain = bill(jobs_here(make(rates=(0.3,)))).jobs[0].reading
    clean = bill(jobs_here(make("mask.token.target=clean", rates=(0.3,)))).jobs[0].reading
    for_scale = 16 / 8 + 1  # sequences of 16 tokens, 8 in a forward, about 256 tokens
    assert clean.forwards == pytest.approx(2 * plain.forwards, abs=for_scale)
    assert clean.window_bytes(4) == 2 * plain.window_bytes(4)


def test_nothing_is_begun_and_the_table_fits_80_columns(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = make(f"plan_json={tmp_path / 'plan.json'}")
    show_plan(jobs_here(runs), runs[0].config)
    printed = capsys.readouterr().out
    assert max(map(len, printed.replace(str(tmp_path / "plan.json"), "").splitlines())) <= 80
    assert "job 1: mask.token.rate=0.0, sae.k=4,8" in printed
    assert not (tmp_path / "runs").exists() and not (tmp_path / "tokens").exists()
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["total"]["jobs"] == 2 and found["total"]["members"] == 4
    assert found["total"]["lm_flop"] == sum(job["lm_flop"] for job in found["jobs"])
    assert found["device"]["jobs_at_once"] == 1
    assert found["total"]["seconds_to_the_end"] == pytest.approx(sum(job["seconds"] for job in found["jobs"]))


def test_times_are_arithmetic_over_what_is_reached(make: Make) -> None:
    whole = bill(jobs_here(make())).jobs[0]
    part = bill(jobs_here(make("plan_utilization=0.5"))).jobs[0]
    assert whole.seconds.total is not None and part.seconds.total is not None
    flops = (whole.reading.flops or 0) + (whole.dense or 0) + (whole.sparse or 0)
    assert whole.seconds.total == pytest.approx(flops / 1e9)
    assert part.seconds.total == pytest.approx(2 * whole.seconds.total)


def test_a_dtype_whose_speed_is_not_given_has_no_time(make: Make) -> None:
    found = bill(jobs_here(make("plan_tflops={float32:1}", "lm.dtype=bfloat16")))
    assert found.jobs[0].seconds.total is None
    assert "time: plan_tflops does not say bfloat16" in found.unknown


def test_without_a_speed_the_time_is_unknown_and_the_keys_are_told(make: Make) -> None:
    found = bill(jobs_here(make("plan_tflops=null")))
    assert found.jobs[0].seconds.total is None
    assert any("plan_measure=true" in line and "plan_tflops" in line for line in found.unknown)


def test_a_measured_speed_counts_every_forward_and_step(make: Make) -> None:
    long, short = (
        bill(jobs_here(make("plan_tflops=null", "plan_measure=true", f"data.train_tokens={tokens}"))).jobs[0].seconds
        for tokens in (15_360, 1536)
    )
    assert long.lm is not None and long.saes is not None and short.lm is not None and short.saes is not None
    assert long.lm > short.lm > 0 and long.saes > short.saes > 0


def test_jobs_side_by_side_end_sooner_and_share_the_memory(make: Make) -> None:
    runs = make()
    one, two = bill(jobs_here(runs)), bill(jobs_on_workstation(runs, 2))
    assert one.elapsed is not None and two.elapsed is not None
    assert two.elapsed == pytest.approx(one.elapsed / 2, rel=0.05)
    here, there = one.foreseen.place.memory, two.foreseen.place.memory
    assert here is not None and there is not None and there == here // 2


def test_what_slurm_does_not_tell_is_unknown(make: Make) -> None:
    runs = make()
    gpu = bill(jobs_on_slurm(runs, {"gpus_per_node": 1, "array_parallelism": None}))
    assert gpu.foreseen.place.on_cuda and gpu.elapsed is None
    assert {"memory that there is: which GPU a job gets", "time to the end: how many jobs run at once"} <= {
        *gpu.unknown
    }
    known = bill(jobs_on_slurm(runs, {"mem_gb": 4, "array_parallelism": 2}))
    assert known.foreseen.place.memory == 4 * 2**30 and known.elapsed is not None


def test_times_that_were_measured_here_are_told_from_those_of_a_job(make: Make) -> None:
    runs = make("plan_tflops=null", "plan_measure=true", ks=(4,), rates=(0.0,))
    said = "the speed of what a job gets: the times are those of this machine"
    assert said in bill(jobs_on_slurm(runs, {"mem_gb": 4})).unknown
    assert said not in bill(jobs_here(runs)).unknown


def test_what_does_not_fit_is_said_with_a_key_that_helps(make: Make) -> None:
    foreseen = jobs_here(make("sae.d_sae=4096"))
    small = replace(foreseen, place=Place(False, 2**20))
    (line,) = bill(small).too_large
    assert "job 1 needs" in line and "pack, sae.d_sae" in line
    assert f"too large: {line}" in lines_of(bill(small))
    assert bill(foreseen).too_large == []


def test_a_token_store_and_a_done_run_cost_nothing_again(make: Make) -> None:
    runs = make(ks=(4,), rates=(0.0,))
    (before,) = bill(jobs_here(runs)).texts.values()
    train_pack([replace(run, config=replace(run.config, plan=False, plan_tflops=None)) for run in runs])
    foreseen = jobs_here(make(ks=(4, 8), rates=(0.0,)))
    assert foreseen.done == 1 and [len(pack) for pack in foreseen.packs] == [1]
    (after,) = bill(foreseen).texts.values()
    assert before.tokens is None and after.tokens is not None and after.store == 0


def test_disk_is_what_a_run_leaves(make: Make, tmp_path: Path) -> None:
    runs = make("data.cache=true", ks=(4,), rates=(0.0,))
    files = bill(jobs_here(runs)).jobs[0].files
    assert files is not None
    train_pack([replace(run, config=replace(run.config, plan=False, plan_tflops=None)) for run in runs])
    folder = runs[0].folder
    kept = sum(path.stat().st_size for path in folder.checkpoints.glob("*.safetensors"))
    assert files.checkpoints == pytest.approx(1.5 * kept, rel=0.2)  # and the one that is being written
    assert files.export == pytest.approx((folder.sae / "sae_weights.safetensors").stat().st_size, rel=0.1)
    windows = sum(path.stat().st_size for path in (tmp_path / "windows").rglob("*.safetensors"))
    assert files.windows == pytest.approx(windows, rel=0.1)


def test_a_search_is_its_first_member_so_often(make: Make) -> None:
    member = jobs_here(make(ks=(4,), rates=(0.3,)))
    found, one = bill(of_search(member, trials=20, at_once=4)), bill(member)
    assert found.elapsed == pytest.approx(20 * (one.elapsed or 0))
    assert any("first values" in line for line in found.unknown)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["plan_tflops=67"], "plan_tflops=67: expected plan=true beside it"),
        (["plan=true", "plan_tflops=0"], "plan_tflops=0: expected a device's TFLOP/s"),
        (["plan=true", "plan_tflops=fast"], "plan_tflops=fast: expected a device's TFLOP/s"),
        (["plan=true", "plan_tflops={float8:1}"], "plan_tflops=float8: expected one of float32, bfloat16"),
        (["plan=true", "plan_tflops={}"], "plan_tflops={}: expected a device's TFLOP/s"),
        (["plan=true", "plan_utilization=0.5"], "plan_utilization=0.5: expected plan_tflops beside it"),
        (["plan=true", "plan_tflops=1", "plan_utilization=1.5"], "plan_utilization=1.5: expected at most 1"),
        (["plan=true", "plan_tflops=1", "plan_measure=true"], "plan_measure=True: expected false"),
        (["plan=true", "plan_json=' '"], "plan_json="),
    ],
)
def test_bad_values_are_refused_in_a_line(overrides: list[str], said: str) -> None:
    with pytest.raises(InputError) as refused:
        check(compose(overrides))
    assert str(refused.value).startswith(said) and "\n" not in str(refused.value)


def test_a_file_in_a_folder_that_is_not_there_is_refused_first(make: Make, tmp_path: Path) -> None:
    runs = make(f"plan_json={tmp_path / 'nowhere' / 'plan.json'}")
    with pytest.raises(InputError, match=r"^plan_json=.*: expected a file in a folder that exists$"):
        show_plan(jobs_here(runs), runs[0].config)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "rows"),
    [
        ([], ["1       1", "all     1"]),
        (["-m", "sae.k=4,8", "mask.token.rate=0,0.3"], ["1       2", "2       2", "all     4"]),
        (["-m", "sae.k=4,8", "hydra/launcher=workstation", "hydra.launcher.workers=2"], ["1       1", "2       1"]),
        (["-m", "sae.k=4,8", "hydra/launcher=slurm", "hydra.launcher.mem_gb=8"], ["1       2", "all     2"]),
        (["-m", "+sweep=search", "hydra.sweeper.n_trials=7", "objective=core/mse"], ["1       1", "x 7     7"]),
    ],
    ids=["one", "sweep", "workstation", "slurm", "search"],
)
def test_every_training_command_can_be_planned(
    words: list[str], rows: list[str], neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    settings = [*small_overrides(neox_folder, corpus_folder, tmp_path), "plan=true"]
    done = command([*settings, *words], COLUMNS="80")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert all(any(line.startswith(row) for line in lines) for row in rows), done.stdout
    assert not (tmp_path / "runs").exists()
