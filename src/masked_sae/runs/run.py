"""A run: what it is, where it lies, and what it was named for.

It is made once, where a command starts, and carried from there: to the training, to the node of a cluster, to the table
of results.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masked_sae.activations.sharing import Sharing, sharing
from masked_sae.config import RunConfig, check
from masked_sae.errors import InputError
from masked_sae.evals.texts.task_settings import check_tasks
from masked_sae.lm_files import lm_digest
from masked_sae.masks.run_masks import kept_share, make_masks
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.identity import Digests, run_id
from masked_sae.runs.initial import initial_digest
from masked_sae.runs.sweep_record import Member
from masked_sae.settings import own_modules, without_neutral
from masked_sae.text.corpus import Corpus, find_corpus, tokens_needed
from masked_sae.text.tokenizer import load_tokenizer, tokenizer_digest


@dataclass(frozen=True)
class Inputs:
    """What a run reads, found on this machine."""

    corpus: Corpus
    tokenizer: Any
    weights: str  # their digest


@dataclass(frozen=True)
class Run(Member):
    """Attributes:
    config: the whole of it.
    named_for: the text, tokenizer and weights that were there when it was named; None where the run was found in its
        folder, or is an SAE from elsewhere.
    origin: an SAE from elsewhere: the folder that it lies in.
    on_record: the configuration as a folder has it, of a run that was found there.
    shares: what decides which runs can be trained from the same forwards; None where the run was not made to be
        trained.
    """

    config: RunConfig
    named_for: Digests | None = None
    origin: Path | None = None
    on_record: Mapping[str, Any] | None = None
    shares: Sharing | None = None

    @property
    def settings(self) -> Mapping[str, Any]:
        """The configuration as plain values, for files and W&B."""
        return without_neutral(self.config) if self.on_record is None else self.on_record

    @property
    def sae(self) -> Path:
        """The folder of its SAE, once there is one."""
        return self.origin or self.folder.sae


def make_run(config: RunConfig, swept: Mapping[str, str]) -> Run:
    """Checks what the configuration, the tokenizer and the files tell, and names the run.

    Args:
        swept: the keys that a sweep varies, with this run's values; none of a run that stands alone.

    Raises:
        InputError: see `config.check`; or the tokenizer lacks the token of a mask that is on, or the text, or the run
            that it begins with, is not there.
    """
    check(config)
    check_tasks(config.eval.tasks)
    inputs = find_inputs(config)
    masks = make_masks(config.mask, inputs.tokenizer, config.seed, config.data_seed)
    read = digests_of(config, inputs)
    folder = Path(config.output_dir).expanduser() / config.name / run_id(config, swept, read)
    text_masks = {name: config.mask[name] for name in masks.on_text.named}
    modules = [read.modules.get(f"mask.{name}._module_") for name in text_masks]
    contents = [read.text, read.tokenizer, read.weights, modules]
    precision = without_neutral(config.trainer).get("matmul_precision")
    shares = sharing(config.lm, config.data, text_masks, config.data_seed, contents, read.initial, precision)
    return Run(RunFolder(folder), swept, config, read, shares=shares)


def find_inputs(config: RunConfig) -> Inputs:
    """The text, the tokenizer and the weights that a configuration names, as they are here and now.

    Raises:
        InputError: one of them is not there.
    """
    lm, memory, progress = config.lm, config.digest_memory, config.trainer.progress
    tokenizer = load_tokenizer(lm.name, lm.revision)
    corpus = find_corpus(config.data, tokens_needed(config.data, kept_share(config.mask)), memory, progress=progress)
    return Inputs(corpus, tokenizer, lm_digest(lm.name, lm.revision, memory, progress=progress))


def digests_of(config: RunConfig, inputs: Inputs) -> Digests:
    """Of what a run reads, the user's own modules included, which are imported."""
    modules = {key: digest for key, (_, digest) in own_modules(config).items()}
    tokenizer = tokenizer_digest(inputs.tokenizer)
    return Digests(inputs.corpus.content, tokenizer, inputs.weights, modules, initial_digest(config))


def find_inputs_of(run: Run) -> Inputs:
    """As `find_inputs`, for a run that is to be trained: on nothing else than it was named for.

    Raises:
        InputError: one of them is not there, or another than when the run was named.
    """
    inputs = find_inputs(run.config)
    found = digests_of(run.config, inputs)
    if run.named_for is None or run.named_for == found:
        return inputs
    lm = ("lm.name", run.config.lm.name)
    then, now = _flat(run.named_for), _flat(found)
    which = next(name for name in {**then, **now} if then.get(name) != now.get(name))
    named_by = {
        "text": inputs.corpus.origin, "tokenizer": lm, "weights": lm, "run": ("init_from", run.config.init_from)
    }  # fmt: skip
    key, value = named_by.get(which, (which, "its module"))
    what = which if which in named_by else "module"
    digests = f"digest {then.get(which)}; here it is {now.get(which)}"
    raise InputError(key, value, f"the {what} that {run.folder.run_id} was named for ({digests})")


def _flat(digests: Digests) -> dict[str, str]:
    initial = {} if digests.initial is None else {"run": digests.initial}
    return {
        "text": digests.text, "tokenizer": digests.tokenizer, "weights": digests.weights, **initial, **digests.modules
    }  # fmt: skip
