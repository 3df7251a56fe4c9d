"""Which LM is read, and where: the keys under `lm`."""

import os
import re
from dataclasses import dataclass

from masked_sae import checks
from masked_sae.errors import InputError
from masked_sae.settings import neutral, setting

DEVICE_MAPS = ("auto", "balanced", "sequential")  # of the library that spreads it


@dataclass(kw_only=True)
class LMSettings:
    name: str
    hook_name: str
    dtype: str
    batch_size: int = setting(unit="sequences")  # per forward
    revision: str | None = None  # of a hub name: branch, tag or commit; it counts by what it leads to
    device: str | None = None  # null: where the SAEs train
    device_map: str | None = None  # over several GPUs: see DEVICE_MAPS, or their number
    micro_batch_size: int | None = neutral(None, unit="sequences")  # at one time in the LM; null: all of a forward

    def check(self) -> None:
        """Refuses what cannot work, as far as the settings alone tell.

        Raises:
            InputError: of the first that is wrong.
        """
        checks.one_of("lm.dtype", self.dtype, checks.DTYPES)
        checks.path("lm.name", os.path.expanduser(self.name))  # noqa: PTH111
        checks.filled("lm.hook_name", self.hook_name)
        if self.revision is not None:
            checks.filled("lm.revision", self.revision)
        if self.device is not None and not re.fullmatch(r"cpu|cuda(:(0|[1-9]\d?))?", self.device):
            raise InputError("lm.device", self.device, "cpu, cuda, a GPU's number as cuda:1, or null: with the SAEs")
        self._check_device_map()
        checks.count("lm.batch_size", self.batch_size, most=checks.MOST_AT_ONCE)
        if self.micro_batch_size is not None:
            checks.count("lm.micro_batch_size", self.micro_batch_size, most=checks.MOST_AT_ONCE)

    def at_once(self, sequences: int) -> int:
        """How many of these sequences the LM has in memory at one time."""
        return sequences if self.micro_batch_size is None else min(sequences, self.micro_batch_size)

    def _check_device_map(self) -> None:
        if self.device_map is None:
            return
        if self.device_map not in DEVICE_MAPS and not re.fullmatch(r"[2-9]|[1-9]\d", self.device_map):
            raise InputError("lm.device_map", self.device_map, f"one of {', '.join(DEVICE_MAPS)}, or 2 GPUs or more")
        if self.device is not None:
            raise InputError("lm.device_map", self.device_map, f"null beside lm.device={self.device}")
