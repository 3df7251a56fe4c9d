"""An LM and a hook point: tokens in, activations out.

Axes: N sequences, T positions, D `d_in`, V vocabulary.
"""

import difflib
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from masked_sae.activations.boot import boot, mapped
from masked_sae.activations.lm_weights import WeightReader, check_sizes
from masked_sae.errors import InputError, NonFiniteError, notice
from masked_sae.exhaustion import is_of_memory
from masked_sae.lm_files import find_lm_folder, read_lm_config, shortened
from masked_sae.text.tokenizer import MEAN_TOKEN, SpecialTokens, load_tokenizer, special_tokens

Objective = Literal["causal", "masked"]
_EMBEDDED_AT_ONCE = 4096  # tokens
_WITH_OUTPUT_LAYER = ("ForCausalLM", "LMHeadModel", "ForMaskedLM")


class _HookPointReached(Exception):
    """Ends a forward at the hook point: the layers after it are not needed."""


class LM:
    """A language model read at one hook point.

    `activations` stops the forward there; `logits` runs it to the end, with the activation replaced if asked.
    Tokens may be `MEAN_TOKEN`, too.

    Args:
        micro_batch_size: sequences that are in it at one time, where activations are read; None: all that are given.
            Pieces give what the whole does, to round-off.

    Attributes:
        device: where it reads tokens, and gives logits.
        gives_on: where it gives activations: where the SAEs are.
        turn: held by each forward, since its hooks would act in any other's.
        resumes: whether a forward may begin at the hook point (`suffix`); None: not tried yet.
    """

    def __init__(
        self,
        bridge: Any,
        tokenizer: Any,
        hook_name: str,
        device: torch.device,
        has_head: bool,
        micro_batch_size: int | None = None,
        gives_on: torch.device | None = None,
        turn: AbstractContextManager[Any] | None = None,
    ) -> None:
        self.bridge = bridge
        self.tokenizer = tokenizer
        self.hook_name = hook_name
        self.device = device
        self.micro_batch_size = micro_batch_size
        self.gives_on = gives_on or device
        self.turn = turn or RLock()
        self._has_head = has_head
        self.resumes: bool | None = None
        self.d_in = self._find_d_in()

    @property
    def objective(self) -> Objective | None:
        """What the LM predicts: the next token, a masked token, or (no trained output layer) nothing."""
        if not self._has_head:
            return None
        return "masked" if type(self.bridge.original_model).__name__.endswith("MaskedLM") else "causal"

    @property
    def vocab_size(self) -> int:
        return len(self.tokenizer)

    @property
    def context_limit(self) -> int | None:
        """The longest sequence the LM takes, where its configuration says so."""
        return getattr(self.bridge.original_model.config, "max_position_embeddings", None)

    @cached_property
    def special(self) -> SpecialTokens:
        return special_tokens(self.tokenizer)

    def at(self, hook_name: str) -> "LM":
        """The same LM, read at another hook point.

        Raises:
            InputError: there is no such hook point.
        """
        if hook_name == self.hook_name:
            return self
        return LM(
            self.bridge,
            self.tokenizer,
            hook_name,
            self.device,
            self._has_head,
            self.micro_batch_size,
            self.gives_on,
            self.turn,
        )

    def activations(self, tokens_NT: Tensor) -> Tensor:
        """Activations at the hook point, float32, (N, T, D); no layer after it runs."""
        return self.activations_at([self.hook_name], tokens_NT)[0]

    @torch.inference_mode()
    def activations_at(self, hook_names: Sequence[str], tokens_NT: Tensor) -> list[Tensor]:
        """Activations at several hook points, from the same forwards to the deepest; each as `activations` has them.

        Raises:
            IndexError: the forward does not reach one of them.
        """
        at_once = self.micro_batch_size or len(tokens_NT)
        pieces = [self._captured(hook_names, piece_NT) for piece_NT in tokens_NT.split(at_once)]
        return pieces[0] if len(pieces) == 1 else [torch.cat(of_point) for of_point in zip(*pieces, strict=True)]

    def _captured(self, hook_names: Sequence[str], tokens_NT: Tensor) -> list[Tensor]:
        """Of one forward."""
        captured: dict[str, Tensor] = {}

        def capture_as(name: str) -> Callable[[Tensor, Any], Tensor]:
            def capture(value: Tensor, hook: Any) -> Tensor:
                captured[name] = self.given(value)
                if len(captured) == len(hook_names):
                    raise _HookPointReached
                captured[name] = captured[name].clone()  # a later layer may write where it reads
                return value

            return capture

        hooks = [(name, capture_as(name)) for name in hook_names]
        with suppress(_HookPointReached):
            self._forward(tokens_NT, hooks, return_type=None)
        missing = [name for name in hook_names if name not in captured]
        if missing:
            raise IndexError(f"never reached: {missing[0]}")
        return [captured[name] for name in hook_names]

    @torch.inference_mode()
    def logits(self, tokens_NT: Tensor, edit: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Output logits, float32, (N, T, V); `edit` maps the activation (N, T, D) to what takes its place."""

        def splice(value: Tensor, hook: Any) -> Tensor:
            assert edit is not None
            return edit(self.given(value)).to(value).reshape(value.shape)

        hooks = [] if edit is None else [(self.hook_name, splice)]
        return self._forward(tokens_NT, hooks, return_type="logits").to(self.device).float()

    def given(self, value: Tensor) -> Tensor:
        """What a hook point has, as activations (N, T, D) are given."""
        return value.flatten(2).to(self.gives_on).float()  # in the LM's dtype it is less to carry

    def _forward(self, tokens_NT: Tensor, hooks: list[tuple[str, Any]], return_type: str | None) -> Any:
        mean_NT = tokens_NT == MEAN_TOKEN
        with self.turn, self._embedded_as_mean(mean_NT) if bool(mean_NT.any()) else nullcontext():
            tokens_NT = tokens_NT.masked_fill(mean_NT, 0).to(self.device)
            return self.bridge.run_with_hooks(tokens_NT, fwd_hooks=hooks, return_type=return_type)

    @contextmanager
    def _embedded_as_mean(self, mean_NT: Tensor) -> Generator[None]:
        mean_D, mean_NT = self._mean_embedding, mean_NT.to(self.device)

        def put(module: nn.Module, args: Any, embedded_NTD: Tensor) -> Tensor:
            return torch.where(mean_NT[..., None], mean_D.to(embedded_NTD.dtype), embedded_NTD)

        handle = self.bridge.original_model.get_input_embeddings().register_forward_hook(put)
        try:
            yield
        finally:
            handle.remove()

    @cached_property
    def _mean_embedding(self) -> Tensor:
        """Over the vocabulary without special tokens, as the LM's embedding gives it, scaled where it scales."""
        ids_V = np.setdiff1d(np.arange(self.vocab_size), self.tokenizer.all_special_ids)
        embedding = self.bridge.original_model.get_input_embeddings()
        parts = [
            embedding(some_V[None].to(self.device))[0] for some_V in torch.from_numpy(ids_V).split(_EMBEDDED_AT_ONCE)
        ]
        sums = torch.stack([part.sum(0, dtype=torch.float64) for part in parts]).sum(0)
        return (sums / len(ids_V)).to(parts[0].dtype)

    def refuse_non_finite(self, x_BD: Tensor, tokens_NT: Tensor, kept_NT: Tensor) -> None:
        """Names the tokens behind the first NaN or infinity in activations at the kept positions.

        Raises:
            NonFiniteError: there is one.
        """
        if torch.isfinite(x_BD.sum()) or torch.isfinite(x_BD).all():
            return
        bad = int((~torch.isfinite(x_BD).all(1)).nonzero()[0])
        row, position = kept_NT.nonzero()[bad].tolist()
        ids = tokens_NT[row, max(0, position - 8) : position + 1].tolist()
        text = self.tokenizer.decode([token for token in ids if token != MEAN_TOKEN])
        raise NonFiniteError(
            f"NaN or infinity in the activations at {self.hook_name}, position {position} of the tokens "
            f"{text!r} (ids {ids}); expected finite numbers: try lm.dtype=float32 or another LM"
        )

    def refuse_if_spoiled(self) -> None:
        """Of an LM whose output layer is missing: a hook point in it has nothing to read.

        Raises:
            InputError: the hook point is there.
        """
        if not torch.isfinite(self.activations(torch.zeros((1, 2), dtype=torch.long))).all():
            raise InputError("lm.hook_name", self.hook_name, "a hook point before the output layer: this LM has none")

    def _find_d_in(self) -> int:
        known = self.bridge.hook_dict
        if self.hook_name not in known:
            near = difflib.get_close_matches(self.hook_name, known, n=3, cutoff=0.5)
            hint = "; near: " + ", ".join(near) if near else ""
            raise InputError("lm.hook_name", self.hook_name, f"a hook point such as {_an_example(known)}{hint}")
        tokens_NT = torch.zeros((2, 11), dtype=torch.long)  # unequal axes, so that they can be told apart
        try:
            x_NTD = self.activations(tokens_NT)
        except (IndexError, ValueError, AttributeError):  # never reached, switched off in the bridge, or no tensor
            raise InputError("lm.hook_name", self.hook_name, "a hook point that this LM's forward reaches") from None
        if x_NTD.shape[:2] != tokens_NT.shape:
            valid = (
                f"a hook point with one vector for each token (this one gives {tuple(x_NTD.shape)} for 2 x 11 tokens)"
            )
            raise InputError("lm.hook_name", self.hook_name, valid)
        return x_NTD.shape[2]


def _an_example(hook_names: dict[str, Any]) -> str:
    return next((name for name in hook_names if name.endswith("hook_resid_post")), next(iter(hook_names)))


def load_lm(
    name: str,
    hook_name: str,
    dtype: str = "float32",
    device: str = "cpu",
    tokenizer: Any = None,
    revision: str | None = None,
    *,
    gives_on: torch.device | None = None,
    device_map: str | None = None,
    micro_batch_size: int | None = None,
) -> LM:
    """Loads a hub name or local folder through `TransformerBridge`.

    Args:
        device: where it runs; nothing to an LM with a map.
        revision: of a hub name: a branch, tag or commit.
        gives_on: where it gives activations; None: where it runs.
        device_map: as `lm.device_map`.
        micro_batch_size: as of `LM`.

    Raises:
        InputError: no such checkpoint, an unsupported architecture, a weight that is missing, of another shape or not
            finite, or no such hook point.
    """
    folder = find_lm_folder(name, revision)
    read_lm_config(name, folder)
    tokenizer = tokenizer or load_tokenizer(name, revision)
    try:
        bridge, reader = _boot(name, folder, dtype, device, device_map)
    except InputError:
        raise
    except Exception as error:
        if is_of_memory(error):
            raise
        if device_map is not None:
            valid = f"a map and an LM that TransformerBridge reads ({shortened(error)})"
            raise InputError("lm.device_map", device_map, valid) from error
        raise InputError("lm.name", name, f"a checkpoint that TransformerBridge reads ({shortened(error)})") from error
    bridge.eval()
    bridge.requires_grad_(False)
    _refuse_ids_beyond(name, bridge, tokenizer)
    has_head = not reader.missing_head and type(bridge.original_model).__name__.endswith(_WITH_OUTPUT_LAYER)
    own = torch.device(device if device_map is None else bridge.cfg.device)  # of its embedding
    lm = LM(bridge, tokenizer, hook_name, own, has_head, micro_batch_size, gives_on)
    if reader.missing_head:
        lm.refuse_if_spoiled()
        what = f"no trained output layer ({reader.missing_head[0]} is not in its weights)"
        notice(f"{name} has {what}: metrics that need its predictions are left out")
    return lm


def _boot(name: str, folder: Path, dtype: str, device: str, device_map: str | None) -> tuple[Any, WeightReader]:
    readers: list[WeightReader] = []

    def reading(model_class: Any) -> WeightReader:
        readers.append(WeightReader(model_class, name))
        return readers[0]

    from transformers import AutoConfig

    check_sizes(name, folder, AutoConfig.from_pretrained(folder, trust_remote_code=False))
    where = {"device": device} if device_map is None else mapped(device_map)
    bridge = boot(folder, dtype, where, reading)
    return bridge, readers[0]


def _refuse_ids_beyond(name: str, bridge: Any, tokenizer: Any) -> None:
    """An embedding that is too small fails at the first token beyond it, long after the start."""
    rows = bridge.original_model.get_input_embeddings().num_embeddings
    special = special_tokens(tokenizer)
    ids = [tokenizer.vocab_size - 1, *special.prefix, *special.suffix, special.separator or 0]
    if max(ids) >= rows:
        valid = f"a tokenizer of this LM: token {max(ids)} is beyond its embedding of {rows} rows"
        raise InputError("lm.name", name, valid)
