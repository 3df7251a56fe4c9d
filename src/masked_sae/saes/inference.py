"""An SAE as it is used after training: for the LM's own activations, its weights fixed, one rule for what is active.

Axes: B activations, D `d_in`, F `d_sae`.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from masked_sae.saes.fast_topk import largest
from masked_sae.saes.sae import SAE


@dataclass(frozen=True)
class InferenceSAE:
    """`f = select(relu((x - b_in) W_enc + b_enc))`, `x_hat = f W_dec + b_dec`, float32.

    A latent is active where it is positive and above its threshold (JumpReLU, of which ReLU, Gated, BatchTopK and
    Matryoshka are cases once trained), or among the `k` largest of its activation (TopK).

    Attributes:
        W_enc_DF, b_enc_F, W_dec_FD, b_dec_D: the weights.
        b_in_D: taken from the activation before encoding: `b_dec`, or zeros.
        threshold_F: None for TopK.
        k: None for all others.
    """

    W_enc_DF: Tensor
    b_enc_F: Tensor
    W_dec_FD: Tensor
    b_dec_D: Tensor
    b_in_D: Tensor
    threshold_F: Tensor | None = None
    k: int | None = None

    def __post_init__(self) -> None:
        if (self.threshold_F is None) == (self.k is None):
            raise ValueError("expected either thresholds or k")

    @property
    def d_in(self) -> int:
        return self.W_dec_FD.shape[1]

    @property
    def d_sae(self) -> int:
        return self.W_dec_FD.shape[0]

    def pre_activations(self, x_BD: Tensor) -> Tensor:
        """(B, F)."""
        return torch.addmm(self.b_enc_F, x_BD - self.b_in_D, self.W_enc_DF)

    def encode(self, x_BD: Tensor) -> Tensor:
        """Latents (B, F), each activation's own."""
        pre_BF = self.pre_activations(x_BD)
        if self.k is None:
            assert self.threshold_F is not None
            threshold_F = self.threshold_F.clamp_min(0)
            if torch.equal(threshold_F, threshold_F[:1].expand_as(threshold_F)):
                return F.threshold(pre_BF, threshold_F[0].item(), 0.0, inplace=True)  # one pass
            return pre_BF.masked_fill_(pre_BF <= threshold_F, 0.0)
        places_A, values_A = largest(pre_BF, self.k)
        return pre_BF.zero_().view(-1).index_copy_(0, places_A, values_A).view_as(pre_BF)

    def decode(self, f_BF: Tensor) -> Tensor:
        """Reconstructions (B, D)."""
        return torch.addmm(self.b_dec_D, f_BF, self.W_dec_FD)

    def __call__(self, x_BD: Tensor) -> Tensor:
        return self.decode(self.encode(x_BD))

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

    def to(self, device: torch.device) -> "InferenceSAE":
        tensors = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)


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
    return InferenceSAE(**fixed, k=sae.inference_k)


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
