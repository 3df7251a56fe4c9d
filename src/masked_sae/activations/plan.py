"""How a run's tokens fall into windows, batches and sequences."""

import math
from dataclasses import dataclass

from masked_sae.errors import InputError

_SPARE = 1.01  # sequences set aside for a window, as chance may keep fewer positions than expected


@dataclass(frozen=True)
class Plan:
    """The stream's arithmetic. `kept_share` is the expected share of content positions that reach the SAE."""

    batch_size: int
    batches_per_window: int
    sequences_per_window: int
    steps: int
    train_tokens: int  # as asked for

    @classmethod
    def make(
        cls, batch_size: int, window_tokens: int, train_tokens: int, content_length: int, kept_share: float
    ) -> "Plan":
        steps = train_tokens // batch_size
        batches = min(max(1, window_tokens // batch_size), steps)
        n_sequences = math.ceil(_SPARE * batches * batch_size / (content_length * kept_share))
        return cls(batch_size, batches, n_sequences, steps, train_tokens)

    @property
    def window_tokens(self) -> int:
        return self.batches_per_window * self.batch_size

    @property
    def windows(self) -> int:
        return math.ceil(self.steps / self.batches_per_window)

    @property
    def sequences(self) -> int:
        """How many sequences the whole run reads."""
        return self.windows * self.sequences_per_window

    def check_epochs(self, corpus_sequences: int, max_epochs: float) -> None:
        """Refuses a run that would read the corpus more often than allowed.

        Raises:
            InputError: says how many epochs it is, and how many tokens would do.
        """
        epochs = self.sequences / corpus_sequences
        if epochs > max_epochs:
            readable = int(corpus_sequences * max_epochs)
            batches = readable // self.sequences_per_window * self.batches_per_window
            if batches == 0:  # less than a window: then a shorter run has a smaller one
                batches = readable * self.batches_per_window // self.sequences_per_window
            valid = (
                f"at most {batches * self.batch_size} here: {self.train_tokens} would be {epochs:.2f} epochs of the "
                f"corpus, and data.max_epochs={max_epochs:g} allows no more"
            )
            raise InputError("data.train_tokens", self.train_tokens, valid)
