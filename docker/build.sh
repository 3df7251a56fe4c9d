#!/usr/bin/env bash
# Builds docker/Dockerfile where there is no container engine: with Debian's buildah, over a Debian made by debootstrap. As root.
#   docker/build.sh [train|slurm]...      both where none is named; makes localhost/masked-sae-TARGET:TAG
# From the environment:
#   DEVICE        cpu or cuda
#   TAG           DEVICE, where it is not set
#   BASE          an image of a registry instead of the Debian made here
#   MIRROR        of Debian, for that one
#   TORCH_INDEX   where torch's CPU build is; empty: where pip looks anyhow
# What pip and apt are set to on this machine holds in the build, as secrets: nothing of it stays in the image.
set -euo pipefail
cd "$(dirname "$0")/.."

suite=bookworm
made=localhost/masked-sae-base:$suite
device=${DEVICE:-cpu}
index=${TORCH_INDEX-https://download.pytorch.org/whl/cpu} # as in the Dockerfile
targets=("$@")
[ "$#" -gt 0 ] || targets=(train slurm)

say() { echo "build.sh: $*" >&2; }

die() {
    say "$*"
    exit 2
}

for target in "${targets[@]}"; do
    case "$target" in
        train | slurm) ;;
        *) die "$target: expected train or slurm" ;;
    esac
done
case "$device" in
    cpu | cuda) ;;
    *) die "DEVICE=$device: expected cpu or cuda" ;;
esac
[ "$(id -u)" = 0 ] || die "without a container engine this needs root; with one: docker build --file docker/Dockerfile ."
PATH=$PATH:/usr/sbin:/sbin # where debootstrap is
missing=()
for program in buildah debootstrap; do
    command -v "$program" >/dev/null || missing+=("$program")
done
if [ "${#missing[@]}" -gt 0 ]; then
    command -v apt-get >/dev/null || die "${missing[*]}: expected to be installed"
    say "installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

aside=$(mktemp --directory)
container=
clean() {
    [ -z "$container" ] || buildah rm "$container" >/dev/null
    rm -rf "$aside"
}
trap clean EXIT

make_base() {
    say "making $made with debootstrap"
    container=$(buildah from scratch)
    local root
    root=$(buildah mount "$container")
    debootstrap --variant=minbase "$suite" "$root" "${MIRROR:-http://deb.debian.org/debian}" >"$aside/debootstrap.log" ||
        { tail -n 5 "$aside/debootstrap.log" >&2 && die "debootstrap failed"; }
    rm -rf "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
    cat >"$root/etc/apt/sources.list" <<SOURCES
deb http://deb.debian.org/debian $suite main
deb http://deb.debian.org/debian $suite-updates main
deb http://deb.debian.org/debian-security $suite-security main
SOURCES
    buildah umount "$container" >/dev/null
    buildah config --cmd bash "$container"
    buildah commit --quiet --rm "$container" "$made" >/dev/null
    container=
}

if [ -z "${BASE:-}" ] && ! buildah inspect --type image "$made" >/dev/null 2>&1; then
    make_base
fi

python=$(command -v .venv/bin/python || command -v python3) || die "python3: expected to be installed"
asked=()
if [ -n "${TORCH_INDEX+set}" ]; then
    asked+=(--build-arg "TORCH_INDEX=$TORCH_INDEX")
fi
"$python" docker/registry.py "$aside" ${index:+"$index"} >"$aside/arguments"
mapfile -t -O "${#asked[@]}" asked <"$aside/arguments"

for target in "${targets[@]}"; do
    SECONDS=0
    image=localhost/masked-sae-$target:${TAG:-$device}
    buildah build --isolation chroot --layers --file docker/Dockerfile --target "$target" \
        --tag "$image" --build-arg "BASE=${BASE:-$made}" --build-arg "DEVICE=$device" \
        "${asked[@]}" .
    say "$image, $(buildah images --format '{{.Size}}' "$image"), in $SECONDS s"
done
