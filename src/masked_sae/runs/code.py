"""The code that a run is trained with: a digest of it, and whether a run that goes on was begun with another."""

import hashlib
from functools import cache
from pathlib import Path

from masked_sae.bundled import PACKAGE
from masked_sae.errors import DamagedFileError, InputError
from masked_sae.runs.attempts import read_attempts
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.state import read_state

# Rooms that carry runs and look at them: no result comes from there.
_ONLY_LOOK_ON = ("api", "commands", "publishing", "latents", "report", "tracking", "sweeps")


@cache
def code_digest() -> str:
    """Of the code that runs here."""
    return digest_of_code(PACKAGE)


def digest_of_code(package: Path) -> str:
    """Of what training and measuring are made of in a copy of this package."""
    digest = hashlib.blake2b(digest_size=16)
    for source in sorted(package.rglob("*.py")):
        name = source.relative_to(package)
        if name.parts[0] not in _ONLY_LOOK_ON:
            digest.update(f"{name.as_posix()}\0".encode() + source.read_bytes() + b"\0")
    return digest.hexdigest()


def bound_code(folder: RunFolder) -> str | None:
    """Digest of the code that a run would go on with: that of its latest attempt. None of a run that is to begin, that
    is done and only measured, or whose attempts are older than such digests.
    """
    if not folder.checkpoints.exists() or _is_done(folder):
        return None
    noted = [attempt.code for attempt in read_attempts(folder.attempts)]
    return noted[-1] or None if noted else None


def _is_done(folder: RunFolder) -> bool:
    try:
        state = read_state(folder.state)
    except DamagedFileError:
        return False
    return state is not None and state.status == "done"


def refuse_other_code(folder: RunFolder, code: str) -> None:
    """Stops a run that would go on with other code than it has been trained with, unless that is asked for.

    Args:
        code: `code` of the configuration.

    Raises:
        InputError: names what would ask for it.
    """
    bound = bound_code(folder)
    if code == "submitted" and bound not in (None, code_digest()):
        raise InputError("code", code, other_code(folder, bound))


def other_code(folder: RunFolder, bound: str | None) -> str:
    """What `code` would have to be, and why."""
    return (
        f"current, to go on with today's code: {folder.run_id} has been trained with other code (digest {bound}; "
        f"today's is {code_digest()})"
    )
