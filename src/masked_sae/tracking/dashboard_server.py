"""What passes between a workspace and W&B's server; nothing heavy is imported but W&B itself."""

import os
from typing import TYPE_CHECKING, Any

import wandb

from masked_sae.errors import InputError
from masked_sae.tracking.server import log_in, why_unreachable

if TYPE_CHECKING:
    import wandb_workspaces.workspaces as ws


def connect() -> str | None:
    """Makes sure that W&B can be asked.

    Returns:
        The entity of whoever is logged in.

    Raises:
        InputError: W&B is switched off, nobody is logged in, or the server cannot be reached.
    """
    mode = os.environ.get("WANDB_MODE")
    if mode in ("offline", "disabled"):
        raise InputError("WANDB_MODE", mode, "online; dry_run=true shows the workspace without a server")
    os.environ.setdefault("WANDB_SILENT", "true")
    server = os.environ.get("WANDB_BASE_URL", "")
    try:
        server, logged_in = log_in()
        reason = why_unreachable(server) if logged_in else None
        entity = wandb.Api().default_entity if logged_in and reason is None else None
    except Exception as error:  # W&B has many, without a common ancestor
        raise InputError("WANDB_BASE_URL", server, f"a W&B server that knows your login: {error}") from error
    if not logged_in:
        raise InputError("WANDB_BASE_URL", server, "a W&B server where you are logged in; do so with `wandb login`")
    if reason is not None:
        raise InputError("WANDB_BASE_URL", server, f"a W&B server that answers: {reason}")
    return entity


def save(workspace: "ws.Workspace") -> str:
    """Saves it as a new view beside those there are.

    Returns:
        Its URL.

    Raises:
        InputError: W&B refuses.
    """
    if not workspace.entity:
        raise InputError("entity", "null", "the W&B user or team that owns the project")
    try:
        workspace.save()
    except Exception as error:  # as above
        where = f"{workspace.entity}/{workspace.project}"
        raise InputError("project", where, f"a W&B project of this entity that you may change: {error}") from error
    return workspace.url


def specification(workspace: "ws.Workspace") -> dict[str, Any]:
    """What the server would get, as JSON."""
    view = workspace._to_model()  # pyright: ignore[reportPrivateUsage] - the library shows it in no other way
    return view.model_dump(mode="json", by_alias=True, exclude_none=True)
