import pickle
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import hydra
import pytest
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hydra_plugins.masked_sae_launchers import compose_jobs
from masked_sae.command_line import explain
from masked_sae.config import RunConfig, all_settings, check, typed_config
from masked_sae.errors import InputError
from masked_sae.runs.identity import Digests, run_id
from masked_sae.saes.settings import PACKAGE
from masked_sae.settings import names
from support.making import ROOT, compose

ARCHITECTURES = names(PACKAGE, "Settings")


def refusal(overrides: Sequence[str]) -> InputError:
    with pytest.raises(InputError) as info:
        check(compose(overrides))
    assert "\n" not in str(info.value)
    return info.value


@pytest.mark.parametrize(
    ("override", "valid"),
    [
        ("sae.d_sae=0", "1"),
        ("sae.d_sae=-5", "1"),
        ("sae.k=0", "1 to sae.d_sae=2048"),
        ("sae.k=2049", "1 to sae.d_sae=2048"),
        ("sae.aux_k=2049", "2048"),
        ("sae.aux_k=-1", "0"),
        ("sae.aux_coefficient=-0.1", "0"),
        ("sae.dead_after_tokens=0", "1"),
        ("sae.threshold_decay=1.0", "1"),
        ("sae.compute_dtype=float16", "float32, bfloat16"),
        ("sae.shapes=fixed", "auto, static, dynamic"),
        ("sae.architecture=vanilla", ", ".join(ARCHITECTURES)),
        ("sae.group_fractions=[0.5,0.4]", "sum to 1"),
        ("sae.group_fractions=[1.5,-0.5]", "positive"),
        ("sae.group_fractions=[]", "sum to 1"),
        ("sae.group_fractions=[nan,0.5]", "sum to 1"),
        ("mask.token.rate=1.1", "0 to 1"),
        ("mask.token.rate=-0.1", "0 to 1"),
        ("mask.token.rate=nan", "0 to 1"),
        ("mask.token.initial_rate=2", "0 to 1"),
        ("mask.latent.rate=1.5", "0 to 1"),
        ("mask.input.rate=-1", "0 to 1"),
        ("mask.token.span=0.5", "at least 1"),
        ("mask.token.span=nan", "at least 1"),
        ("mask.token.loss_positions=some", "all, unmasked, masked"),
        ("mask.token.target=dirty", "masked, clean"),
        ("mask.token.schedule=exponential", "constant, linear, cosine"),
        ("data.source=web", "stdlib, text, hub"),
        ("data.context_length=3", "4"),
        ("data.batch_size=1", "2"),
        ("data.train_tokens=1000", "1024"),
        ("data.window_tokens=1000", "data.batch_size=1024"),
        ("data.scale_tokens=0", "1"),
        ("data.max_epochs=0", "above 0"),
        ("data.validation_share=0", "between 0 and 1"),
        ("data.validation_share=1", "between 0 and 1"),
        ("optim.lr=0", "above 0"),
        ("optim.lr=-1e-3", "above 0"),
        ("optim.lr=nan", "above 0"),
        ("optim.lr=inf", "finite"),
        ("optim.warmup_steps=-1", "0"),
        ("optim.decay_fraction=1.2", "0 to 1"),
        ("optim.gradient_clip=-1", "0"),
        ("lm.dtype=float8", "float32, bfloat16"),
        ("lm.batch_size=0", "1"),
        ("eval.tokens=0", "1"),
        ("eval.batch_size=0", "1"),
        ("eval.dense_frequency=1.1", "0 to 1"),
        ("trainer.device=tpu", "auto, cpu, cuda"),
        ("trainer.matmul_precision=tf32", "highest, high, medium"),
        ("trainer.threads=0", "1"),
        ("trainer.log_every_steps=0", "1"),
        ("trainer.validate_every_steps=0", "1"),
        ("trainer.validation_tokens=0", "1"),
        ("trainer.checkpoint_every_steps=0", "1"),
        ("logger.wandb.mode=maybe", "auto, online, offline, disabled"),
        ("data.max_epochs=inf", "finite"),
        ("mask.token.span=inf", "finite"),
        ("optim.gradient_clip=inf", "finite"),
        ("mask.latent.rate=1", "1, which itself is excluded"),
        ("mask.input.rate=1", "1, which itself is excluded"),
        ("optim.lr=5e-324", "1e-12"),
        ("sae.aux_coefficient=1e30", "at most 1e+09"),
        ("optim.warmup_steps=100000000000000000000", "at most 1,000,000,000,000"),
        ("data.train_tokens=100000000000000000000", "at most 1,000,000,000,000"),
        ("sae.d_sae=100000000000000000000", "at most 1,000,000,000"),
        ("trainer.threads=100000", "at most 1,024"),
        ("trainer.threads=100000000000000000000", "at most 1,024"),
        ("seed=9223372036854775808", "at most 9,223,372,036,854,775,807"),
        ("force=-1", "true or false"),
        ("force=2", "true or false"),
        ("detach=on", "true or false"),
        ("sae.reference=7", "true or false"),
        ("logger.wandb.project=a/b", "without /"),
        ("logger.wandb.tags=['']", "1 to 64"),
        ("name=a/b", "folder name"),
        ("name=..", "folder name"),
        ("seed=-1", "0"),
    ],
)
def test_a_bad_value_is_refused_naming_key_value_and_what_is_valid(override: str, valid: str) -> None:
    key, _, value = override.partition("=")
    error = refusal([override])
    assert error.key == key
    assert str(error).startswith(f"{key}=")
    assert valid in error.valid
    if value == "['']":
        return
    try:
        assert float(str(error.value)) == pytest.approx(float(value), nan_ok=True)
    except ValueError:  # no number
        assert str(error.value).replace(" ", "") == value


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["mask.token.loss_positions=masked", "mask.token.rate=0"], "mask.token.rate"),
        (["mask.token.loss_positions=masked", "mask.token.schedule=linear"], "mask.token.initial_rate"),
        (["mask.token.loss_positions=unmasked", "mask.token.rate=1"], "mask.token.rate"),
        (
            ["mask.token.loss_positions=unmasked", "mask.token.schedule=cosine", "mask.token.initial_rate=1"],
            "mask.token.initial_rate",
        ),
    ],
)
def test_a_rate_that_leaves_the_loss_no_position_is_refused(overrides: list[str], key: str) -> None:
    assert refusal(overrides).key == key


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sparsity_coefficient", "-1.0"),
        ("sparsity_coefficient", "inf"),
        ("sparsity_warmup_steps", "-1"),
        ("encoder_norm_init", "0.0"),
        ("encoder_norm_init", "inf"),
        ("threshold_init", "-0.1"),
        ("bandwidth", "0.0"),
        ("bandwidth", "nan"),
    ],
)
def test_a_bad_value_of_a_penalty_is_refused(key: str, value: str) -> None:
    error = refusal(["sae=jumprelu", f"sae.{key}={value}"])
    assert error.key == f"sae.{key}" and str(error.value) == value and error.valid


