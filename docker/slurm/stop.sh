#!/usr/bin/env bash
# Stop the one-node SLURM and its jobs, and forget its state.
#   stop.sh           keeps the logs
#   stop.sh --purge   removes the whole folder
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$here/common.sh"

case "${1:-}" in
    "" | --purge) ;;
    *) die "usage: stop.sh [--purge]" ;;
esac
if [ ! -e "$dir/$marker" ]; then
    say "nothing to stop in $dir"
    exit 0
fi
[ -O "$dir" ] || die "$dir belongs to another user"
export SLURM_CONF=$conf

queue_empty() { [ -z "$(timeout 5 squeue --noheader 2>/dev/null)" ]; }
gone() { ! pid_of "$1" >/dev/null; }

# Jobs outlive slurmd (so that it can be restarted under them), so end them first.
if pid_of slurmctld >/dev/null && pid_of slurmd >/dev/null; then
    for state in RUNNING PENDING SUSPENDED; do
        timeout 10 scancel --state="$state" 2>/dev/null || true
    done
    wait_until 20 queue_empty || say "some jobs did not end within 20 s"
fi

# munged last: the others need it to speak to each other.
for daemon in slurmctld slurmd munged; do
    pid=$(pid_of "$daemon") || continue
    kill "$pid"
    if ! wait_until 10 gone "$daemon"; then
        say "$daemon did not stop within 10 s, killing it"
        kill -KILL "$pid"
    fi
done

rm -rf "${dir:?}"/{run,state,spool,munge.key,slurm.conf,cgroup.conf}
if [ "${1:-}" = --purge ]; then
    rm -rf "${dir:?}"/{log,"$marker"}
    rmdir "$dir" || say "$dir holds other files, left in place"
fi
say "stopped"
