"""Whether runs share their batches, as digests tell and as the batches themselves are."""

from pathlib import Path

import pytest
import torch

from masked_sae.activations.scale import measure_statistics
from masked_sae.activations.windows import Point
from masked_sae.config import all_settings
from masked_sae.runs.run import Run, make_run
from masked_sae.training.assemble import find_device, load_parts, make_stream
from masked_sae.training.threads import matmul_precision
from support.composing import small_config
from support.sides import OTHERWISE

HIDES = ["mask.token.rate=0.3", "mask.latent.rate=0.1", "mask.input.rate=0.1"]
SCHEDULED = [*HIDES, "mask.token.schedule=linear", "mask.token.initial_rate=0.1"]
# For each key another value, and what else has to be chosen for it to mean something.
CHANGES: dict[str, tuple[str, list[str]]] = {
    "seed": ("1", [*HIDES, "data.seed=0"]),
    "lm.hook_name": ("blocks.0.hook_resid_post", HIDES),
    "lm.dtype": ("bfloat16", HIDES),
    "lm.batch_size": ("4", HIDES),
    "lm.device": ("cpu", HIDES),
    "data.context_length": ("20", HIDES),
    "data.batch_size": ("32", HIDES),
    "data.train_tokens": ("1024", SCHEDULED),
    "data.window_tokens": ("256", HIDES),
    "data.scale_tokens": ("64", HIDES),
    "data.max_epochs": ("20", HIDES),
    "data.validation_share": ("0.4", HIDES),
    "data.seed": ("7", HIDES),
    "data.cache_dtype": ("bfloat16", HIDES),
    "mask.token.rate": ("0.2", HIDES),
    "mask.token.replacement": ("random", HIDES),
    "mask.token.loss_positions": ("unmasked", HIDES),
    "mask.token.target": ("clean", HIDES),
    "mask.token.span": ("3", HIDES),
    "mask.token.schedule": ("cosine", SCHEDULED),
    "mask.token.initial_rate": ("0.2", SCHEDULED),
    "mask.token.last_share": ("0.5", [*HIDES, "mask.token.schedule=step", "mask.token.initial_rate=0.9"]),
    "mask.latent.rate": ("0.2", HIDES),
    "mask.input.rate": ("0.2", HIDES),
    "sae.architecture": ("topk", []),
    "sae.d_sae": ("80", []),
    "sae.dead_after_tokens": ("64", []),
    "sae.compute_dtype": ("bfloat16", []),
    "sae.reference": ("true", []),
    "sae.shapes": ("static", []),
    "sae.calibrate": ("none", []),
    "sae.calibration_tokens": ("64", []),
    "sae.k": ("5", []),
    "sae.aux_k": ("3", []),
    "sae.aux_coefficient": ("0.5", []),
    "sae.threshold_decay": ("0.5", []),
    "sae.group_fractions": ("[0.5,0.5]", []),
    "sae.group_weights": ("[1,2,3,4,5]", []),
    "sae.orthogonality": ("0.5", []),
    "sae.orthogonality_chunk": ("8", ["sae.orthogonality=0.5"]),
    "sae.p_end": ("0.5", ["sae=relu"]),
    "sae.sparsity_coefficient": ("0.7", ["sae=gated"]),
    "sae.sparsity_warmup_steps": ("3", ["sae=gated"]),
    "sae.encoder_norm_init": ("0.3", ["sae=gated"]),
    "sae.threshold_init": ("0.3", ["sae=jumprelu"]),
    "sae.bandwidth": ("0.3", ["sae=jumprelu"]),
    "optim.name": ("adafactor", []),
    "optim.lr": ("0.01", []),
    "optim.warmup_steps": ("2", []),
    "optim.decay_fraction": ("0.5", []),
    "optim.gradient_clip": ("0.5", []),
    "trainer.matmul_precision": ("medium", []),
    **{key: (value, []) for key, value in OTHERWISE.items()},
}
# Named by their content, or places. Threads, devices and pieces change last bits: packs tell them apart. `detach` is
# SLURM's; plans train nothing.
ELSEWHERE = {
    "lm.name", "lm.revision", "data.source", "data.path", "data.column", "data.name", "data.split", "data.revision",
    "init_from", "output_dir", "data.store_dir", "data.cache_dir", "eval.cache_dir",
    "detach", "lm.micro_batch_size", "trainer.device", "trainer.threads", "trainer.devices", "trainer.nodes",
    "trainer.shard_latents", "trainer.compile",
    "plan", "plan_measure", "plan_tflops", "plan_utilization", "plan_json",
}  # fmt: skip
ANOTHER = {"sae.architecture": "sae=topk"}  # not by its key
BY_CHANCE = ("lm.batch_size", "trainer.matmul_precision")  # round-off, which a small LM may not have


def batches(run: Run) -> list[torch.Tensor]:
    torch.set_num_threads(1)
    parts = load_parts(run, find_device("cpu"))
    with matmul_precision(run.config.trainer.matmul_precision):
        (statistics,) = measure_statistics(
            [parts.lm], parts.sequences, run.config.data.scale_tokens, run.config.lm.batch_size
        )
        assert not isinstance(statistics, Exception)
        stream = make_stream(run, parts, [Point(parts.lm.hook_name, statistics.scale)])
        found = [stream.batch(index) for index in range(min(15, parts.plan.steps))]
    return [tensor for batch in found for tensor in (batch.x_BD, batch.target_BD)]


def same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


def test_every_key_is_looked_at() -> None:
    of_modules = {key for key in all_settings() if key.endswith("._module_")}
    assert {*CHANGES, *ELSEWHERE, *of_modules} == set(all_settings())


@pytest.mark.slow
@pytest.mark.parametrize("key", CHANGES)
def test_runs_share_batches_exactly_where_the_batches_are_the_same(
    key: str, neox_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    value, chosen = CHANGES[key]
    change = ANOTHER.get(key, f"++{key}={value}")
    runs = [make_run(small_config(neox_folder, corpus_folder, tmp_path, *chosen, *more), {}) for more in ([], [change])]
    ours, theirs = (run.shares for run in runs)
    assert ours is not None and theirs is not None
    are_same = same(batches(runs[0]), batches(runs[1]))
    assert (ours.batches == theirs.batches) == are_same or (key in BY_CHANCE and are_same)
    assert (ours.forwards == theirs.forwards) == (ours.batches == theirs.batches or key == "lm.hook_name")


@pytest.mark.slow
def test_the_length_of_unmasked_runs_does_not_enter(neox_folder: Path, corpus_folder: Path, tmp_path: Path) -> None:
    runs = [
        make_run(small_config(neox_folder, corpus_folder, tmp_path, "mask=none", f"data.train_tokens={n}"), {})
        for n in (1536, 1024)
    ]
    assert runs[0].shares == runs[1].shares
    assert all(map(torch.equal, batches(runs[0]), batches(runs[1])))


def test_a_mask_that_is_off_does_not_enter(neox_folder: Path, corpus_folder: Path, tmp_path: Path) -> None:
    ways = (["mask=none"], ["mask.token.rate=0"], ["mask.token.rate=0", "mask.token.replacement=random"])
    runs = [make_run(small_config(neox_folder, corpus_folder, tmp_path, *way), {}) for way in ways]
    assert len({run.shares for run in runs}) == 1
