"""What can be set of every SAE; each architecture's own settings stand with it, in its file."""

from dataclasses import dataclass
from typing import Any

import torch

from masked_sae import checks
from masked_sae.errors import InputError
from masked_sae.saes.sae import SAE, SHAPES
from masked_sae.saes.step_cost import StepCost
from masked_sae.settings import OwnModule, find_ours, find_own, makes, neutral, setting

PACKAGE = "masked_sae.saes"
CALIBRATIONS = ("clean", "none")


@dataclass(kw_only=True)
class SAESettings(OwnModule):
    """Attributes:
    architecture: the name of its module.
    dead_after_tokens: a latent is dead after that many activations without firing.
    compute_dtype: of the encoder's product.
    reference: train by dense products.
    shapes: of what a step computes with; see `sae.SAE`.
    calibrate: clean: after training, thresholds that give clean text the L0 of training; none: those learned.
    calibration_tokens: held-out activations that they are set on.
    """

    architecture: str
    d_sae: int = setting(unit="latents")
    dead_after_tokens: int = setting(unit="activations")
    compute_dtype: str
    reference: bool
    shapes: str = neutral("auto", label="shapes of a step")
    calibrate: str
    calibration_tokens: int = setting(unit="activations")

    @property
    def target_l0(self) -> float | None:
        """Active latents that are asked for; None where a price decides."""
        return None

    @property
    def penalty_warmup_steps(self) -> int:
        """Steps in which a price on latents grows to its weight."""
        return 0

    def step_cost(self, on_cuda: bool) -> StepCost | None:
        """Of a training step; None where the architecture does not say."""
        return None

    def make(self, d_in: int, generator: torch.Generator) -> SAE:
        """The SAE with its initial weights."""
        raise NotImplementedError

    def check(self) -> None:
        """Refuses what cannot work.

        Raises:
            InputError: of the first setting that is wrong.
        """
        checks.count("sae.d_sae", self.d_sae, most=checks.MOST_AT_ONCE)
        checks.count("sae.dead_after_tokens", self.dead_after_tokens)
        checks.count("sae.calibration_tokens", self.calibration_tokens)
        checks.one_of("sae.calibrate", self.calibrate, CALIBRATIONS)
        checks.one_of("sae.shapes", self.shapes, SHAPES)
        checks.one_of("sae.compute_dtype", self.compute_dtype, checks.DTYPES)

    def check_shards(self) -> None:
        """Refuses what cannot be trained with its latents divided among processes (`SAE.shards`).

        Raises:
            InputError: of the setting that stands against it.
        """
        valid = f"false: sae={self.architecture} does not say that it can do with a part of its latents"
        raise InputError("trainer.shard_latents", True, valid)

    def shared(self, generator: torch.Generator) -> dict[str, Any]:
        """What the constructors of all architectures take."""
        return {
            "dead_after_tokens": self.dead_after_tokens,
            "compute_dtype": getattr(torch, self.compute_dtype),
            "reference": self.reference,
            "shapes": self.shapes,
            "generator": generator,
        }


def find_architecture(architecture: Any, module: str | None) -> type[SAESettings]:
    """The settings of an architecture, by its name or a user's module.

    Raises:
        InputError: there is no such architecture.
    """
    if module is None:
        return find_ours(PACKAGE, "Settings", "sae.architecture", architecture)
    return find_own(module, "Settings", "sae._module_", lambda found: makes(found, SAESettings))
