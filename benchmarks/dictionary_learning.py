"""SAEs that dictionary_learning trained and saved, and what its own code makes of fixed activations: what
`tests/interop/test_dictionary_learning.py` reads. Run where they are to be made anew:

    pip download dictionary-learning==0.1.0 --no-deps -d DIR
    python benchmarks/dictionary_learning.py DIR/dictionary_learning-0.1.0-py3-none-any.whl

Of the library the modules `dictionary` and `trainers` are imported, from its wheel as it is; its package's own start
would ask for nnsight, which reads LMs, and no LM is read here.
"""

import json
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

PLACE = Path(__file__).resolve().parents[1] / "tests" / "interop" / "dictionary_learning"
D_IN, D_SAE, STEPS, BATCH, SHOWN = 32, 24, 60, 128, 6
_ORIGIN = {"layer": 1, "lm_name": "somebody/an-lm", "submodule_name": "resid_post_layer_1", "device": "cpu"}
_EARLY = {"warmup_steps": 2, "lr": 3e-3}
_PRICED = {"sparsity_warmup_steps": 4}
_LEARNED = {"k": 4, "threshold_start_step": 5, "threshold_beta": 0.9}
TRAINERS: dict[str, tuple[str, dict[str, Any]]] = {
    "standard": ("standard.StandardTrainer", _PRICED),
    "standard_april": ("standard.StandardTrainerAprilUpdate", _PRICED),
    "p_anneal": ("p_anneal.PAnnealTrainer", _PRICED | {"anneal_start": 20, "p_end": 0.2}),
    "gated": ("gdm.GatedSAETrainer", _PRICED | {"l1_penalty": 1.0, "lr": 1e-2}),
    "jumprelu": ("jumprelu.JumpReluTrainer", _PRICED | {"bandwidth": 0.3, "target_l0": 4.0}),
    "topk": ("top_k.TopKTrainer", _LEARNED),
    "batch_topk": ("batch_top_k.BatchTopKTrainer", _LEARNED),
    "matryoshka": ("matryoshka_batch_top_k.MatryoshkaBatchTopKTrainer", _LEARNED | {"group_fractions": [0.25, 0.75]}),
}


def main(wheel: Path) -> None:
    package = ModuleType("dictionary_learning")
    package.__path__ = [str(wheel / "dictionary_learning")]
    sys.modules["dictionary_learning"] = package
    sys.path.insert(0, str(wheel))
    generator = torch.Generator().manual_seed(0)
    x_BD = _activations(SHOWN, generator)
    shown = {"x": x_BD}
    for name, (trainer_name, settings) in TRAINERS.items():
        module, _, trainer_class = trainer_name.partition(".")
        own = getattr(import_module(f"dictionary_learning.trainers.{module}"), trainer_class)
        sizes = {"activation_dim": D_IN, "dict_size": D_SAE, "steps": STEPS, "seed": 0}
        trainer = own(**sizes, **_ORIGIN, **(_EARLY | settings))
        for step in range(STEPS):
            trainer.update(step, _activations(BATCH, generator))
        _save(PLACE / name, trainer.ae, trainer.config)
        shown |= _shown(name, type(trainer.ae), PLACE / name, x_BD)
    april = import_module("dictionary_learning.dictionary").AutoEncoderNew  # which none of its trainers makes by itself
    torch.manual_seed(0)
    sae = april(D_IN, D_SAE)
    with torch.no_grad():
        sae.decoder.bias.normal_()
        sae.encoder.bias.normal_()
    _save(PLACE / "new", sae, {"dict_class": "AutoEncoderNew", "activation_dim": D_IN, "dict_size": D_SAE, **_ORIGIN})
    shown |= _shown("new", april, PLACE / "new", x_BD)
    save_file(shown, PLACE / "encodings.safetensors")


def _activations(count: int, generator: torch.Generator) -> Tensor:
    """Sums of a few of 48 directions, around a mean that is not 0."""
    directions_KD = torch.nn.functional.normalize(torch.randn(48, D_IN, generator=torch.Generator().manual_seed(1)))
    on_BK = (torch.rand(count, 48, generator=generator) < 0.08) * (1 + torch.rand(count, 48, generator=generator))
    return 3 * on_BK @ directions_KD + 0.5 + 0.05 * torch.randn(count, D_IN, generator=generator)


def _save(folder: Path, sae: Any, config: dict[str, Any]) -> None:
    """As its `training.py` does at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"trainer": config, "buffer": {"ctx_len": 16, "io": "out", "d_submodule": D_IN}}, indent=4)
    (folder / "config.json").write_text(text + "\n")
    torch.save({name: tensor.cpu() for name, tensor in sae.state_dict().items()}, folder / "ae.pt")


@torch.no_grad()
def _shown(name: str, kind: Any, folder: Path, x_BD: Tensor) -> dict[str, Tensor]:
    """Latents and reconstructions of the SAE as its own code loads it."""
    sae = kind.from_pretrained(str(folder / "ae.pt"))
    # AutoEncoderNew's `encode` leaves the decoder's norms out, which its `forward` puts in.
    f_BF = sae(x_BD, output_features=True)[1] if name == "new" else sae.encode(x_BD)
    return {f"{name}/f": f_BF.contiguous(), f"{name}/x_hat": sae(x_BD).contiguous()}


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
