"""What a latent does to the LM's predictions directly: its decoder row, read by the LM's output layer.

Axes: F latents, C latents at once, D `d_in`, V vocabulary, M tokens shown.
"""

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from masked_sae.activations.lm import LM

_AT_ONCE = 2**25  # logits
_LARGE = 1e4  # times a decoder row: so that what the norm adds to the variance does not count
# Hook points whose activations are the residual stream, or are added to it.
_IN_THE_STREAM = re.compile(
    r"blocks\.\d+\.(hook_resid_(pre|mid|post)|hook_(attn|mlp)_out|hook_(in|out)|(attn|mlp)\.hook_out)"
)


@dataclass(frozen=True)
class Effects:
    """Tokens whose logits a latent raises and lowers most, with the change, over the mean of all tokens'."""

    raised_FM: Tensor
    raise_FM: Tensor
    lowered_FM: Tensor
    lower_FM: Tensor


def why_no_effects(lm: LM) -> str:
    """Empty where `direct_effects` can be had."""
    if lm.objective != "causal":
        return "the LM has no output layer that reads the residual stream through a norm alone"
    if not all(hasattr(lm.bridge, part) for part in ("ln_final", "unembed")):
        return "the LM's final norm and output layer are not known by name"
    if _IN_THE_STREAM.fullmatch(lm.hook_name) is None or lm.d_in != _stream_size(lm):
        return f"{lm.hook_name} is not in the residual stream"
    return ""


@torch.inference_mode()
def direct_effects(lm: LM, W_dec_FD: Tensor, shown: int) -> Effects:
    """The logits of a decoder row alone in the residual stream: through the final norm, which brings it to the length
    of any stream, without the norm's own bias; layers between the hook point and the norm are passed by. Between tokens
    of one latent the differences are, up to a factor, those that the latent makes to first order in a stream that
    it is a small part of, where its change of the stream's length is left out.
    """
    W_U_DV = _W_U(lm).float()
    shown = min(shown, W_U_DV.shape[1])
    found: list[tuple[Tensor, ...]] = []
    for rows_CD in W_dec_FD.to(W_U_DV.device).split(max(1, _AT_ONCE // W_U_DV.shape[1])):
        logits_CV = _normed(lm, rows_CD) @ W_U_DV
        logits_CV -= logits_CV.mean(1, keepdim=True)
        raised, lowered = logits_CV.topk(shown, dim=1), logits_CV.topk(shown, dim=1, largest=False)
        found.append((raised.indices.cpu(), raised.values.cpu(), lowered.indices.cpu(), lowered.values.cpu()))
    return Effects(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _normed(lm: LM, rows_CD: Tensor) -> Tensor:
    norm, dtype = lm.bridge.ln_final, _W_U(lm).dtype
    rows_1CD = (rows_CD * _LARGE).to(dtype)[None]
    return (norm(rows_1CD).float() - norm(torch.zeros_like(rows_1CD)).float())[0]


def _W_U(lm: LM) -> Any:  # noqa: N802
    """Without the rows that only fill the vocabulary up to a round number."""
    return lm.bridge.unembed.W_U[:, : lm.vocab_size]


def _stream_size(lm: LM) -> int:
    return int(_W_U(lm).shape[0])
