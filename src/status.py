"""`python -m src.status FOLDER`: how the runs of a sweep are doing, read from their folders alone."""

import argparse
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m src.status", description=__doc__)
    parser.add_argument("sweep", type=Path, help="a sweep's folder, such as runs/mask_rate")
    parser.add_argument("--watch", action="store_true", help="refresh until every run has ended, or Ctrl-C")
    parser.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="between refreshes (5)")
    arguments = parser.parse_args()
    from masked_sae.command_line import clear_errors
    from masked_sae.sweeps.status import show_status

    if not arguments.sweep.is_dir():
        sys.exit(f"error: {arguments.sweep}: expected a sweep's folder, such as runs/mask_rate")
    if not arguments.every > 0 or arguments.every == float("inf"):
        sys.exit(f"error: --every={arguments.every}: expected seconds, more than 0")
    with clear_errors([]):
        show_status(arguments.sweep, every=arguments.every if arguments.watch else None)


if __name__ == "__main__":
    main()
