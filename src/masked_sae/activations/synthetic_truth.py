"""The features that are truly in a synthetic LM's activations.

Axes: N sequences, T positions, B activations, D `d_in`, V vocabulary, G features, P parents.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from masked_sae.errors import InputError
from masked_sae.text.synthetic import DESCRIPTION, Feature, read_recipe

TABLES = "ground_truth.safetensors"
_TABLE_NAMES = ("directions_GD", "own_VG", "context_VG")


@dataclass(frozen=True)
class Truth:
    """An activation is `sum_g coefficient_g * direction_g`, exactly but for float32 round-off.

    A token adds to its own position what `own_VG` says, and to its own and every later position what `context_VG`
    says, divided by the number of tokens up to there: the LM's attention is uniform.

    Attributes:
        features: in the order of axis G; the parents come first.
        directions_GD: unit vectors, float32. There are more of them than dimensions.
        own_VG, context_VG: coefficients, float32, not negative.
        carried_parents: how many of the first parents have a coefficient that the context adds to.
    """

    features: tuple[Feature, ...]
    carried_parents: int
    directions_GD: Tensor
    own_VG: Tensor
    context_VG: Tensor

    @property
    def parents(self) -> int:
        return sum(feature.kind == "parent" for feature in self.features)

    def children_of(self, parent: int) -> list[int]:
        return [g for g, feature in enumerate(self.features) if feature.kind == "child" and feature.parent == parent]

    def to(self, device: torch.device) -> "Truth":
        tables = {name: getattr(self, name).to(device) for name in _TABLE_NAMES}
        return replace(self, **tables)

    def true_features(self, tokens_NT: Tensor) -> Tensor:
        """Coefficients (N, T, G), float32, of what the LM computes on these tokens, masked ones or not.

        Args:
            tokens_NT: int64, as the LM reads them: whole sequences, special tokens included.
        """
        tokens_NT = tokens_NT.to(self.own_VG.device)
        seen_T = torch.arange(1, tokens_NT.shape[1] + 1, device=tokens_NT.device)
        context_NTG = self.context_VG.double()[tokens_NT].cumsum(1) / seen_T[:, None]
        return (self.own_VG[tokens_NT] + context_NTG).float()


def has_truth(folder: Path) -> bool:
    """Whether an LM's folder has a truth beside the checkpoint."""
    return (folder / DESCRIPTION).is_file()


def load_truth(folder: Path) -> Truth:
    """The truth beside a checkpoint.

    Raises:
        InputError: of `lm.name`; the folder is no synthetic LM's, or its tables are not those of its description.
    """
    recipe = read_recipe(folder, "lm.name")
    try:
        tables = load_file(folder.expanduser() / TABLES)
        truth = Truth(recipe.features(), recipe.carried_parents, **tables)
        V, G = len(recipe.words()), len(truth.features)
        shapes = {"directions_GD": (G, recipe.d_in), "own_VG": (V, G), "context_VG": (V, G)}
        for name, shape in shapes.items():
            table = tables[name]
            if table.shape != shape or table.dtype != torch.float32 or not table.isfinite().all():
                raise ValueError(name)
    except (OSError, SafetensorError, TypeError, ValueError):
        valid = f"a synthetic LM's folder (python -m masked_sae.activations.synthetic_lm FOLDER), with its {TABLES}"
        raise InputError("lm.name", folder, valid) from None
    return truth


def save_truth(truth: Truth, path: Path) -> None:
    save_file({name: getattr(truth, name).contiguous() for name in _TABLE_NAMES}, path)
