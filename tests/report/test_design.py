"""Which runs may be compared with which is found in their settings."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from masked_sae.report.design import Design, read_design
from masked_sae.report.runs_table import read_runs
from masked_sae.runs.folder import RunFolder
from support.made_sweeps import make_sweep, with_settings, write_done
from support.making import compose


def design_of(folder: Path, changes: Sequence[Mapping[str, Any]]) -> Design:
    base = asdict(compose([]))
    for i, change in enumerate(changes):
        write_done(RunFolder(folder / f"run{i:03}"), with_settings(base, change), {"core/l0": 10.0})
    return read_design(read_runs([folder]))


def test_a_grid_has_its_rates_as_arms_and_its_k_as_sparsities(tmp_path: Path) -> None:
    make_sweep(tmp_path, rates=(0.2, 0.0, 0.1), ks=(32, 8), seeds=(1, 0))
    design = read_design(read_runs([tmp_path]))
    assert [(arm.label, arm.rate) for arm in design.arms] == [
        ("unmasked", 0.0),
        ("mask rate 0.1", 0.1),
        ("mask rate 0.2", 0.2),
    ]
    assert design.baseline == 0 and design.arms[0].unmasked
    assert design.sparsities == ("k 8", "k 32") and design.strata == ("",)
    assert dict(design.varied) == {"seed": (0, 1), "mask.token.rate": (0.0, 0.1, 0.2), "sae.k": (8, 32)}
    assert design.fixed["sae.architecture"] == "matryoshka" and "output_dir" not in design.fixed


def test_settings_of_a_mask_that_hides_nothing_make_no_arm(tmp_path: Path) -> None:
    changes = [
        {"mask.token.rate": rate, "mask.token.replacement": word} for rate in (0, 0.1) for word in ("bos", "pad")
    ]
    design = design_of(tmp_path, changes)
    assert [arm.label for arm in design.arms] == ["unmasked", "replacement bos", "replacement pad"]
    assert list(design.places["arm"]) == [0, 0, 1, 2]
    assert [arm.rate for arm in design.arms[1:]] == [None, None]


def test_a_schedule_that_masks_later_is_masked(tmp_path: Path) -> None:
    changes = [{"mask.token.rate": 0.0}]
    changes += [{"mask.token.rate": 0.0, "mask.token.schedule": "linear", "mask.token.initial_rate": 0.2}]
    design = design_of(tmp_path, changes)
    assert [arm.unmasked for arm in design.arms] == [True, False]


def test_kinds_of_mask_are_told_apart(tmp_path: Path) -> None:
    changes = [{"mask.token.rate": 0.0}, {"mask.token.rate": 0.1}]
    changes += [{"mask.token.rate": 0.0, "mask.latent.rate": 0.3}, {"mask.token.rate": 0.1, "mask.latent.rate": 0.3}]
    labels = {arm.label for arm in design_of(tmp_path, changes).arms}
    assert labels == {"unmasked", "mask rate 0.1", "latent mask rate 0.3", "mask rate 0.1, latent mask rate 0.3"}


def test_a_mask_that_nobody_knows_is_an_arm_of_its_own_and_never_the_baseline(tmp_path: Path) -> None:
    """A run with a fourth mask used to be taken for unmasked, and pooled with the baseline."""
    base = compose([])
    plain = with_settings(asdict(base), {"mask.token.rate": 0.0})
    for i, rate in enumerate((None, 0.1, 0.3)):
        config = plain if rate is None else {**plain, "mask": {**plain["mask"], "fourth": {"rate": rate, "width": 2}}}
        write_done(RunFolder(tmp_path / f"run{i}"), config, {"core/l0": 10.0})
    design = read_design(read_runs([tmp_path]))
    assert [(arm.label, arm.unmasked) for arm in design.arms] == [
        ("unmasked", True),
        ("fourth mask rate 0.1", False),
        ("fourth mask rate 0.3", False),
    ]
    assert list(design.places["arm"]) == [0, 1, 2]


def test_runs_that_differ_in_anything_else_are_kept_apart(tmp_path: Path) -> None:
    changes = [
        {"sae.architecture": kind, "mask.token.rate": rate, "output_dir": str(i), "trainer.threads": i}
        for i, (kind, rate) in enumerate([("topk", 0.0), ("topk", 0.1), ("matryoshka", 0.0), ("matryoshka", 0.1)])
    ]
    design = design_of(tmp_path, changes)
    assert design.strata == ("architecture matryoshka", "architecture topk")
    assert list(design.places["stratum"]) == [1, 1, 0, 0]


def test_a_number_that_only_goes_with_k_keeps_nothing_apart(tmp_path: Path) -> None:
    design = design_of(tmp_path, [{"sae.k": k, "sae.aux_k": 2 * k, "seed": seed} for k in (8, 16) for seed in (0, 1)])
    assert design.strata == ("",) and design.sparsities == ("k 8", "k 16")


def test_architectures_with_and_without_k_are_told_apart_by_their_name_and_own_sparsity(tmp_path: Path) -> None:
    with_k = {"sae.architecture": "batch_topk", "sae.calibrate": "clean", "sae.aux_k": 64}
    without = {"sae.architecture": "gated", "sae.k": None, "sae.sparsity_warmup_steps": 100}
    changes = [
        *({**with_k, "sae.k": k, "mask.token.rate": rate} for k in (8, 16) for rate in (0.0, 0.1)),
        *(
            {**without, "sae.sparsity_coefficient": c, "mask.token.rate": rate}
            for c in (4.0, 5.0)
            for rate in (0.0, 0.1)
        ),
    ]
    design = design_of(tmp_path, changes)
    assert design.strata == ("architecture batch_topk", "architecture gated")
    assert design.sparsities == ("k 8", "k 16", "sparsity coefficient 4", "sparsity coefficient 5")
    assert [arm.label for arm in design.arms] == ["unmasked", "mask rate 0.1"]
    assert design.fixed["sae.d_sae"] == 2048
    assert not {"sae.aux_k", "sae.k", "sae.sparsity_warmup_steps"} & design.fixed.keys()


def test_without_k_the_coefficient_is_the_sparsity(tmp_path: Path) -> None:
    changes = [{"sae.k": None, "sae.sparsity_coefficient": 4.0, "mask.token.rate": rate} for rate in (0.0, 0.1)]
    design = design_of(tmp_path, changes)
    assert design.sparsities == ("sparsity coefficient 4",) and design.strata == ("",)


def test_an_sae_without_settings_stands_by_itself(tmp_path: Path) -> None:
    make_sweep(tmp_path / "sweep")
    write_done(RunFolder(tmp_path / "others" / "theirs"), {}, {"core/l0": 20.0})
    design = read_design(read_runs([tmp_path / "sweep", tmp_path / "others"]))
    assert "theirs (mask not known)" in [arm.label for arm in design.arms]
    assert len(design.arms) == 4 and design.strata == ("", "settings not known")
    assert list(design.places["stratum"]) == [0] * 27 + [1]


def test_cures_are_arms_beside_masks_within_their_architecture(tmp_path: Path) -> None:
    plain = {"mask.token.rate": 0.0}
    of_relu = {**plain, "sae.architecture": "relu", "sae.k": None, "sae.sparsity_coefficient": 3.0}
    changes = [
        plain,
        {"mask.token.rate": 0.3},
        {**plain, "sae.orthogonality": 0.25},
        {"mask.token.rate": 0.3, "sae.orthogonality": 0.25},
        {**plain, "sae.group_weights": [0.5, 1.0]},
        of_relu,
        {**of_relu, "sae.p_end": 0.2},
    ]
    design = design_of(tmp_path, changes)
    assert [arm.unmasked for arm in design.arms] == [True, *[False] * 5]
    labels = [design.arms[place].label for place in design.places["arm"]]
    assert labels == [
        "unmasked",
        "mask rate 0.3",
        "orthogonality 0.25",
        "mask rate 0.3, orthogonality 0.25",
        "group weights [0.5, 1.0]",
        "unmasked",
        "P-annealing to p 0.2",
    ]
    assert design.strata == ("architecture matryoshka", "architecture relu")
    assert list(design.places["stratum"]) == [0, 0, 0, 0, 0, 1, 1]


def test_a_cure_at_its_neutral_value_or_of_when_there_was_none_is_no_arm(tmp_path: Path) -> None:
    design = design_of(
        tmp_path,
        [{"sae.orthogonality": value, "mask.token.rate": rate} for value in (0.0, None) for rate in (0.0, 0.1)],
    )
    assert [arm.label for arm in design.arms] == ["unmasked", "mask rate 0.1"] and design.strata == ("",)
    assert list(design.places["arm"]) == [0, 1, 0, 1]
