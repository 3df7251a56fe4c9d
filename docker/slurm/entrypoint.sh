#!/usr/bin/env bash
# Of the image masked-sae-slurm: runs a command beside the one-node SLURM.
set -euo pipefail
here=$(dirname "$0")
started=$("$here/start.sh" --env)
trap '"$here/stop.sh"' EXIT
eval "$started"
"$@"
