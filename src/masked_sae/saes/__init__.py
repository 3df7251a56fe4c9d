"""Sparse autoencoders of the TopK family. Needs torch alone."""

from masked_sae.saes.batch_topk import BatchTopKSAE
from masked_sae.saes.inference import InferenceSAE, for_inference
from masked_sae.saes.matryoshka import MatryoshkaSAE, group_sizes
from masked_sae.saes.sae import SAE, TrainingOutput
from masked_sae.saes.topk import TopKSAE

__all__ = [
    "SAE",
    "BatchTopKSAE",
    "InferenceSAE",
    "MatryoshkaSAE",
    "TopKSAE",
    "TrainingOutput",
    "for_inference",
    "group_sizes",
]