def test_what_an_experiment_sets_for_another_architecture_is_refused_with_the_way_out() -> None:
    chosen = ["experiment=paper_pythia_160m", "sae=gated"]
    for overrides in (chosen, [*chosen, "sae.k=9"]):
        error = refusal(overrides)
        assert error.key == "sae.k" and "gated" in error.valid
        assert error.valid.endswith("add ~sae.k ~sae.aux_k")
    check(compose([*chosen, "~sae.k", "~sae.aux_k"]))
    assert refusal(["+sae.bandwidth=1"]).valid.endswith("add ~sae.bandwidth")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_configuration_on_record_from_when_all_architectures_shared_their_settings_still_trains(
    architecture: str,
) -> None:
    """Then those of others stood there as null, or as an empty list."""
    of_all = {name.removeprefix("sae.") for name in all_settings() if name.startswith("sae.")}
    stored = OmegaConf.structured(compose([f"sae={architecture}"]))
    OmegaConf.set_struct(stored, False)
    plain = OmegaConf.to_container(stored)
    for name in of_all - plain["sae"].keys():
        plain["sae"][name] = [] if name == "group_fractions" else None
    again = typed_config(OmegaConf.create(plain))
    check(again)
    assert again == compose([f"sae={architecture}"])


def test_what_stands_for_a_mask_has_to_be_settings() -> None:
    with pytest.raises(InputError, match=r"mask\.token=0\.1: expected settings of the mask, such as mask\.token\.rate"):
        compose(["mask.token=0.1"])
    with pytest.raises(InputError, match=r"mask=mine: expected one of input, latent, token, or one of your own"):
        compose(["+mask.mine.rate=0.1"])


