"""Whatever lies in an SAE's folder: it is loaded, and computes with it, or one line says what is wrong."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save_file

from masked_sae.errors import DamagedFileError, InputError
from masked_sae.interop.dictionary_learning import READABLE as DICT_CLASSES
from masked_sae.interop.loading import load_sae as load_any
from masked_sae.interop.saelens import check_sae, export_sae, load_sae, read_metadata
from masked_sae.interop.saelens_config import READABLE
from masked_sae.saes import for_inference
from support.architectures import trained

QUICK, LONG = 80, 500
EVERYWHERE = {"deadline": None, "suppress_health_check": list(HealthCheck)}

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-1, 65), st.floats(), st.text(max_size=8), st.just(10**400)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
FIELDS = [
    "architecture", "k", "d_in", "d_sae", "dtype", "apply_b_dec_to_input", "rescale_acts_by_decoder_norm",
    "normalize_activations", "reshape_activations", "metadata", "activation_fn", "activation_fn_kwargs", "hook_point",
    "residual_threshold", "max_iterations", "stop_on_duplicate_support", "finetuning_scaling_factor",
]  # fmt: skip
changes = st.dictionaries(
    st.sampled_from(FIELDS), st.one_of(values, st.sampled_from(READABLE), st.sampled_from(["none", 16, 64])), max_size=3
)
metadata = st.dictionaries(
    st.sampled_from(
        ["model_name", "hook_name", "masked_sae_weights_sha256", "masked_sae_cfg_digest", "sae_lens_version"]
    ),
    values,
)


def loads_or_one_line(folder: Path) -> None:
    told: list[bool] = []
    for read in (check_sae, read_metadata, load_sae):
        try:
            read(folder)
            told.append(False)
        except (InputError, DamagedFileError) as error:
            assert "\n" not in str(error) and len(str(error)) < 700
            told.append(True)
    of_check, of_metadata, of_load = told
    assert of_check == of_load >= of_metadata
    if not of_load:
        sae, _ = load_sae(folder)
        assert sae(torch.zeros(2, sae.d_in)).isfinite().all()


@pytest.fixture
def original(tmp_path: Path) -> Callable[[str], tuple[dict[str, Any], bytes]]:
    def make(kind: str) -> tuple[dict[str, Any], bytes]:
        folder = tmp_path / kind
        export_sae(folder, for_inference(trained(kind), 0.4), {"model_name": "tiny"})
        return json.loads((folder / "cfg.json").read_text()), (folder / "sae_weights.safetensors").read_bytes()

    return make


def budgets(test: Callable[[int, Any, Path], None]) -> Callable[[int, Any, Path], None]:
    return pytest.mark.parametrize("examples", [QUICK, pytest.param(LONG, marks=pytest.mark.long)])(test)


def write(folder: Path, config: Any, weights: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "cfg.json").write_text(config if isinstance(config, str) else json.dumps(config))
    (folder / "sae_weights.safetensors").write_bytes(weights)
    return folder


@budgets
def test_fields(examples: int, original: Any, tmp_path: Path) -> None:
    found = [original(kind) for kind in ("topk", "jumprelu")]

    @settings(max_examples=examples, **EVERYWHERE)
    @given(which=st.sampled_from(found), changed=changes, of_metadata=metadata, ours=st.booleans())
    def holds(
        which: tuple[dict[str, Any], bytes], changed: dict[str, Any], of_metadata: dict[str, Any], ours: bool
    ) -> None:
        config, weights = which
        kept = config["metadata"] if ours else {}
        loads_or_one_line(write(tmp_path / "sae", {**config, "metadata": kept | of_metadata} | changed, weights))

    holds()


@budgets
def test_bytes_of_the_configuration(examples: int, original: Any, tmp_path: Path) -> None:
    config, weights = original("topk")
    text = json.dumps(config)

    @settings(max_examples=examples, **EVERYWHERE)
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        start = data.draw(st.integers(0, len(text)))
        stop = data.draw(st.integers(start, min(len(text), start + 20)))
        put = data.draw(st.one_of(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), values.map(str)))
        write(tmp_path / "sae", text[:start] + put + text[stop:], weights)
        loads_or_one_line(tmp_path / "sae")

    holds()


@budgets
def test_bytes_of_the_weights(examples: int, original: Any, tmp_path: Path) -> None:
    """Of a folder with digests, and of one without; in the head of the file most of all."""
    config, weights = original("jumprelu")
    head = 8 + int.from_bytes(weights[:8], "little")

    @settings(max_examples=examples, **EVERYWHERE)
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        whole = bytearray(weights)
        for _ in range(data.draw(st.integers(0, 4))):
            place = data.draw(st.one_of(st.integers(0, head - 1), st.integers(0, len(whole) - 1)))
            whole[place] = data.draw(st.one_of(st.integers(0, 255), st.sampled_from(b'0123456789{}[]":,')))
        cut = whole[: data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))]
        foreign = data.draw(st.booleans())
        folder = write(tmp_path / "sae", {**config, "metadata": {}} if foreign else config, bytes(cut))
        loads_or_one_line(folder)
        if not foreign and bytes(cut) != weights:
            with pytest.raises((InputError, DamagedFileError)):
                load_sae(folder)

    holds()


@budgets
def test_tensors(examples: int, original: Any, tmp_path: Path) -> None:
    _, whole = original("jumprelu")
    tensors = load(whole)
    names = st.sampled_from([*tensors, "b_gate", "r_mag", "b_mag", "more"])
    dtypes = st.sampled_from(
        [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.bool, torch.int64]
    )

    @settings(max_examples=examples, **EVERYWHERE)
    @given(
        st.lists(st.tuples(names, dtypes, st.sampled_from([(16, 64), (64, 16), (64,), (16,), (), (0,), (64, 1)]),
                           st.sampled_from([0.0, 1.0, -1.0, 1e30, 1e300, float("nan"), float("inf")])), max_size=4),
        st.lists(names, max_size=2),
        st.sampled_from(READABLE),
    )  # fmt: skip
    def holds(made: list[Any], dropped: list[str], architecture: str) -> None:
        changed = dict(tensors)
        for name, dtype, shape, value in made:
            finite = value if dtype.is_floating_point or math.isfinite(value) else 0.0
            changed[name] = torch.full(shape, finite, dtype=torch.float64).to(dtype)
        changed = {name: tensor for name, tensor in changed.items() if name not in dropped}
        folder = write(tmp_path / "sae", {"architecture": architecture, "k": 4, "d_in": 16, "d_sae": 64}, b"")
        save_file(changed, folder / "sae_weights.safetensors")
        loads_or_one_line(folder)

    holds()


@budgets
def test_bytes_and_fields_of_dictionary_learning(examples: int, original: Any, tmp_path: Path) -> None:
    saved = Path(__file__).parents[1] / "interop" / "dictionary_learning" / "topk"
    weights, config = (saved / "ae.pt").read_bytes(), json.loads((saved / "config.json").read_text())
    fields = st.sampled_from([*config["trainer"], "dict_class", "k", "activation_dim", "dict_size", "submodule_name"])

    @settings(max_examples=examples, **EVERYWHERE)
    @given(st.data(), st.dictionaries(fields, st.one_of(values, st.sampled_from(DICT_CLASSES)), max_size=2))
    def holds(data: st.DataObject, changed: dict[str, Any]) -> None:
        whole = bytearray(weights)
        for _ in range(data.draw(st.integers(0, 3))):
            whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
        cut = whole[: data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))]
        folder = tmp_path / "theirs"
        folder.mkdir(exist_ok=True)
        (folder / "ae.pt").write_bytes(cut)
        (folder / "config.json").write_text(json.dumps({**config, "trainer": {**config["trainer"], **changed}}))
        try:
            sae, _ = load_any(folder)
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 700
        else:
            assert sae(torch.zeros(2, sae.d_in)).shape == (2, sae.d_in)

    holds()
