"""W&B's server: whether it can be asked, and what our runs are called there. Light: no torch, no Lightning."""

import re
import socket
from urllib.parse import urlparse
from urllib.request import getproxies, proxy_bypass

_PATIENCE_SECONDS = 3.0


def wandb_id(group: str, run_id: str) -> str:
    """W&B takes letters, digits, `-`, `_` and `.` in ids, and no more than 128 of them."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", f"{group}-{run_id}")[-128:]


def log_in() -> tuple[str, bool]:
    """The server's URL, and whether somebody is logged in there; asks nobody for a key.

    Raises:
        Exception: whatever W&B raises; its errors have no common ancestor.
    """
    import wandb

    server = str(wandb.setup(wandb.Settings(silent=True)).settings.base_url)
    return server, wandb.login(prompt=False, verify=False)


def why_unreachable(server: str) -> str | None:
    """Of a server's URL, in a few words; None where it answers. W&B itself would try again for minutes."""
    address = urlparse(server)
    if getproxies().keys() & {address.scheme, "all"} and not proxy_bypass(address.hostname or ""):
        return None  # a look past the proxy would tell nothing
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=_PATIENCE_SECONDS).close()
    except OSError as error:
        return f"{address.hostname} cannot be reached ({error.strerror or error})"
    return None