def test_sources_without_their_text_are_refused() -> None:
    for overrides in (["data=text"], ["data=text", "data.path=[]"]):
        assert refusal(overrides).key == "data.path"
    for overrides in (["data=synthetic", "data.path=[]"], ["data=synthetic", "data.path=[a,b]"]):
        assert refusal(overrides).key == "data.path"
    for overrides in (["data=hub"], ["data=hub", "data.name=null"]):
        assert refusal(overrides).key == "data.name"


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        [],
        *([f"mask={mask}"] for mask in ("none", "token", "latent", "input")),
        *([f"sae={sae}"] for sae in ARCHITECTURES),
        *([f"lm={lm}"] for lm in ("tiny", "ground_truth", "pythia_70m", "pythia_160m", "gemma_2_2b")),
        ["lm=ground_truth", "data=synthetic"],
        ["data=text", "data.path=corpus/"],
        ["data=hub", "data.name=monology/pile-uncopyrighted"],
        ["mask.token.rate=1", "mask.latent.rate=0", "mask.input.rate=0.999"],
        ["mask.token.loss_positions=masked", "mask.token.rate=1"],
        ["sae.d_sae=5", "sae.k=5", "sae.aux_k=0"],
        ["data.context_length=4", "data.batch_size=2", "data.train_tokens=2", "data.window_tokens=2"],
        ["optim.decay_fraction=0", "optim.warmup_steps=0", "optim.gradient_clip=0"],
    ],
    ids=lambda overrides: " ".join(overrides) or "defaults",
)
def test_every_choice_and_every_limit_is_accepted(overrides: list[str]) -> None:
    check(compose(overrides))


def test_a_mask_preset_only_sets_rates() -> None:
    def settings(preset: str) -> dict[str, Any]:
        return {name: asdict(mask) for name, mask in compose([f"mask={preset}"]).mask.items()}

    none = settings("none")
    assert [none[kind]["rate"] for kind in ("token", "latent", "input")] == [0, 0, 0]
    for kind in ("token", "latent", "input"):
        chosen = settings(kind)
        assert chosen[kind].pop("rate") > 0
        expected = settings("none")
        del expected[kind]["rate"]
        assert chosen == expected


def test_one_path_is_a_list_of_one() -> None:
    assert compose(["data=text", "data.path=corpus/*.txt"]).data.path == ["corpus/*.txt"]
    assert compose(["data=text", "data.path=[a.txt,b.jsonl]"]).data.path == ["a.txt", "b.jsonl"]


def explained(overrides: Sequence[str]) -> str:
    with pytest.raises((HydraException, OmegaConfBaseException, InputError)) as info:
        compose(overrides)
    line = explain(info.value)
    assert line is not None
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("mask.token.rte=0.1", ["mask.token.rte", "mask.token.rate"]),
        ("mask.rate=0.1", ["mask.rate", "mask.token.rate"]),
        ("d_sae=64", ["d_sae", "sae.d_sae"]),
        ("+sae.d_sea=64", ["sae.d_sea", "sae.d_sae"]),
        ("+nonsense=1", ["nonsense"]),
        ("data.path=corpus/", ["data.path", "option"]),
        ("sae.sparsity_coefficient=2", ["sae.sparsity_coefficient", "option"]),
        ("sae=topp", ["sae=topp", "topk", "batch_topk", "matryoshka"]),
        ("mask=tokens", ["mask=tokens", "token", "latent", "input", "none"]),
        ("sae.d_sae=many", ["sae.d_sae=many", "whole number"]),
        ("sae.d_sae=1.5", ["sae.d_sae=1.5", "whole number"]),
        ("mask.token.rate=high", ["mask.token.rate=high", "a number"]),
        ("trainer.progress=maybe", ["trainer.progress=maybe", "true or false"]),
        ("seed=null", ["seed"]),
    ],
)
def test_a_mistake_in_composition_is_one_line_that_names_it(override: str, parts: list[str]) -> None:
    line = explained([override])
    for part in parts:
        assert part in line


def test_an_input_error_crosses_processes_whole() -> None:
    error = InputError("sae.k", 9, "1 to sae.d_sae=8")
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error) == "sae.k=9: expected 1 to sae.d_sae=8"
    assert (copy.key, copy.value, copy.valid) == ("sae.k", 9, "1 to sae.d_sae=8")


def test_what_is_not_a_users_mistake_keeps_its_traceback() -> None:
    assert explain(RuntimeError("of ours")) is None
    assert explain(FileNotFoundError(2, "No such file", "x")) is None


def test_help_needs_no_torch() -> None:
    program = "import sys; import src.train; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("key", ["output_dir", "data.store_dir", "eval.cache_dir", "lm.name"])
def test_an_empty_folder_would_be_the_working_folder_and_is_refused(key: str) -> None:
    for value in ("", " "):
        assert refusal([f"{key}='{value}'"]).key == key
    assert refusal([f"{key}={'x' * 300}"]).valid == "a path whose names have at most 255 bytes each"
    assert "user who exists" in refusal([f"{key}='~nobody-of-this-name/x'"]).valid


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = compose(
        ["output_dir='~/x'", "data.store_dir='~/tokens'", "eval.cache_dir='~'", "lm.name='~/lm'", "seed=12345"]
    )
    assert (config.output_dir, config.data.store_dir, config.eval.cache_dir) == (
        "/home/me/x",
        "/home/me/tokens",
        "/home/me",
    )
    check(config)


