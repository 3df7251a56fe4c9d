"""What an architecture says of the cost of its training step, before there is an SAE.

Axes: B activations, D `d_in`, F `d_sae`, A active latents of the whole batch.
"""

from dataclasses import dataclass

DENSE_PRODUCTS = 5  # encoder, decoder; gradients of latents and of both weights
SPARSE_SUMS = 4  # rows of the decoder, the gradient at them, and the gradients of both weights


@dataclass(frozen=True)
class StepCost:
    """Attributes:
    products: of (B, D) with (D, F) or alike, by dense matrices.
    sums: how often each of the A is multiplied with, and added to, a vector of D numbers.
    active: latents of an activation that such sums are over, at most; None where training decides how many.
    latents: tensors of (B, F) float32 that there are at one time.
    activations: tensors of (B, D) float32 that there are at one time.
    square: latents that each row of the decoder is multiplied with besides.
    """

    products: int
    sums: int
    active: float | None
    latents: int
    activations: int
    square: int = 0
