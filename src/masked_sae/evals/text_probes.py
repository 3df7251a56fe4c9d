"""Linear probes on mean activations, and what zero-ablating latents does to their logits.

Axes: N texts, C binary tasks (a class against the rest), M texts of a task's balanced set, D `d_in`, F `d_sae`,
E values of a text (D or F), K latents in order of their effect.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from masked_sae.randomness import numpy_generator


@dataclass(frozen=True)
class BinarySets:
    """For each task as many positive texts as negative ones, all tasks of one size.

    Attributes:
        rows_CM: int64, which texts.
        positive_CM: bool, the first half of every row.
    """

    rows_CM: Tensor
    positive_CM: Tensor

    @classmethod
    def of(cls, positive: Sequence[Tensor], negative: Sequence[Tensor]) -> "BinarySets":
        """From the rows of each task's positive and negative texts, all of one length."""
        rows_CM = torch.stack([torch.cat(pair) for pair in zip(positive, negative, strict=True)])
        positive_CM = torch.zeros_like(rows_CM, dtype=torch.bool)
        positive_CM[:, : len(positive[0])] = True
        return cls(rows_CM, positive_CM)

    def mean_differences(self, values_NE: Tensor) -> Tensor:
        """Mean over the positive texts less that over the negative ones, (C, E)."""
        tasks, size = self.rows_CM.shape
        signs_CN = torch.zeros(tasks, len(values_NE), dtype=values_NE.dtype, device=values_NE.device)
        weights_CM = torch.where(self.positive_CM, 2 / size, -2 / size).to(signs_CN)
        return signs_CN.scatter_add_(1, self.rows_CM.to(signs_CN.device), weights_CM) @ values_NE

    def accuracies(self, logits_NC: Tensor) -> Tensor:
        """Share of each task's texts on the right side of its own logit's zero, float64, (C,)."""
        logits_CM = logits_NC.T.gather(1, self.rows_CM.to(logits_NC.device))
        return ((logits_CM > 0) == self.positive_CM.to(logits_NC.device)).double().mean(1)


def one_against_rest(labels_N: Tensor, chosen_N: Tensor, seed: int) -> BinarySets:
    """Each class against equal shares of all others, as in SAEBench (`prepare_probe_data`).

    With P texts in the smallest class, a task has P texts of its class and P others, which are drawn once: a probe
    is tested on the same texts before and after an ablation, where SAEBench draws anew for every accuracy.

    Args:
        labels_N: int64, 0 to C - 1; each has chosen texts.
        chosen_N: bool, which texts to take from: those of the train or of the test split.
    """
    classes = int(labels_N.max()) + 1
    rows = [(chosen_N & (labels_N == label)).nonzero()[:, 0].numpy() for label in range(classes)]
    size = min(map(len, rows))
    share = -(-size // (classes - 1))
    positive: list[Tensor] = []
    negative: list[Tensor] = []
    for label in range(classes):
        generator = numpy_generator(seed, "texts of a probe", label)
        positive.append(torch.from_numpy(np.sort(generator.permutation(rows[label])[:size])))
        others = [generator.permutation(rows[other])[:share] for other in range(classes) if other != label]
        negative.append(torch.from_numpy(np.sort(generator.permutation(np.concatenate(others))[:size])))
    return BinarySets.of(positive, negative)


@dataclass(frozen=True)
class LinearProbes:
    """`logit = x W + b`, one probe a task, float32."""

    W_CD: Tensor
    b_C: Tensor

    def logits(self, x_ND: Tensor) -> Tensor:
        """(N, C)."""
        return x_ND @ self.W_CD.T + self.b_C


@torch.no_grad()
def train_probes(
    x_ND: Tensor,
    sets: BinarySets,
    *,
    seed: int,
    epochs: int = 20,
    batch_size: int = 16,
    lr: float = 1e-3,
    l1: float = 1e-3,
) -> LinearProbes:
    """Logistic probes by AdamW with an L1 penalty, with SAEBench's settings for TPP and SCR (2411.18895).

    All tasks are trained side by side. Batches are that small on purpose: how much of a spurious correlation a probe
    takes up depends on it. The probes are those after the last epoch; SAEBench keeps the epoch that does best on the
    test texts.
    """
    (tasks, size), device = sets.rows_CM.shape, x_ND.device
    W_CD = torch.zeros(tasks, x_ND.shape[1], device=device)
    b_C = torch.zeros(tasks, device=device)
    W_CD.grad, b_C.grad = torch.zeros_like(W_CD), torch.zeros_like(b_C)
    optimizer = torch.optim.AdamW([W_CD, b_C], lr=lr)
    for epoch in range(epochs):
        order_CM = np.tile(np.arange(size), (tasks, 1))
        order = torch.from_numpy(numpy_generator(seed, "batches of a probe", epoch).permuted(order_CM, axis=1))
        rows_CM, wanted_CM = (t.gather(1, order).to(device) for t in (sets.rows_CM, sets.positive_CM))
        for start in range(0, size, batch_size):
            x_CMD = x_ND[rows_CM[:, start : start + batch_size]].float()
            logits_CM = torch.bmm(x_CMD, W_CD[:, :, None])[:, :, 0] + b_C[:, None]
            error_CM = (logits_CM.sigmoid() - wanted_CM[:, start : start + batch_size].float()) / x_CMD.shape[1]
            W_CD.grad = torch.bmm(error_CM[:, None], x_CMD)[:, 0] + l1 * W_CD.sign()
            b_C.grad = error_CM.sum(1)
            optimizer.step()
    return LinearProbes(W_CD.detach(), b_C.detach())


def strongest(effects_F: Tensor, n: int) -> Tensor:
    """The up to `n` latents of the largest positive effect, the largest first, (K,) int64."""
    values_K, latents_K = effects_F.topk(min(n, len(effects_F)))
    return latents_K[values_K > 0]


def ablated_logits(
    logits_NC: Tensor, f_NF: Tensor, W_dec_FD: Tensor, probes: LinearProbes, latents_K: Tensor, ns: Sequence[int]
) -> Iterator[Tensor]:
    """The probes' logits with the first `n` of the latents at zero, (N, C), for each of the ascending `ns`.

    An ablated activation is `x - f[ablated] W_dec[ablated]`, at every position of a text and so in the mean over them;
    the SAE's error stays in. Hence `logit - sum over ablated of f (W_dec w)`.
    """
    removed_KC = W_dec_FD[latents_K] @ probes.W_CD.T
    f_NK = f_NF[:, latents_K]
    start = 0
    for n in ns:
        logits_NC = logits_NC - f_NK[:, start:n] @ removed_KC[start:n]
        start = n
        yield logits_NC
