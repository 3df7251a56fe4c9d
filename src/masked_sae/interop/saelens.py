"""SAELens' format: `cfg.json` and `sae_weights.safetensors`.

Axes: D `d_in`, F `d_sae`.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from masked_sae.files import folder_aside, remove_leftovers, write_json
from masked_sae.saes import SAE
from masked_sae.saes.batch_topk import BatchTopKSAE

_FORMAT_VERSION = "6.54.0"  # of SAELens; below 6 it would read another format


def export_sae(folder: Path, sae: SAE, scale: float, metadata: dict[str, Any]) -> None:
    """Writes the SAE for the LM's own activations: the training scale is folded in, decoder rows keep unit norm.

    With `x_scaled = scale * x`, the latents of `x` are those of `x_scaled` divided by `scale`. TopK becomes SAELens'
    `topk`; BatchTopK and Matryoshka become `jumprelu` with their learned threshold for every latent.

    Args:
        metadata: what SAELens keeps of the SAE's origin: `model_name`, `hook_name`, `context_size`, ….
    """
    config: dict[str, Any] = {
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": _FORMAT_VERSION, **metadata},
    }
    if folder.exists():
        return  # written aside and renamed: whole
    remove_leftovers(folder)
    with folder_aside(folder) as aside:
        save_file(_folded(sae, scale), aside / "sae_weights.safetensors")
        if isinstance(sae, BatchTopKSAE):
            config["architecture"] = "jumprelu"
        else:
            config |= {"architecture": "topk", "k": sae.k, "rescale_acts_by_decoder_norm": False}
        write_json(aside / "cfg.json", config)


def _folded(sae: SAE, scale: float) -> dict[str, Tensor]:
    weights = {
        "W_enc": sae.W_enc_DF,
        "b_enc": sae.b_enc_F / scale,
        "W_dec": sae.W_dec_FD,
        "b_dec": sae.b_dec_D / scale,
    }
    if isinstance(sae, BatchTopKSAE):
        weights["threshold"] = (sae.threshold / scale).expand(sae.d_sae)
    return {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in weights.items()}
