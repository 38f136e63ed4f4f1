#!/usr/bin/env bash
# Make a Python base image from Debian's own packages, for a machine that reaches no image registry:
#   .ci/base_image.sh SUITE TAG     for example: .ci/base_image.sh trixie finetree-local/python:3.13-slim-trixie
# Needs root, debootstrap, docker and Debian's packages. Python is the suite's: 3.11 of bookworm, 3.13 of trixie.
set -euo pipefail
suite=${1:?"usage: base_image.sh SUITE TAG"} tag=${2:?"usage: base_image.sh SUITE TAG"}
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}

root=$(mktemp -d)
trap 'rm -rf --one-file-system "$root"' EXIT
debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv "$suite" "$root" "$mirror" >"$root.log" ||
  { tail -20 "$root.log" >&2; exit 1; }
rm -rf "$root.log" "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/*
# One time for all files: the same packages make the same image.
tar --sort=name --mtime=@315532800 --numeric-owner --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' \
  -C "$root" -c . | docker import --change 'CMD ["python3"]' - "$tag"
