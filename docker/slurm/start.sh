#!/usr/bin/env bash
# Start the one-node SLURM, or do nothing where it already runs.
#   start.sh         start, then print the line that a shell needs
#   start.sh --env   the same, with only that line on stdout: eval "$(start.sh --env)"
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$here/common.sh"

case "${1:-}" in
    "" | --env) ;;
    *) die "usage: start.sh [--env]" ;;
esac

for program in munged slurmctld slurmd sbatch; do
    command -v "$program" >/dev/null ||
        die "$program is missing: run apt-get install --no-install-recommends slurmctld slurmd slurm-client munge (or install.sh)"
done

export SLURM_CONF=$conf

print_env() { printf 'export SLURM_CONF=%q\n' "$conf"; }

node_idle_or_busy() {
    local state
    state=$(timeout 5 sinfo --noheader --format=%T --partition=normal 2>/dev/null) || return 1
    case "$state" in
        idle | mixed | allocated | completing) return 0 ;;
        *) return 1 ;;
    esac
}

# fail DAEMON WHAT: one clear line, then the end of that daemon's log.
fail() {
    say "$1 $2; the end of $dir/log/$1.log:"
    tail -n 15 "$dir/log/$1.log" >&2 || true
    exit 1
}

signal=${MASKED_SAE_SLURM_PREEMPT_SIGNAL:-}
case "$signal" in
    "" | user | term) ;;
    *) die "MASKED_SAE_SLURM_PREEMPT_SIGNAL must be user or term, not '$signal'" ;;
esac

if pid_of slurmctld >/dev/null && pid_of slurmd >/dev/null && pid_of munged >/dev/null; then
    if [ -n "$signal" ] && ! grep -qx "# preempt signal: $signal" "$conf"; then
        die "already running with the other preempt signal; run stop.sh first"
    fi
    wait_until 30 node_idle_or_busy || fail slurmctld "runs, but the node does not answer"
    say "already running in $dir"
    print_env
    exit 0
fi

# Munge refuses folders that others could write to, whatever the umask says.
umask 022
[ ! -e "$dir" ] || [ -O "$dir" ] || die "$dir belongs to another user; set MASKED_SAE_SLURM_DIR"
if [ -n "$(ls -A "$dir" 2>/dev/null)" ] && [ ! -e "$dir/$marker" ]; then
    die "$dir holds other files; set MASKED_SAE_SLURM_DIR to a new folder"
fi
mkdir -p "$dir"/{run,log,state,spool}
touch "$dir/$marker"
[ "${#dir}" -le 80 ] || die "$dir is too long for a socket path; set MASKED_SAE_SLURM_DIR"

host=$(hostname -s)
signal=${signal:-user}
if [ "$signal" = user ]; then
    parameter=preempt_send_user_signal
    note="A preempted job first gets its own --signal (SIGTERM where it asked for none)."
else
    parameter=
    note="A preempted job first gets SIGTERM, whatever its --signal says."
fi

text=$(<"$here/slurm.conf.in")
fill() { text=${text//"@$1@"/$2}; }
fill HOST "$host"
fill USER "$(id -un)"
fill DIR "$dir"
fill CTLD_PORT "${MASKED_SAE_SLURM_CTLD_PORT:-26817}"
fill SLURMD_PORT "${MASKED_SAE_SLURM_SLURMD_PORT:-26818}"
fill CPUS "${MASKED_SAE_SLURM_CPUS:-$(nproc)}"
fill ARRAY "${MASKED_SAE_SLURM_ARRAY:-1001}"
fill MEMORY "$(awk '/^MemTotal/ {print int($2 / 1024)}' /proc/meminfo)"
fill FIRST_JOB "$(($(date +%s) % 60000000))" # ids end at 67 million
fill PREEMPT_SIGNAL "$signal"
fill PREEMPT_PARAMETER "$parameter"
fill PREEMPT_NOTE "$note"
fill GRACE "${MASKED_SAE_SLURM_GRACE:-10}"
# An empty parameter list is left out: SLURM would take the next line for it.
sed '/^SlurmctldParameters=$/d' <<<"$text" >"$conf"
# slurmd looks for a cgroup plugin even where nothing uses one. v1 asks nothing of
# the machine; v2, which it might choose by itself, wants systemd and root.
echo "CgroupPlugin=cgroup/v1" >"$dir/cgroup.conf"

if ! pid_of munged >/dev/null; then
    if [ ! -s "$dir/munge.key" ]; then
        (umask 077 && head -c 128 /dev/urandom >"$dir/munge.key")
    fi
    rm -f "$dir"/run/munge.socket*
    # --force: a folder of $HOME that is closed to others becomes a warning.
    munged --force --socket="$dir/run/munge.socket" --key-file="$dir/munge.key" \
        --pid-file="$dir/run/munged.pid" --log-file="$dir/log/munged.log" \
        --seed-file="$dir/run/munged.seed" 2>>"$dir/log/munged.log" ||
        fail munged "did not start"
fi

# Started from the log folder: that is where a daemon that crashes leaves its core.
if ! pid_of slurmctld >/dev/null; then
    (cd "$dir/log" && slurmctld -f "$conf") 2>>"$dir/log/slurmctld.log" ||
        fail slurmctld "did not start"
    wait_until 10 pid_of slurmctld >/dev/null || fail slurmctld "did not start"
fi
if ! pid_of slurmd >/dev/null; then
    (cd "$dir/log" && slurmd -f "$conf" -N "$host") 2>>"$dir/log/slurmd.log" ||
        fail slurmd "did not start"
    wait_until 10 pid_of slurmd >/dev/null || fail slurmd "did not start"
fi
# Either may still end just after its start, where its port is taken for one.
ready_or_dead() { ! pid_of slurmctld >/dev/null || ! pid_of slurmd >/dev/null || node_idle_or_busy; }
wait_until 30 ready_or_dead || fail slurmctld "runs, but the node is not idle after 30 s"
for daemon in slurmctld slurmd; do
    pid_of "$daemon" >/dev/null || fail "$daemon" "ended right after its start"
done

say "running in $dir (preempt signal: $signal)"
print_env
