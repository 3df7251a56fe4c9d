#!/bin/sh
# The steps of an image, the same for docker/Dockerfile and docker/apptainer.def. As root, on Debian.
#   install.sh python                                 Python
#   install.sh requirements PYPROJECT                 prints what the project depends on
#   install.sh packages REQUIREMENTS CONSTRAINTS      /opt/venv; DEVICE and TORCH_INDEX say which torch
#   install.sh project FOLDER                         the project, from where it lies
#   install.sh slurm FOLDER                           the one-node SLURM, by the scripts there
# Where they exist, these say which registries to ask: /run/secrets/apt (apt.conf), /run/secrets/pip (pip.conf).
set -eu

secrets=/run/secrets
if [ -f "$secrets/apt" ]; then
    export APT_CONFIG=$secrets/apt
fi
export DEBIAN_FRONTEND=noninteractive PIP_CONFIG_FILE=$secrets/pip PIP_DISABLE_PIP_VERSION_CHECK=1
venv=/opt/venv

die() {
    echo "install.sh: $*" >&2
    exit 2
}

# torch first: what depends on it then finds it there and asks for no other build.
install_packages() {
    case "${DEVICE:-cpu}" in
        cpu) index=${TORCH_INDEX:+--extra-index-url=$TORCH_INDEX} ;;
        cuda) index= ;; # the package registry's build
        *) die "DEVICE=$DEVICE: expected cpu or cuda" ;;
    esac
    python3 -m venv "$venv"
    "$venv/bin/pip" install -qq --constraint "$2" ${index:+"$index"} torch hatchling editables
    built=$("$venv/bin/python" -W ignore -c 'import torch; print("cuda" if torch.version.cuda else "cpu")')
    [ "$built" = "${DEVICE:-cpu}" ] ||
        die "DEVICE=${DEVICE:-cpu}, but the registry gave torch built for $built: expected TORCH_INDEX, or pip's own settings, to name an index that has the other"
    "$venv/bin/pip" install -qq --constraint "$2" --requirement "$1"
}

case "${1:-}" in
    python)
        apt-get update -qq
        apt-get install -y -qq --no-install-recommends python3 python3-venv ca-certificates >/dev/null
        rm -rf /var/lib/apt/lists/*
        ;;
    requirements)
        python3 -c 'import sys, tomllib; print(*tomllib.load(open(sys.argv[1], "rb"))["project"]["dependencies"], sep="\n")' "$2"
        ;;
    packages) install_packages "$2" "$3" ;;
    project)
        "$venv/bin/pip" install -qq --no-deps --no-build-isolation --editable "$2"
        "$venv/bin/python" -m compileall -q "$2/src" # who runs it may not write there,
        mkdir -p "$2/runs"
        chmod 1777 "$2/runs" # but here, whoever it is
        ;;
    slurm)
        "$2/install.sh" >/dev/null
        rm -rf /var/lib/apt/lists/*
        ;;
    *) die "${1:-}: expected python, requirements, packages, project or slurm" ;;
esac
