"""Which text is read, and how it becomes batches of activations: the keys under `data`."""

from dataclasses import dataclass, field

from masked_sae import checks
from masked_sae.errors import InputError
from masked_sae.settings import setting

SOURCES = ("stdlib", "text", "hub", "synthetic")


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

    def check(self) -> None:
        """Refuses what cannot work, as far as the settings alone tell.

        Raises:
            InputError: of the first that is wrong.
        """
        checks.one_of("data.source", self.source, SOURCES)
        if self.source == "text" and not self.path:
            raise InputError("data.path", self.path, "files, folders or globs of .txt, .jsonl or .parquet files")
        if self.source == "synthetic" and len(self.path) != 1:
            raise InputError("data.path", self.path, "one folder, of a synthetic LM such as assets/ground_truth_lm")
        if self.source == "hub" and not self.name:
            raise InputError("data.name", self.name, "the name of a Hugging Face dataset")
        checks.at_least("data.context_length", self.context_length, 4)
        checks.at_least("data.batch_size", self.batch_size, 2)  # one activation has no variance to explain
        if self.train_tokens < self.batch_size:
            valid = f"at least one batch ({self.batch_size} activations)"
            raise InputError("data.train_tokens", self.train_tokens, valid)
        if self.window_tokens < self.batch_size:
            raise InputError("data.window_tokens", self.window_tokens, f"at least data.batch_size={self.batch_size}")
        checks.at_least("data.scale_tokens", self.scale_tokens, 1)
        checks.above("data.max_epochs", self.max_epochs, 0)
        if not 0 < self.validation_share < 1:
            valid = "a share between 0 and 1, both excluded"
            raise InputError("data.validation_share", self.validation_share, valid)
