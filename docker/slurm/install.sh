#!/usr/bin/env bash
# Install what the one-node SLURM needs (Debian and Ubuntu). Safe to run again.
set -euo pipefail

# slurmctld, slurmd and slurm-client rather than slurm-wlm: the same programs
# without the mail and documentation packages.
packages=(slurmctld slurmd slurm-client munge)

# The daemons are in sbin, which is not in every user's PATH.
PATH=$PATH:/usr/sbin:/sbin

missing=0
for program in munged slurmctld slurmd sbatch; do
    command -v "$program" >/dev/null || missing=1
done
if [ "$missing" = 0 ]; then
    echo "install.sh: already installed: $(slurmd -V)"
    exit 0
fi

sudo=()
if [ "$(id -u)" != 0 ]; then
    sudo=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
"${sudo[@]}" apt-get update -qq
"${sudo[@]}" apt-get install -y -qq --no-install-recommends "${packages[@]}"
echo "install.sh: installed: $(slurmd -V)"
