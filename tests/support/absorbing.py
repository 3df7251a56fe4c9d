"""Concepts, and an SAE that absorbs a known share of one of them.

Axes: P positions, C concepts, H children, D `d_in`.
"""

import math
import string

import torch
from torch import Tensor
from torch.nn import functional as F

from masked_sae.evals.texts.activation_cache import TokenizedTexts
from masked_sae.evals.texts.concepts import Concepts

CONCEPTS, WORDS, CHILDREN = 3, 400, 40
D_IN = CONCEPTS + 1 + CHILDREN


def positions(children_absorbed: int) -> tuple[Concepts, Tensor, Tensor, Tensor]:
    """Three concepts of 400 positions each, and 400 of none.

    Each of a concept's positions is of one of its 40 children in turn. An activation is the concept's direction and the
    child's; the SAE has a latent for each of them. But at the first `children_absorbed` children of the first concept
    its latent is silent, and the child's latent, whose decoder points both ways, carries both directions.
    """
    concept_P = torch.arange(CONCEPTS + 1).repeat_interleave(WORDS)
    child_P = torch.arange(WORDS).repeat(CONCEPTS + 1) % CHILDREN
    parent_PC, child_PH = F.one_hot(concept_P).float(), F.one_hot(child_P).float()
    x_PD = 3 * torch.cat([parent_PC, child_PH], dim=1)
    absorbed_P = (concept_P == 0) & (child_P < children_absorbed)
    f_PF = x_PD.clone()
    f_PF[:, CONCEPTS] = 0  # "none" has no latent
    f_PF[absorbed_P] = 0
    absorbing_PH = 3 * math.sqrt(2) * child_PH * absorbed_P[:, None]
    decoder_FD = torch.cat([torch.eye(D_IN), torch.zeros(CHILDREN, D_IN)])
    decoder_FD[D_IN:, 0] = math.sqrt(0.5)
    decoder_FD[D_IN:, CONCEPTS + 1 :].fill_diagonal_(math.sqrt(0.5))
    # Each child is at as many training as test positions: of a child's ten positions two are tested on.
    test_P = (torch.arange(WORDS).repeat(CONCEPTS + 1) // CHILDREN) % 5 == 0
    tokens_NT = torch.zeros(len(x_PD), 1, dtype=torch.long)
    reading = TokenizedTexts(
        tokens_NT, torch.ones(len(x_PD), dtype=torch.long), torch.ones_like(tokens_NT, dtype=torch.bool)
    )
    labels_PC = parent_PC[:, :CONCEPTS].bool()
    names = tuple(string.ascii_lowercase[:CONCEPTS])
    concepts = Concepts("letters", reading, names, labels_PC, test_P, minimum=CONCEPTS)
    return concepts, x_PD, torch.cat([f_PF, absorbing_PH], dim=1), decoder_FD
