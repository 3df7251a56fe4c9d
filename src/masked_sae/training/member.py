"""A member of a pack in training: what a step needs of it."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from masked_sae.activations.windows import Point
from masked_sae.runs.run import Run
from masked_sae.training.clock import TrainingClock
from masked_sae.training.sae_training import SAETraining


class Member(ABC):
    """Attributes:
    run, training: what is trained.
    point: where its batches come from.
    clock: its time.
    """

    run: Run
    training: SAETraining
    point: Point
    clock: TrainingClock

    @property
    def step(self) -> int:
        return self.training.step

    @property
    def steps(self) -> int:
        return self.training.schedule.steps

    @property
    @abstractmethod
    def has_ended(self) -> bool:
        """Whether it is done, or will not go on."""

    @property
    def is_training(self) -> bool:
        return not self.has_ended and self.step < self.steps

    @abstractmethod
    def fail(self, error: Exception) -> None:
        """Ends it, and no other."""

    def end(self) -> None:
        """Of a member whose folder another process has: it has ended there."""
        raise NotImplementedError

    @contextmanager
    def guarded(self) -> Generator[None]:
        """Around what is done for it: an error ends this member and no other."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever befalls one member, the others go on
            self.fail(error)

    @contextmanager
    def turn(self) -> Generator[None]:
        """As `guarded`, of its training: the time counts."""
        with self.guarded(), self.clock.own:
            yield


AnyMember = TypeVar("AnyMember", bound=Member)


def in_training(members: Sequence[AnyMember]) -> list[AnyMember]:
    """Those whose turn it is: of all that are not at their end, the ones that are the furthest behind."""
    behind = min((member.step for member in members if member.is_training), default=None)
    return [member for member in members if member.is_training and member.step == behind]
