#!/usr/bin/env bash
# Runs a command in an image that docker/build.sh made, where there is no container engine. As root, which the command is not.
#   docker/run.sh [--OPTION=VALUE of buildah run]... IMAGE [COMMAND...]      the image's own command where none is given
set -euo pipefail

options=()
while [[ "${1:-}" == --*=* ]]; do
    options+=("$1")
    shift
done
if [ "$#" = 0 ]; then
    echo "run.sh: usage: run.sh [--volume=FOLDER:PLACE] [--env=NAME=VALUE] IMAGE [COMMAND...]" >&2
    exit 2
fi
container=$(buildah from --pull-never "$1")
shift
trap 'buildah rm "$container" >/dev/null' EXIT

# buildah's own `run` asks for a command, and starts it without the image's entry point.
words() { buildah inspect --format "{{range .OCIv1.Config.$1}}{{println .}}{{end}}" "$container" | sed '/^$/d'; }
mapfile -t entrypoint < <(words Entrypoint)
mapfile -t command < <(words Cmd)
if [ "$#" -gt 0 ]; then
    command=("$@")
fi
buildah run --isolation chroot "${options[@]}" "$container" -- "${entrypoint[@]}" "${command[@]}"
