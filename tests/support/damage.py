"""What may befall a file: as hypothesis draws it."""

import os
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

OF_ANOTHER_TYPE = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b"[1]",
    b"3",
    b'"x"',
    b"1e999",
    b"[" * 50_000,
    b"\x00" * 64,
    b"\xff\xfe\xfd",
]


@dataclass(frozen=True)
class Damage:
    """Attributes:
    kind: `cut`, `flip`, `zeros`, `append`, `swap` or `gone`.
    at: where in the file, as a share of it.
    content: of `append`, and what it is swapped for.
    """

    kind: str
    at: float
    content: bytes

    def do(self, path: Path) -> None:
        """Damages the file, or takes it away."""
        if self.kind == "gone":
            path.unlink()
            return
        whole = path.read_bytes()
        place = min(int(self.at * len(whole)), max(0, len(whole) - 1))
        if self.kind == "swap":
            new = self.content
        elif self.kind == "append":
            new = whole + self.content
        elif self.kind == "cut" or not whole:
            new = whole[:place]
        elif self.kind == "flip":
            new = whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]
        else:
            new = whole[:place] + bytes(min(32, len(whole) - place)) + whole[place + 32 :]
        path.write_bytes(new)
        os.utime(path)


damages = st.builds(
    Damage,
    st.sampled_from(["cut", "flip", "zeros", "append", "swap", "gone"]),
    st.floats(0, 1),
    st.sampled_from(OF_ANOTHER_TYPE) | st.binary(max_size=40),
)
