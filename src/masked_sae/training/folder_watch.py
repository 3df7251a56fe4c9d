"""A run whose folder is deleted while it trains ends, instead of going on in a new one that lacks what came before."""

from pathlib import Path

from masked_sae.errors import DamagedFileError


class FolderWatch:
    """Tells whether the folder is still the one that was there when this was made."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._inode = self._inode_now()

    def refuse_another(self) -> None:
        """Raises:
        DamagedFileError: the folder is gone, or another is in its place.
        """
        if self._inode is None or self._inode_now() != self._inode:
            raise DamagedFileError(self._folder, "deleted while the run was at work in it", "start the run again")

    def _inode_now(self) -> int | None:
        try:
            return self._folder.stat().st_ino
        except FileNotFoundError:
            return None
