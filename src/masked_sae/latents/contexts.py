"""Where each latent fires, kept while the text streams by: the few activations with the largest keys, with what stands
around each. A key is the activation itself, or a random number, for a sample of all.

Axes: N sequences, T positions, F latents, K kept of a latent, W tokens around one, E activations, U latents with some.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

_FULL = 255  # how the largest activation around one is stored


@dataclass
class Contexts:
    """Activations of each latent, and windows of the text around them, strongest first.

    Attributes:
        value_FK: the activation; 0: there is none.
        first_FK: place of the window's first token in the text that was read, sequence after sequence; int64.
        at_FK: which token of the window it is of; uint8.
        window_FKW: the latent at the window's tokens, in 255ths of its largest there, rounded up; uint8.
        peak_FK: that largest.
    """

    value_FK: Tensor
    first_FK: Tensor
    at_FK: Tensor
    window_FKW: Tensor
    peak_FK: Tensor

    def take(self, places_FK: Tensor) -> "Contexts":
        """Of each latent's those at these places, in their order."""
        rows_F1 = torch.arange(len(places_FK), device=places_FK.device)[:, None]
        return Contexts(*(getattr(self, one.name)[rows_F1, places_FK] for one in fields(self)))

    def at(self, latent_U: Tensor) -> "Contexts":
        return Contexts(*(getattr(self, one.name)[latent_U] for one in fields(self)))

    def put(self, latent_U: Tensor, other: "Contexts") -> None:
        for one in fields(self):
            getattr(self, one.name)[latent_U] = getattr(other, one.name)

    def put_each(self, latent_E: Tensor, rank_E: Tensor, each: "Contexts") -> None:
        """One at a time, in the places of these ranks."""
        for one in fields(self):
            getattr(self, one.name)[latent_E, rank_E] = getattr(each, one.name)

    def beside(self, other: "Contexts") -> "Contexts":
        """Those of both."""
        return Contexts(*(torch.cat((getattr(self, one.name), getattr(other, one.name)), 1) for one in fields(self)))


def no_contexts(latents: int, kept: int, width: int, device: torch.device) -> Contexts:
    shape = (latents, kept)
    return Contexts(
        torch.zeros(shape, device=device),
        torch.zeros(shape, dtype=torch.int64, device=device),
        torch.zeros(shape, dtype=torch.uint8, device=device),
        torch.zeros((*shape, width), dtype=torch.uint8, device=device),
        torch.zeros(shape, device=device),
    )


class RunningContexts:
    """The `kept` activations of each latent with the largest keys so far; memory does not grow with the text."""

    def __init__(self, latents: int, kept: int, width: int, device: torch.device) -> None:
        self.found = no_contexts(latents, kept, width, device)
        self._key_FK = torch.full((latents, kept), -torch.inf, device=device)
        self._kept, self._width = kept, width

    def offer(self, f_NTF: Tensor, place_E3: Tensor, key_E: Tensor, first_row: int) -> None:
        """Takes in activations of a batch.

        Args:
            place_E3: sequence, position and latent of each.
            first_row: sequences that were read before.
        """
        wanted_E = key_E > self._key_FK.amin(1)[place_E3[:, 2]]
        place_E3, key_E = place_E3[wanted_E], key_E[wanted_E]
        best_E, rank_E = largest_of_each(place_E3[:, 2], key_E, self._kept)
        place_E3, key_E = place_E3[best_E], key_E[best_E]
        latent_U, of_E = place_E3[:, 2].unique_consecutive(return_inverse=True)
        new = no_contexts(len(latent_U), self._kept, self._width, f_NTF.device)
        new_key_UK = torch.full((len(latent_U), self._kept), -torch.inf, device=f_NTF.device)
        new_key_UK[of_E, rank_E] = key_E
        new.put_each(of_E, rank_E, windows(f_NTF, place_E3, first_row, self._width))
        key_UK, places_UK = torch.cat((self._key_FK[latent_U], new_key_UK), 1).topk(self._kept, dim=1)
        self._key_FK[latent_U] = key_UK
        self.found.put(latent_U, self.found.at(latent_U).beside(new).take(places_UK))


def largest_of_each(group_E: Tensor, key_E: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The `k` entries of each group with the largest keys: which they are, in the order of groups and ranks, and their
    ranks.
    """
    order_E = key_E.argsort(descending=True, stable=True)
    order_E = order_E[group_E[order_E].argsort(stable=True)]
    _, counts = group_E[order_E].unique_consecutive(return_counts=True)
    begins = counts.cumsum(0) - counts
    rank_E = torch.arange(len(order_E), device=order_E.device) - begins.repeat_interleave(counts)
    return order_E[rank_E < k], rank_E[rank_E < k]


def windows(f_NTF: Tensor, place_E3: Tensor, first_row: int, width: int) -> Contexts:
    """Of each activation (E,), with the window around it, which is moved where the sequence begins or ends."""
    row_E, t_E, latent_E = place_E3.unbind(1)
    T = f_NTF.shape[1]
    begin_E = (t_E - (width - width // 4)).clamp(0, T - width)  # more before than after: what comes after is not read
    t_EW = begin_E[:, None] + torch.arange(width, device=f_NTF.device)
    f_EW = f_NTF[row_E[:, None], t_EW, latent_E[:, None]]
    peak_E = f_EW.amax(1)
    return Contexts(
        f_NTF[row_E, t_E, latent_E],
        (first_row + row_E) * T + begin_E,
        (t_E - begin_E).to(torch.uint8),
        (f_EW / peak_E[:, None] * _FULL).ceil().to(torch.uint8),
        peak_E,
    )


def spread(found: Contexts, wanted: int) -> tuple[Contexts, Tensor]:
    """Of each latent's sample of all its activations so many, evenly from the strongest to the weakest; and which share
    of the sample is weaker than each (F, wanted).
    """
    order_FK = found.value_FK.argsort(dim=1, descending=True, stable=True)
    n_F1 = (found.value_FK > 0).sum(1, keepdim=True)
    place_1K = torch.arange(wanted, device=order_FK.device)[None]
    even_FK = ((place_1K + 0.5) * n_F1 / wanted).long()
    rank_FK = torch.where(n_F1 > wanted, even_FK, place_1K).clamp(max=order_FK.shape[1] - 1)
    return found.take(order_FK.gather(1, rank_FK)), 1 - (rank_FK + 0.5) / n_F1.clamp_min(1)
