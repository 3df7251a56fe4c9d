# shellcheck shell=bash disable=SC2034 # variables are used by the scripts that source this
# Sourced by start.sh and stop.sh: where things are, and who is running.

# The daemons are in sbin, which is not in every user's PATH.
PATH=$PATH:/usr/sbin:/sbin

# Not under $HOME: munged wants every folder above its socket to be open to all,
# and a home folder often is not. The path must also stay short (a socket).
dir=${MASKED_SAE_SLURM_DIR:-/tmp/masked-sae-slurm-$(id -u)}
# The path as the daemons will see it: absolute, without links.
dir=$(realpath --canonicalize-missing "$dir")
conf=$dir/slurm.conf
# In a folder without this file nothing is started and nothing removed.
marker=.masked-sae-slurm
name=$(basename "$0")

say() { echo "$name: $*" >&2; }

die() {
    say "$*"
    exit 1
}

# Print the pid of a daemon of this cluster, or fail. A pid file may be older than
# the last reboot, and a daemon that nobody waited for stays as a zombie, so its
# command line must name our folder (a zombie's is empty).
pid_of() {
    local pid
    pid=$(cat "$dir/run/$1.pid" 2>/dev/null) || return 1
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$1" ] || return 1
    grep -qaF "$dir/" "/proc/$pid/cmdline" 2>/dev/null || return 1
    echo "$pid"
}

# wait_until SECONDS COMMAND...: true as soon as the command is.
wait_until() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.3
    done
}