def test_a_control_character_is_refused_by_its_key() -> None:
    config = compose([])
    places = [("name", config, "name"), ("output_dir", config, "output_dir"), ("lm.name", config.lm, "name")]
    for key, holder, name in [*places, ("logger.wandb.project", config.logger.wandb, "project")]:
        before = getattr(holder, name)
        for value in ("a\0b", "a\nb", "\ud800"):
            setattr(holder, name, value)
            with pytest.raises(InputError) as info:
                check(config)
            assert info.value.key == key and str(info.value).isprintable()
        setattr(holder, name, before)


def test_a_name_leaves_room_for_what_lies_beside_its_folder() -> None:
    check(compose([f"name={'x' * 200}"]))
    assert refusal([f"name={'x' * 201}"]).valid == "a folder name of at most 200 bytes"
    assert refusal([f"name='{'é' * 101}'"]).key == "name"


def test_jobs_are_composed_as_hydra_composes_them() -> None:
    """Choices, values, and values that a choice brings: each job as if it had been composed alone."""
    jobs = [
        [
            f"sae={sae}",
            f"mask.token.rate={rate}",
            "+sweep=mask_rate",
            "data.path=${lm.name}",
            "data=text",
            "sae.d_sae=64",
        ]
        for sae in ("topk", "gated")
        for rate in ("0", "0.1", "1e-1", "${oc.env:HOME}")
    ]
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base=None):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("train", ["sae.d_sae=64"], RunMode.MULTIRUN)
        for job, composed in zip(jobs, compose_jobs(loader, master, jobs), strict=True):
            alone = loader.load_sweep_config(master, job)
            OmegaConf.set_struct(alone, False)
            del alone["hydra"]
            assert OmegaConf.to_yaml(composed) == OmegaConf.to_yaml(alone)
        with pytest.raises(HydraException):
            list(compose_jobs(loader, master, [["sae.no_such_key=1"]]))


class Recorded(Launcher):
    """Trains nothing, and keeps what it would."""

    def __init__(self) -> None:
        self.batches: list[list[list[str]]] = []

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        pass

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        assert initial_job_idx == sum(map(len, self.batches))
        self.batches.append([list(job) for job in job_overrides])
        return []


def members(settings: Any, *arguments: str) -> list[list[list[str]]]:
    """What the sweeper of these settings launches, by batch; inside of Hydra, which imports its plugins anew."""
    sweeper = hydra.utils.instantiate(settings, _convert_="all")
    sweeper.launcher = recorded = Recorded()
    sweeper.hydra_context = HydraContext(config_loader=GlobalHydra.instance().config_loader(), callbacks=Callbacks())
    sweeper.sweep(list(arguments))
    return recorded.batches


def test_a_sweep_of_arms_has_the_members_of_all_its_grids() -> None:
    GlobalHydra.instance().clear()
    arms = [{"sae": "topk", "sae.k": "2,4"}, {"sae": "relu"}]
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base=None):
        chosen = GlobalHydra.instance().config_loader().load_configuration("train", [], RunMode.MULTIRUN).hydra.sweeper
        chosen = {**chosen, "params": {"seed": "0,1"}}
        [found] = members({**chosen, "arms": arms}, "optim.lr=0.1")
        with_k = [[f"seed={seed}", "sae=topk", f"sae.k={k}", "optim.lr=0.1"] for seed in (0, 1) for k in (2, 4)]
        assert found == [*with_k, *([f"seed={seed}", "sae=relu", "optim.lr=0.1"] for seed in (0, 1))]
        [of_seed_7] = members({**chosen, "arms": arms}, "seed=7")
        assert [job[0] for job in of_seed_7] == ["seed=7"] * 3
        assert [len(batch) for batch in members({**chosen, "arms": arms, "max_batch_size": 4})] == [4, 2]
        assert members(chosen) == [[["seed=0"], ["seed=1"]]]


def test_the_cures_are_compared_within_one_command() -> None:
    """All its members can be trained as they stand, and those of a seed on clean text differ in their SAE alone."""
    GlobalHydra.instance().clear()
    chosen = ["experiment=ground_truth", "+sweep=cures"]
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base=None):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("train", chosen, RunMode.MULTIRUN)
        [jobs] = members(master.hydra.sweeper, *chosen, "seed=0")
        configs = [typed_config(one) for one in compose_jobs(loader, master, jobs)]
    for config in configs:
        check(config)
    assert len({id_of(config) for config in configs}) == len(configs) == 26
    clean = [config for config in configs if config.mask["token"].is_off]
    assert len(clean) == 18 and all((one.data, one.lm, one.seed) == (clean[0].data, clean[0].lm, 0) for one in clean)


def id_of(config: RunConfig) -> str:
    return run_id(config, {}, Digests("text", "tokenizer", "weights", {}))
