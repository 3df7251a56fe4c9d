"""How the runs of a sweep are doing, what their jobs print, and how to end some."""

import argparse
import sys
from pathlib import Path

from masked_sae.bundled import command_name, own_version

_KEYS = ("log", "follow", "cancel")
_USAGE = f"{command_name('status')} FOLDER [--watch] [--every SECONDS] [KEY=VALUE ...]"
_EPILOG = """key=value:
  log=RUN        what its jobs printed; follow=true goes on with it
  cancel=RUN     ends it with a checkpoint; the sweep's command goes on with it
RUN is a run's id, a part of it that no other run has, or all."""


def main() -> None:
    parser = argparse.ArgumentParser(
        usage=_USAGE,
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sweep", type=Path, help="a sweep's folder, such as runs/mask_rate")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help=argparse.SUPPRESS)
    parser.add_argument("--watch", action="store_true", help="refresh until every run has ended, or Ctrl-C")
    parser.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="between refreshes (5)")
    parser.add_argument("--version", action="version", version=f"masked-sae {own_version()}")
    arguments = parser.parse_args()
    from masked_sae.command_line import clear_errors
    from masked_sae.sweeps.status import show_status

    if not arguments.sweep.is_dir():
        sys.exit(f"error: {arguments.sweep}: expected a sweep's folder, such as runs/mask_rate")
    if not arguments.every > 0 or arguments.every == float("inf"):
        sys.exit(f"error: --every={arguments.every}: expected seconds, more than 0")
    settings = {key: value for key, _, value in (word.partition("=") for word in arguments.settings)}
    for key in settings:
        if key not in _KEYS:
            sys.exit(f"error: {key}: no such key; expected one of {', '.join(_KEYS)}")
    with clear_errors([]):
        if settings:
            _steer(arguments.sweep, settings)
        else:
            show_status(arguments.sweep, every=arguments.every if arguments.watch else None)


def _steer(sweep: Path, settings: dict[str, str]) -> None:
    from masked_sae.errors import InputError
    from masked_sae.sweeps.logs import show_log
    from masked_sae.sweeps.steering import cancel_members, find_members

    follow = settings.get("follow", "false")
    if follow not in ("true", "false") or ("follow" in settings and "log" not in settings):
        raise InputError("follow", follow, "true or false, beside log=RUN")
    if "cancel" in settings:
        cancel_members(sweep, find_members(sweep, "cancel", settings["cancel"]))
    if "log" in settings:
        for member in find_members(sweep, "log", settings["log"]):
            show_log(sweep, member, follow=follow == "true")
