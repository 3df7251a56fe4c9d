"""An SAE as it is used after training: for the LM's own activations, its weights fixed, one rule for what is active.

Axes: B activations, D `d_in`, F `d_sae`, A active latents.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from masked_sae.saes.fast_topk import largest, static_on
from masked_sae.saes.sae import SAE
from masked_sae.saes.sparse_latents import sparse_latents, sparse_rows


@dataclass(frozen=True, repr=False)
class InferenceSAE:
    """`f = select(relu((x - b_in) W_enc + b_enc))`, `x_hat = f W_dec + b_dec`, float32.

    A latent is active where it is positive and above its threshold (JumpReLU, of which ReLU, Gated, BatchTopK and
    Matryoshka are cases once trained), or among the `k` largest of its activation (TopK).

    Attributes:
        W_enc_DF: with b_enc_F, W_dec_FD and b_dec_D the weights.
        b_in_D: taken from the activation before encoding: `b_dec`, or zeros.
        threshold_F: None for TopK.
        k: None for all others.
        metadata: what is known of its origin, by SAELens' names: `model_name`, `hook_name`, `context_size`, ….
    """

    W_enc_DF: Tensor
    b_enc_F: Tensor
    W_dec_FD: Tensor
    b_dec_D: Tensor
    b_in_D: Tensor
    threshold_F: Tensor | None = None
    k: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        if (self.threshold_F is None) == (self.k is None):
            raise ValueError("expected either thresholds or k")

    @property
    def d_in(self) -> int:
        return self.W_dec_FD.shape[1]

    @property
    def d_sae(self) -> int:
        return self.W_dec_FD.shape[0]

    @property
    def device(self) -> torch.device:
        return self.W_dec_FD.device

    @property
    def model_name(self) -> str | None:
        """The LM that it reads, where that is known."""
        return self.metadata.get("model_name")

    @property
    def hook_name(self) -> str | None:
        """Where it reads it, where that is known."""
        return self.metadata.get("hook_name")

    @property
    def context_length(self) -> int | None:
        """Tokens of the sequences that it was trained on, where that is known."""
        return self.metadata.get("context_size")

    def __repr__(self) -> str:
        rule = "thresholds" if self.k is None else f"k={self.k}"
        known = "".join(f", {name}" for name in (self.model_name, self.hook_name) if name)
        return f"InferenceSAE(d_in={self.d_in}, d_sae={self.d_sae}, {rule}{known})"

    def pre_activations(self, x_BD: Tensor) -> Tensor:
        """(B, F)."""
        return torch.addmm(self.b_enc_F, x_BD - self.b_in_D, self.W_enc_DF)

    def encode(self, x: Tensor) -> Tensor:
        """Latents (…, F) of activations (…, D), each activation's own."""
        x_BD = _rows(x, self.d_in).to(self.b_enc_F.dtype)
        return self._encode_rows(x_BD).view(*x.shape[:-1], self.d_sae)

    def _encode_rows(self, x_BD: Tensor) -> Tensor:
        """Latents (B, F)."""
        pre_BF = self.pre_activations(x_BD)
        if self.k is None:
            assert self.threshold_F is not None
            threshold_F = self.threshold_F.clamp_min(0)
            if torch.equal(threshold_F, threshold_F[:1].expand_as(threshold_F)):
                return F.threshold(pre_BF, threshold_F[0].item(), 0.0, inplace=True)  # one pass
            return pre_BF.masked_fill_(pre_BF <= threshold_F, 0.0)
        if len(pre_BF) == 0:
            return pre_BF
        places_A, values_A = largest(pre_BF, self.k, static=static_on(pre_BF.device))
        return pre_BF.zero_().view(-1).index_copy_(0, places_A, values_A).view_as(pre_BF)

    def encode_sparse(self, x: Tensor) -> Tensor:
        """As `encode`, without gradients, as a coalesced sparse tensor: never are all latents in memory at once."""
        return sparse_latents(self.encode, _rows(x, self.d_in), self.d_sae, x.shape[:-1])

    def decode(self, f: Tensor) -> Tensor:
        """Reconstructions (…, D) of latents (…, F), dense or in one of torch's sparse layouts."""
        if f.layout == torch.strided:
            x_hat_BD = torch.addmm(self.b_dec_D, _rows(f, self.d_sae), self.W_dec_FD)
        else:
            x_hat_BD = torch.sparse.mm(sparse_rows(f), self.W_dec_FD) + self.b_dec_D
        return x_hat_BD.view(*f.shape[:-1], self.d_in)

    def __call__(self, x: Tensor) -> Tensor:
        """Reconstructions of activations, (…, D)."""
        return self.decode(self.encode(x))

    def with_threshold(self, threshold: float) -> "InferenceSAE":
        """The same weights, and one threshold for every latent."""
        return replace(self, threshold_F=torch.full_like(self.b_enc_F, threshold), k=None)

    def with_unit_rows(self) -> "InferenceSAE":
        """The same reconstructions from decoder rows of norm 1: latents grow by what the norms were.

        Raises:
            ValueError: latents of other norms compete for `k`, so that others would win.
        """
        norm_F = self.W_dec_FD.norm(dim=1)
        if self.k is not None and not torch.allclose(norm_F, norm_F[:1], rtol=1e-3):
            raise ValueError("decoder rows of one norm, where the k largest latents count")
        return replace(
            self,
            W_enc_DF=self.W_enc_DF * norm_F,
            b_enc_F=self.b_enc_F * norm_F,
            W_dec_FD=self.W_dec_FD / norm_F.clamp_min(torch.finfo(torch.float32).tiny)[:, None],
            threshold_F=None if self.threshold_F is None else self.threshold_F * norm_F,
        )

    def to(self, device: torch.device | str) -> "InferenceSAE":
        tensors = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)


