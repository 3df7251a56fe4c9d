"""What a user did wrong or the disk did, said in one line."""

import sys
from pathlib import Path

_LONGEST_SHOWN = 300


class InputError(ValueError):
    """A value that cannot be used: names the key or place, the value, and what would be valid."""

    def __init__(self, key: str, value: object, valid: str) -> None:
        self.key = key
        self.value = value
        self.valid = " ".join(valid.split())  # other libraries' messages may have several lines
        super().__init__(f"{key}={shown(value)}: expected {self.valid}")

    def __reduce__(self) -> tuple[type["InputError"], tuple[str, object, str]]:
        return InputError, (self.key, self.value, self.valid)


class DamagedFileError(RuntimeError):
    """A file that is not what this project writes there: names the file and what is wrong with it."""

    def __init__(self, path: Path, why: str, mend: str = "") -> None:
        self.path, self.why, self.mend = path, " ".join(why.split()), mend
        super().__init__(f"{path} is damaged ({self.why})" + (f": {mend}" if mend else ""))

    def __reduce__(self) -> tuple[type["DamagedFileError"], tuple[Path, str, str]]:
        return DamagedFileError, (self.path, self.why, self.mend)


class NonFiniteError(RuntimeError):
    """A NaN or an infinity where numbers were expected: in activations, or in the loss."""


class ExhaustedError(RuntimeError):
    """Memory ran out: says what was being done, which settings help, and whether the run goes on with them."""


def notice(line: str) -> None:
    """Tells the user of something that was mended, or that a result depends on; not an error."""
    print(f"note: {printable(' '.join(line.split()))}", file=sys.stderr, flush=True)


def shown(value: object) -> str:
    """A value as a line can show it: without what a terminal would obey, and no longer than a few lines."""
    text = printable(str(value))
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def printable(text: str) -> str:
    """With control characters as they are written in Python."""
    return text if text.isprintable() else "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def first_line(error: BaseException) -> str:
    """Of what another library says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def one_line(error: BaseException) -> str:
    """All of it in a line, with the kind of error where that tells something."""
    text = " ".join(str(error).split()) or "no message"
    return text if isinstance(error, (ValueError, RuntimeError)) else f"{type(error).__name__}: {text}"
