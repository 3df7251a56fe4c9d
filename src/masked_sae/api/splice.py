"""An SAE inside an LM's forward: its reconstruction in place of the activation, or latents added to it.

Special positions (BOS, end of text, padding) stay as the LM has them, as in this project's metrics: no SAE here is
trained on them, and their activations are many times as long as others.

Axes: N sequences, T positions, B activations that are changed, D `d_in`.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from masked_sae.errors import InputError
from masked_sae.saes import InferenceSAE

Edit = Callable[[Tensor], Tensor]


@contextmanager
def splice(
    bridge: Any,
    sae: InferenceSAE,
    *,
    hook_name: str | None = None,
    change: Edit | None = None,
    keep_error: bool = False,
    keep_special: bool = True,
) -> Generator[None]:
    """Has forwards of a TransformerBridge read the SAE's reconstruction, as long as the block lasts.

    The bridge is left as it was, whatever happens inside; hooks of your own stay.

    Args:
        hook_name: where; None: where the SAE is from.
        change: maps latents (B, F) to what is decoded in their place: ablate with it.
        keep_error: adds what the SAE does not reconstruct, so that nothing but `change` makes a difference.
        keep_special: leaves special positions as they are. Which these are, the bridge's tokenizer tells.

    Raises:
        InputError: the bridge has no such hook point, or one of another size, or no tokenizer.
    """

    def edit(x_BD: Tensor) -> Tensor:
        f_BF = sae.encode(x_BD)
        changed_BF = f_BF if change is None else change(f_BF.clone())
        if not keep_error:
            return sae.decode(changed_BF)
        return x_BD + (changed_BF - f_BF) @ sae.W_dec_FD

    with _edited(bridge, sae, hook_name, edit, keep_special):
        yield


@contextmanager
def steer(
    bridge: Any,
    sae: InferenceSAE,
    latents: Mapping[int, float],
    *,
    hook_name: str | None = None,
    keep_special: bool = True,
) -> Generator[None]:
    """Has forwards of a TransformerBridge read activations with the directions of these latents added.

    Args:
        latents: by latent, how long what is added is: as a share of each activation's norm. Decoder rows have norm 1
            and activations any, so that a plain number would mean another strength for each LM and layer.
        hook_name: as for `splice`.
        keep_special: as for `splice`.

    Raises:
        InputError: as `splice`, or there is no such latent.
    """
    for latent in latents:
        if not 0 <= latent < sae.d_sae:
            raise InputError("latents", latent, f"latents from 0 to {sae.d_sae - 1}")
    directions_KD = nn.functional.normalize(sae.W_dec_FD[list(latents)], dim=1)
    added_D = torch.tensor(list(latents.values()), device=sae.device) @ directions_KD

    def edit(x_BD: Tensor) -> Tensor:
        return x_BD + x_BD.norm(dim=1, keepdim=True) * added_D

    with _edited(bridge, sae, hook_name, edit, keep_special):
        yield


@contextmanager
def _edited(bridge: Any, sae: InferenceSAE, hook_name: str | None, edit: Edit, keep_special: bool) -> Generator[None]:
    name = hook_name or sae.hook_name
    if name not in bridge.hook_dict:
        valid = "a hook point of this bridge, such as blocks.0.hook_resid_post (the SAE does not say where it is from)"
        raise InputError("hook_name", name, valid)
    with ExitStack() as within:
        kept = within.enter_context(_special_positions(bridge)) if keep_special else None

        def hook(value: Tensor, hook: Any) -> Tensor:
            x_NTD = value.flatten(2).float()
            if x_NTD.shape[2] != sae.d_in:
                raise InputError("hook_name", name, f"a hook point of {sae.d_in} dimensions; it has {x_NTD.shape[2]}")
            edited_NTD = edit(x_NTD.flatten(0, 1)).view_as(x_NTD)
            if kept is not None:
                edited_NTD = torch.where(kept.of(x_NTD)[..., None], x_NTD, edited_NTD)
            return edited_NTD.to(value.dtype).view_as(value)

        within.enter_context(bridge.hooks(fwd_hooks=[(name, hook)]))
        yield


class _SpecialPositions:
    """Of the tokens that the LM is reading."""

    def __init__(self, ids: Tensor) -> None:
        self._ids, self._found_NT = ids, torch.zeros(0, 0, dtype=torch.bool)

    def look(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tokens_NT: Tensor = args[0] if args else kwargs["input"]
        self._found_NT = torch.isin(tokens_NT, self._ids.to(tokens_NT.device))

    def of(self, x_NTD: Tensor) -> Tensor:
        """Where in these activations."""
        if self._found_NT.shape != x_NTD.shape[:2]:
            raise InputError("keep_special", True, "False, for a forward whose tokens do not pass the embedding")
        return self._found_NT.to(x_NTD.device)


@contextmanager
def _special_positions(bridge: Any) -> Generator[_SpecialPositions]:
    if bridge.tokenizer is None:
        raise InputError("keep_special", True, "False: this bridge has no tokenizer that tells special tokens")
    found = _SpecialPositions(torch.tensor(sorted(set(bridge.tokenizer.all_special_ids)), dtype=torch.long))
    embedding: nn.Module = bridge.original_model.get_input_embeddings()
    handle = embedding.register_forward_pre_hook(found.look, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()