def _rows(values: Tensor, size: int) -> Tensor:
    """(B, size)."""
    if values.dim() == 0 or values.shape[-1] != size:
        raise ValueError(f"a tensor of {list(values.shape)}: expected {size} as its last dimension")
    return values.reshape(-1, size)


def for_inference(sae: SAE, scale: float) -> InferenceSAE:
    """A trained SAE for the LM's own activations: the scale they were trained at is folded in, decoder rows keep unit
    norm. With `x_scaled = scale * x`, the latents of `x` are those of `x_scaled` divided by `scale`.
    """
    W_enc_FD, b_enc_F = sae.inference_encoder()
    weights = {
        "W_enc_DF": W_enc_FD.T,
        "b_enc_F": b_enc_F / scale,
        "W_dec_FD": sae.W_dec_FD,
        "b_dec_D": sae.b_dec_D / scale,
        "b_in_D": sae.b_dec_D / scale,
    }
    threshold_F = sae.thresholds()
    if threshold_F is not None:
        weights["threshold_F"] = threshold_F / scale
    fixed = {name: tensor.detach().float().contiguous() for name, tensor in weights.items()}
    return InferenceSAE(**fixed, k=sae.inference_k, metadata={})


@torch.no_grad()
def begin_as(sae: SAE, other: InferenceSAE, scale: float) -> None:
    """Gives an SAE that is to be trained on activations times `scale` what computes as `other` does without: the
    reverse of `for_inference`.

    Its decoder rows get norm 1, and it takes `b_dec` from each activation, as all SAEs here do in training; the
    encoder's bias makes up for that where `other` does not.

    Raises:
        ValueError: it cannot; the message is what `other` would have to be.
    """
    if type(other) is not InferenceSAE:
        raise ValueError("an SAE whose encoder is one product")
    unit = other.with_unit_rows()
    sae.W_enc_FD.copy_(unit.W_enc_DF.T)
    sae.W_dec_FD.copy_(unit.W_dec_FD)
    sae.b_dec_D.copy_(unit.b_dec_D * scale)
    sae.b_enc_F.copy_((unit.b_enc_F + (unit.b_dec_D - unit.b_in_D) @ unit.W_enc_DF) * scale)
    sae.set_thresholds(None if unit.threshold_F is None else unit.threshold_F.clamp_min(0) * scale)
