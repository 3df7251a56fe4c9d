"""Sparse autoencoders. Needs torch alone."""

from masked_sae.saes.batch_topk import BatchTopKSAE
from masked_sae.saes.gated import GatedSAE
from masked_sae.saes.inference import InferenceSAE, begin_as, for_inference
from masked_sae.saes.jumprelu import JumpReLUSAE
from masked_sae.saes.matryoshka import MatryoshkaSAE, group_sizes
from masked_sae.saes.penalty_family import PenalizedSAE
from masked_sae.saes.relu import PAnnealedSAE, ReLUSAE
from masked_sae.saes.sae import SAE, TrainingOutput
from masked_sae.saes.topk import TopKSAE
from masked_sae.saes.topk_family import TopKFamilySAE

__all__ = [
    "SAE",
    "BatchTopKSAE",
    "GatedSAE",
    "InferenceSAE",
    "JumpReLUSAE",
    "MatryoshkaSAE",
    "PAnnealedSAE",
    "PenalizedSAE",
    "ReLUSAE",
    "TopKFamilySAE",
    "TopKSAE",
    "TrainingOutput",
    "begin_as",
    "for_inference",
    "group_sizes",
]
