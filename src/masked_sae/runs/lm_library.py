"""The LM library's version: whether a run goes on with another major one than it has been trained with."""

from importlib.metadata import version

from masked_sae.errors import notice
from masked_sae.runs.attempts import read_attempts
from masked_sae.runs.folder import RunFolder

_LM_LIBRARY = "transformer-lens"


def tell_of_other_lm_library(folder: RunFolder) -> None:
    """Says so where a run goes on with another major version than its latest attempt had. Where a hook point stands in
    the forward, and so what is read there, may change between them.
    """
    noted = [attempt.software.versions.get(_LM_LIBRARY, "") for attempt in read_attempts(folder.attempts)]
    before, here = noted[-1] if noted else "", version(_LM_LIBRARY)
    if before and _major(before) != _major(here):
        notice(
            f"{folder.run_id} goes on with {_LM_LIBRARY} {here}, but has been trained with {before}: activations at "
            "its hook point may not be the same in both"
        )


def _major(version: str) -> str:
    return version.partition(".")[0]
