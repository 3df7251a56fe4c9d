"""W&B through Lightning: offline where it must be, and never the end of a training."""

import os
import re
import socket
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import getproxies

from pytorch_lightning.loggers import WandbLogger

from masked_sae.config import WandbConfig

_PATIENCE_SECONDS = 3.0


class ForgivingWandbLogger(WandbLogger):
    """Logs to W&B until W&B fails, then warns once and falls silent."""

    def __init__(self, *, logged_until: int = 0, **settings: Any) -> None:
        super().__init__(**settings)
        self._wandb_init.pop("anonymous")  # Lightning always passes it, and W&B warns of it
        self.logged_until = logged_until  # steps that an earlier attempt has logged
        self._failed = False

    def begin(self) -> None:
        """Starts the W&B run; tokens are the x axis of everything."""

        def start() -> None:
            run = self.experiment
            run.define_metric("tokens", hidden=True)
            run.define_metric("*", step_metric="tokens")

        self._forgive(start)

    def metrics(self, values: Mapping[str, float]) -> None:
        """A sink for training metrics; each step is logged once, however often a run is resumed."""
        if values["step"] <= self.logged_until:
            return
        payload = {key if key == "tokens" else f"train/{key}": value for key, value in values.items() if key != "step"}

        def log() -> None:
            self.experiment.log(payload, step=int(values["step"]))

        self._forgive(log)

    def summarize(self, values: Mapping[str, float]) -> None:
        """Final metrics, into the run's summary."""

        def update() -> None:
            self.experiment.summary.update(dict(values))

        self._forgive(update)

    def finish(self, failed: bool) -> None:
        """Ends the W&B run, with what it has not yet written."""

        def finish() -> None:
            self.experiment.finish(exit_code=int(failed))

        self._forgive(finish)

    def _forgive(self, action: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            action()
        except Exception as error:  # noqa: BLE001 - whatever goes wrong in W&B, training goes on
            self._failed = True
            warnings.warn(f"W&B logging stops here, training goes on: {error}", stacklevel=3)


def make_wandb_logger(
    settings: WandbConfig, *, run_id: str, group: str, folder: Path, config: dict[str, Any], logged_until: int = 0
) -> ForgivingWandbLogger | None:
    """The run's logger, not yet begun; None where W&B is disabled.

    The W&B id follows from group and run id, so a run that is resumed goes on in the same W&B run, after the step
    `logged_until`; with 0 the W&B run starts over.
    """
    mode = _resolve(settings.mode)
    if mode == "disabled":
        return None
    os.environ.setdefault("WANDB_SILENT", "true")
    folder.mkdir(parents=True, exist_ok=True)
    return ForgivingWandbLogger(
        project=settings.project,
        entity=settings.entity,
        id=wandb_id(group, run_id),
        name=run_id,
        group=group,
        tags=list(settings.tags),
        save_dir=str(folder),
        config=config,
        mode=mode,
        resume="allow" if logged_until else None,  # None: overwrites a run of this id
        reinit="create_new",
        logged_until=logged_until,
    )


def wandb_id(group: str, run_id: str) -> str:
    """W&B takes letters, digits, `-`, `_` and `.` in ids, and no more than 128 of them."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", f"{group}-{run_id}")[-128:]


def _resolve(mode: str) -> str:
    if mode != "auto":
        return mode
    asked = os.environ.get("WANDB_MODE")
    if asked in ("online", "offline", "disabled"):
        return asked
    reason = _why_offline()
    if reason is None:
        return "online"
    print(f"W&B: offline, {reason}; `wandb sync` uploads the run later")
    return "offline"


def _why_offline() -> str | None:
    import wandb

    try:
        settings = wandb.setup(wandb.Settings(silent=True)).settings
        logged_in = wandb.login(prompt=False)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong in W&B, training goes on
        return f"as W&B refuses ({' '.join(str(error).split())})"
    if not logged_in:
        return "as nobody is logged in (`wandb login`)"
    if getproxies():
        return None  # a look past the proxy would tell nothing
    address = urlparse(settings.base_url)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=_PATIENCE_SECONDS).close()
    except OSError:
        return f"as {address.hostname} cannot be reached"
    return None
