"""An LM and a hook point: tokens in, activations out.

Axes: N sequences, T positions, D `d_in`, V vocabulary.
"""

import difflib
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential
from torch import Tensor

from masked_sae.errors import InputError

Objective = Literal["causal", "masked"]
NAMED_REPLACEMENTS = ("bos", "eos", "pad", "unk", "mask", "random")


@dataclass(frozen=True)
class SpecialTokens:
    """How the LM's tokenizer frames a sequence: its activations at these positions are never used."""

    prefix: tuple[int, ...]  # put before every sequence
    suffix: tuple[int, ...]  # put after every sequence
    separator: int | None  # ends a document inside the token store
    ids: tuple[int, ...]  # every special token


class _HookPointReached(Exception):
    """Ends a forward at the hook point: the layers after it are not needed."""


class LM:
    """A language model read at one hook point.

    `activations` stops the forward there; `logits` runs it to the end, with the activation replaced if asked.
    """

    def __init__(self, bridge: Any, tokenizer: Any, hook_name: str, device: torch.device, has_head: bool) -> None:
        self.bridge = bridge
        self.tokenizer = tokenizer
        self.hook_name = hook_name
        self.device = device
        self._has_head = has_head
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

    @torch.inference_mode()
    def activations(self, tokens_NT: Tensor) -> Tensor:
        """Activations at the hook point, float32, (N, T, D); no layer after it runs."""
        captured: list[Tensor] = []

        def capture(value: Tensor, hook: Any) -> Tensor:
            captured.append(value)
            raise _HookPointReached

        with suppress(_HookPointReached):
            self.bridge.run_with_hooks(
                tokens_NT.to(self.device), fwd_hooks=[(self.hook_name, capture)], return_type=None
            )
        return captured[0].flatten(2).float()

    @torch.inference_mode()
    def logits(self, tokens_NT: Tensor, edit: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Output logits, float32, (N, T, V); `edit` maps the activation (N, T, D) to what takes its place."""

        def splice(value: Tensor, hook: Any) -> Tensor:
            assert edit is not None
            return edit(value.flatten(2).float()).to(value.dtype).reshape(value.shape)

        hooks = [] if edit is None else [(self.hook_name, splice)]
        logits_NTV = self.bridge.run_with_hooks(tokens_NT.to(self.device), fwd_hooks=hooks, return_type="logits")
        return logits_NTV.float()

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


def special_tokens(tokenizer: Any) -> SpecialTokens:
    """Reads from the tokenizer what it puts around a text; one that adds nothing gets its BOS, if it has one."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    framed = tokenizer("a", add_special_tokens=True)["input_ids"]
    start = next(i for i in range(len(framed)) if framed[i : i + len(bare)] == bare)
    prefix, suffix = framed[:start], framed[start + len(bare) :]
    if not prefix and tokenizer.bos_token_id is not None:
        prefix = [tokenizer.bos_token_id]
    separators = (tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.bos_token_id)
    separator = next((token for token in separators if token is not None), None)
    return SpecialTokens(tuple(prefix), tuple(suffix), separator, tuple(sorted(set(tokenizer.all_special_ids))))


def replacement_id(tokenizer: Any, replacement: str) -> int | None:
    """The token id that masking writes; None stands for random vocabulary tokens.

    Raises:
        InputError: the tokenizer has no such token.
    """
    if replacement == "random":
        return None
    if replacement in NAMED_REPLACEMENTS:
        token = getattr(tokenizer, f"{replacement}_token_id")
        if token is None:
            has = [n for n in NAMED_REPLACEMENTS[:-1] if getattr(tokenizer, f"{n}_token_id") is not None]
            valid = f"a token that this tokenizer has: {', '.join([*has, 'random'])}, or one of its vocabulary"
            raise InputError("mask.token.replacement", replacement, valid)
        return token
    if replacement in tokenizer.get_vocab():
        return tokenizer.convert_tokens_to_ids(replacement)
    ids = tokenizer(replacement, add_special_tokens=False)["input_ids"]
    if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
        return ids[0]
    valid = f"one of {', '.join(NAMED_REPLACEMENTS)}, or a single token of the vocabulary (this is {len(ids)} tokens)"
    raise InputError("mask.token.replacement", replacement, valid)


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a hub name or local folder, before any bridge has changed it."""
    from transformers import AutoTokenizer

    folder = find_checkpoint(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, clean_up_tokenization_spaces=False)
    except (OSError, ValueError) as error:
        raise InputError("lm.name", name, f"a checkpoint with a tokenizer ({_first_line(error)})") from error
    if not tokenizer("a", add_special_tokens=False)["input_ids"]:  # made up from the configuration, without vocabulary
        raise InputError("lm.name", name, "a checkpoint with a tokenizer: this folder holds none")
    return tokenizer


def load_lm(name: str, hook_name: str, dtype: str = "float32", device: str = "cpu", tokenizer: Any = None) -> LM:
    """Loads a hub name or local folder through `TransformerBridge`.

    Raises:
        InputError: no such checkpoint, no weights, an unsupported architecture, or no such hook point.
    """
    import logging

    from safetensors import SafetensorError
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoConfig
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.getLogger().setLevel(logging.WARNING)
    folder = find_checkpoint(name)
    try:
        architectures = AutoConfig.from_pretrained(folder).architectures or [""]
        bridge = TransformerBridge.boot_transformers(str(folder), dtype=getattr(torch, dtype), device=device)
    except (OSError, ValueError, KeyError, RuntimeError, NotImplementedError, SafetensorError) as error:
        raise InputError(
            "lm.name", name, f"a checkpoint that TransformerBridge reads ({_first_line(error)})"
        ) from error
    bridge.eval()
    bridge.requires_grad_(False)
    has_head = architectures[0].endswith(("ForCausalLM", "LMHeadModel", "ForMaskedLM"))
    return LM(bridge, tokenizer or load_tokenizer(name), hook_name, torch.device(device), has_head)


def find_checkpoint(name: str) -> Path:
    """The folder of a checkpoint: a local one as it is, a hub name's after its download.

    Raises:
        InputError: the folder lacks weights or a configuration, or the hub cannot be reached.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        for pattern in ("config.json", "*.safetensors"):
            if not any(folder.glob(pattern)):
                what = "weights (*.safetensors)" if pattern.startswith("*") else pattern
                raise InputError("lm.name", name, f"a Hugging Face checkpoint: this folder holds no {what}")
        return folder.resolve()
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError("lm.name", name, "a folder that exists, or a hub name such as EleutherAI/pythia-70m-deduped")
    return _download(name)


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    patterns = ["*.json", "*.safetensors", "*.txt", "*.model"]

    @retry(
        retry=retry_if_exception_type((LocalEntryNotFoundError, ConnectionError, TimeoutError)),
        stop=stop_after_attempt(1 if os.environ.get("HF_HUB_OFFLINE") == "1" else 3),
        wait=wait_exponential(max=4),
        reraise=True,
    )
    def fetch() -> str:
        return snapshot_download(name, allow_patterns=patterns)

    try:
        return Path(fetch())
    except GatedRepoError:
        raise InputError(
            "lm.name", name, "an LM you have access to: accept its licence, then `hf auth login`"
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise InputError("lm.name", name, "a local folder, or a name that the hub has") from None
    except (OSError, LocalEntryNotFoundError):
        valid = (
            "a hub that can be reached, or a local folder: where there is network, run "
            f"`hf download {name} --local-dir DIR`, copy DIR here and set lm.name=DIR"
        )
        raise InputError("lm.name", name, valid) from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
