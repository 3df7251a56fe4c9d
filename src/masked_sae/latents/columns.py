"""What the page is given of latents, as arrays.

Axes: F latents, C latents of a file, K contexts, W tokens of one, B bins, H bars, M neighbours or tokens, U tokens of
the text.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masked_sae.latents.activity import Activity
from masked_sae.latents.contexts import Contexts
from masked_sae.latents.neighbours import Neighbours
from masked_sae.latents.promoted import Effects

BARS = 24  # of a latent's histogram: six octaves below its largest activation
_NONE = 2**32 - 1  # no context, no neighbour, no token

Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Latents:
    """Attributes:
    activity: its contexts point into the text.
    by_decoder, by_firing: nearest latents.
    effects: None where the LM has no output layer to read them by.
    text_U: token ids of what is shown of the text.
    token_texts: of every token in the text and in the effects.
    """

    activity: Activity
    by_decoder: Neighbours
    by_firing: Neighbours
    effects: Effects | None
    text_U: NDArray[np.int64]
    token_texts: Mapping[int, str]


class Tokens:
    """The tokens that the page knows, in the order of their texts: so that to sort by place is to sort by text."""

    def __init__(self, texts: Mapping[int, str]) -> None:
        ids = sorted(texts, key=lambda token: (texts[token].strip().lower(), texts[token], token))
        self.texts = [texts[token] for token in ids]
        self._ids = np.array(sorted(texts), dtype=np.int64)
        place_of = {token: place for place, token in enumerate(ids)}
        self._places = np.array([place_of[token] for token in self._ids.tolist()], dtype=np.int64)

    def places(self, ids: NDArray[np.int64]) -> NDArray[Any]:
        """Each token's place, in the smallest type that has them all."""
        found = self._places[np.searchsorted(self._ids, ids)]
        return found.astype(np.uint16 if len(self.texts) <= 2**16 else np.uint32)


def index_columns(latents: Latents, tokens: Tokens) -> Columns:
    """Of all latents: what the list shows, sorts by and searches."""
    activity = latents.activity
    mean_F = activity.sum_F / activity.count_F.clamp_min(1)
    columns = {
        "count": _array(activity.count_F, np.uint32),
        "max": _array(activity.max_F, np.float32),
        "mean": _array(mean_F, np.float32),
        "cosine": _array(latents.by_decoder.nearness_FM[:, 0], np.float32),
        "topFirst": _first(activity.top),
        "topAt": _array(activity.top.at_FK, np.uint8),
    }
    if latents.effects is not None:
        columns["raised"] = tokens.places(latents.effects.raised_FM.numpy())
    return columns


def latent_columns(latents: Latents, tokens: Tokens, some: slice) -> Columns:
    """Of some latents: what is shown of one."""
    activity = latents.activity
    max_C = activity.max_F[some]
    columns: dict[str, NDArray[Any]] = {
        "histogram": _bars(activity.histogram_FB[some]),
        "topValue": _array(activity.top.value_FK[some], np.float32),
        "topWindow": _shades(activity.top, max_C, some),
        "sampleFirst": _first(activity.sample)[some],
        "sampleAt": _array(activity.sample.at_FK[some], np.uint8),
        "sampleValue": _array(activity.sample.value_FK[some], np.float32),
        "sampleWindow": _shades(activity.sample, max_C, some),
        "quantile": _array((activity.quantile_FK[some] * 100).round(), np.uint8),
    }
    for name, near in (("decoder", latents.by_decoder), ("firing", latents.by_firing)):
        columns[f"{name}Latent"] = _array(near.latent_FM[some], np.int32)
        columns[f"{name}Nearness"] = _array(near.nearness_FM[some], np.float32)
    if latents.effects is not None:
        columns["raise"] = _array(latents.effects.raise_FM[some], np.float32)
        columns["lowered"] = tokens.places(latents.effects.lowered_FM[some].numpy())
        columns["lower"] = _array(latents.effects.lower_FM[some], np.float32)
    return columns


def _array(values: Tensor, dtype: Any) -> NDArray[Any]:
    return values.cpu().numpy().astype(dtype)


def _first(contexts: Contexts) -> NDArray[Any]:
    return _array(contexts.first_FK.masked_fill(contexts.value_FK == 0, _NONE), np.uint32)


def _shades(contexts: Contexts, max_C: Tensor, some: slice) -> NDArray[Any]:
    """Activations in 255ths of the latent's largest, rounded up: a small one is still seen."""
    share_CK = contexts.peak_FK[some] / max_C.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    return _array((contexts.window_FKW[some] * share_CK[..., None]).ceil().clamp(max=255), np.uint8)


def _bars(histogram_CB: Tensor) -> NDArray[Any]:
    """Counts in the bins up to that of the largest activation, as heights in 255ths of the highest. The lowest bar has
    all that is below it, too.
    """
    bins = histogram_CB.shape[1]
    last_C = ((histogram_CB > 0) * torch.arange(bins, device=histogram_CB.device)).amax(1).clamp_min(BARS - 1)
    place_CH = last_C[:, None] - torch.arange(BARS - 1, -1, -1, device=histogram_CB.device)
    count_CH = histogram_CB.gather(1, place_CH)
    below_CB = histogram_CB.cumsum(1)
    count_CH[:, 0] = below_CB.gather(1, place_CH[:, :1])[:, 0]
    highest_C1 = count_CH.amax(1, keepdim=True).clamp_min(1)
    return _array((count_CH / highest_C1 * 255).ceil(), np.uint8)
