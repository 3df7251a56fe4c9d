"""Which text is read, and how it becomes batches of activations: the keys under `data`."""

import os
from dataclasses import dataclass, field

from masked_sae import checks
from masked_sae.errors import InputError
from masked_sae.settings import neutral, setting

MOST_EPOCHS = 1e9
SOURCES = ("stdlib", "text", "hub", "synthetic")
CACHES = ("false", "true", "auto")
AHEAD = ("auto", "true", "false")


@dataclass(kw_only=True)
class DataSettings:
    source: str
    context_length: int = setting(unit="tokens")
    batch_size: int = setting(unit="activations")  # per SAE step
    train_tokens: int = setting(unit="activations")  # the SAE is trained on
    window_tokens: int = setting(unit="activations")  # held and shuffled at once
    scale_tokens: int = setting(unit="activations")  # from which scale and mean are estimated
    max_epochs: float
    validation_share: float  # of the documents
    store_dir: str
    path: list[str] = field(default_factory=list)  # source=text; source=synthetic: the LM's folder
    column: str = "text"  # source=text, hub
    name: str | None = None  # source=hub, with split and revision
    split: str = "train"
    revision: str | None = None
    seed: int | None = neutral(None)  # of order, token mask and shuffle; null: the run's
    ahead: str = "auto"  # whether the next window is made while this one is trained on: see AHEAD
    cache: str = "false"  # of activations on disk: see CACHES
    cache_dtype: str | None = neutral(None)  # of activations; null: the LM's
    cache_dir: str = ".cache/windows"
    cache_gib: float = setting(50.0, unit="GiB")  # of all that lies in cache_dir

    def check(self) -> None:
        """Refuses what cannot work, as far as the settings alone tell.

        Raises:
            InputError: of the first that is wrong.
        """
        checks.one_of("data.source", self.source, SOURCES)
        if self.source == "text" and not self.path:
            raise InputError(
                "data.path", self.path, "files, folders or globs of .txt, .md, .py, .jsonl or .parquet files"
            )
        if self.source == "synthetic" and len(self.path) != 1:
            raise InputError("data.path", self.path, "one folder, of a synthetic LM such as assets/ground_truth_lm")
        if self.source == "hub" and not self.name:
            raise InputError("data.name", self.name, "the name of a Hugging Face dataset")
        for name in self.path:
            checks.path("data.path", os.path.expanduser(name))  # noqa: PTH111
        checks.path("data.store_dir", self.store_dir)
        for key in ("column", "name", "split", "revision"):
            if getattr(self, key) is not None:
                checks.filled(f"data.{key}", getattr(self, key))
        checks.count("data.context_length", self.context_length, least=4, most=checks.MOST_AT_ONCE)
        checks.count(
            "data.batch_size", self.batch_size, least=2, most=checks.MOST_AT_ONCE
        )  # one activation has no variance to explain
        if self.train_tokens < self.batch_size:
            valid = f"at least one batch ({self.batch_size} activations)"
            raise InputError("data.train_tokens", self.train_tokens, valid)
        if self.window_tokens < self.batch_size:
            raise InputError("data.window_tokens", self.window_tokens, f"at least data.batch_size={self.batch_size}")
        for key in ("train_tokens", "window_tokens", "scale_tokens"):
            checks.count(f"data.{key}", getattr(self, key))
        if self.seed is not None:
            checks.seed("data.seed", self.seed)
        checks.one_of("data.ahead", self.ahead, AHEAD)
        checks.one_of("data.cache", self.cache, CACHES)
        if self.cache_dtype is not None:
            checks.one_of("data.cache_dtype", self.cache_dtype, checks.DTYPES)
        checks.path("data.cache_dir", self.cache_dir)
        checks.above("data.cache_gib", self.cache_gib, 0)
        checks.above("data.max_epochs", self.max_epochs, 0)
        checks.within("data.max_epochs", self.max_epochs, 0, MOST_EPOCHS)
        if not 0 < self.validation_share < 1:
            valid = "a share between 0 and 1, both excluded"
            raise InputError("data.validation_share", self.validation_share, valid)
