"""A run's page of latents, from its folder into its folder."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from masked_sae.activations.held_out import sequence_batches, sequences_to_measure
from masked_sae.activations.sequences import Sequences
from masked_sae.config import RunConfig
from masked_sae.errors import InputError
from masked_sae.latents.absorption_build import refuse_other_lm, write_absorption
from masked_sae.latents.activity import Activity, Reading, read_activity
from masked_sae.latents.columns import Latents
from masked_sae.latents.contexts import Contexts
from masked_sae.latents.neighbours import nearest_by_decoder, nearest_by_firing
from masked_sae.latents.opened import OpenedRun, find_run, open_run
from masked_sae.latents.page import write_page
from masked_sae.latents.promoted import Effects, direct_effects, why_no_effects
from masked_sae.latents.token_texts import token_texts
from masked_sae.randomness import numpy_generator

_WIDTH = 32  # tokens of a context
_NEIGHBOURS = 6
_TOKENS = 8  # promoted, and as many suppressed
_MOST_CONTEXTS = 64


@dataclass(frozen=True)
class PageSettings:
    """Attributes:
    tokens: held-out tokens that are read.
    contexts: of each latent: so many of its strongest, and as many drawn from all.
    """

    tokens: Any
    contexts: Any

    def check(self) -> None:
        """Refuses what cannot work."""
        if not _is_count(self.tokens):
            raise InputError("tokens", self.tokens, "a whole number above 0")
        if not _is_count(self.contexts) or self.contexts > _MOST_CONTEXTS:
            raise InputError("contexts", self.contexts, f"a whole number from 1 to {_MOST_CONTEXTS}")


def write_pages(
    folder: Path, settings: RunConfig, overrides: Sequence[str], asked: PageSettings, against: Path | None = None
) -> list[Path]:
    """Writes `latents.html` with its data and `absorption.html` into the run's folder; with another run beside it, the
    absorption of both.

    Args:
        folder, against: the runs'.
        settings: of the command: defaults and overrides.
        overrides: what stood on the command line.

    Returns:
        The pages.

    Raises:
        InputError, DamagedFileError: a folder holds no run that is done, its LM or text cannot be read, or the other
            run is of another LM.
    """
    run = find_run("run", folder, settings, overrides)
    beside = None if against is None else find_run("against", against, settings, overrides)
    if beside is not None:
        refuse_other_lm(run, beside)
    opened = open_run("run", run)
    pages = [] if beside is not None else [_write_latents(opened, asked)]
    return [*pages, write_absorption(opened, overrides, beside)]


def _write_latents(opened: OpenedRun, asked: PageSettings) -> Path:
    latents = look_at(opened, asked)
    config = opened.run.config
    facts = {
        "run": opened.run.folder.run_id,
        "lm": config.lm.name,
        "hook_name": config.lm.hook_name,
        "no_effects": why_no_effects(opened.context.lm),
        "tokens": latents.activity.tokens,
        "latents": opened.sae.d_sae,
        "dead": int((latents.activity.count_F == 0).sum()),
        "absorption": opened.run.folder.absorption().name,
        "l0": float(latents.activity.count_F.sum() / latents.activity.tokens),
    }
    return write_page(opened.run.folder.path, latents, facts)


def look_at(opened: OpenedRun, asked: PageSettings) -> Latents:
    """All that the page shows of a run's latents."""
    lm, held_out, sae = opened.context.lm, opened.context.held_out, opened.sae
    config = opened.run.config
    indices_N = sequences_to_measure(held_out, asked.tokens)
    # In random order, so that what is counted on the first of them is of all of the text.
    numpy_generator(config.eval.seed, "order of what is read").shuffle(indices_N)
    width = min(_WIDTH, held_out.read(indices_N[:1])[0].shape[1])
    reading = Reading(indices_N, asked.contexts, width, config.lm.batch_size, config.eval.seed)
    activity = read_activity(sae, lm, held_out, reading)
    by_firing = nearest_by_firing(activity.position_P, activity.latent_P, sae.d_sae, _NEIGHBOURS)
    effects = direct_effects(lm, sae.W_dec_FD, _TOKENS) if not why_no_effects(lm) else None
    activity, text_U = with_text(activity, held_out, indices_N)
    texts = _texts(lm.tokenizer, text_U, effects)
    return Latents(activity, nearest_by_decoder(sae.W_dec_FD, _NEIGHBOURS), by_firing, effects, text_U, texts)


def with_text(
    activity: Activity, held_out: Sequences, indices_N: NDArray[np.int64]
) -> tuple[Activity, NDArray[np.int64]]:
    """The tokens that contexts have, one after another, and the activity with its contexts pointing there."""
    length = held_out.read(indices_N[:1])[0].shape[1]
    shown = np.zeros(len(indices_N) * length, dtype=np.bool_)
    for contexts in (activity.top, activity.sample):
        _mark(shown, contexts)
    parts = [
        tokens_NT.numpy().ravel()[shown[first * length :][: tokens_NT.numel()]]
        for first, tokens_NT, _ in sequence_batches(held_out, indices_N, 256)
    ]
    place = torch.from_numpy(shown.cumsum() - shown)
    moved = {name: _moved(getattr(activity, name), place) for name in ("top", "sample")}
    return replace(activity, **moved), np.concatenate(parts)


def _mark(shown: NDArray[np.bool_], contexts: Contexts) -> None:
    first = contexts.first_FK[contexts.value_FK > 0].unique().cpu().numpy()
    for offset in range(contexts.window_FKW.shape[2]):
        shown[first + offset] = True


def _moved(contexts: Contexts, place: torch.Tensor) -> Contexts:
    return replace(contexts, first_FK=place.to(contexts.first_FK.device)[contexts.first_FK])


def _texts(tokenizer: Any, text_U: NDArray[np.int64], effects: Effects | None) -> dict[int, str]:
    of_effects = [] if effects is None else [effects.raised_FM.numpy().ravel(), effects.lowered_FM.numpy().ravel()]
    ids: Iterable[int] = np.unique(np.concatenate([text_U, *of_effects])).tolist()
    return dict(zip(ids, token_texts(tokenizer, list(ids)), strict=True))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
