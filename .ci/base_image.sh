#!/usr/bin/env bash
# Make a Python base image from Debian's own packages, for a machine that reaches no image registry:
#   .ci/base_image.sh SUITE TAG [PREFIX]     for example: .ci/base_image.sh trixie finetree-local/python:3.13-slim-trixie
# Needs root, debootstrap, docker and Debian's packages. Python is the suite's, 3.13 of trixie; or the one installed at
# PREFIX of this machine, which is copied to /usr/local, where the official images have theirs.
set -euo pipefail
usage="usage: base_image.sh SUITE TAG [PREFIX]"
suite=${1:?"$usage"} tag=${2:?"$usage"} prefix=${3:-}
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}

root=$(mktemp -d)
trap 'rm -rf --one-file-system "$root" "$root.log"' EXIT
debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv "$suite" "$root" "$mirror" >"$root.log" ||
  { tail -20 "$root.log" >&2; exit 1; }
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/*
if [ -n "$prefix" ]; then
  tar --exclude=site-packages --exclude=__pycache__ --exclude=test -C "$prefix" -c bin lib | tar -C "$root/usr/local" -x
  ldconfig -r "$root"
fi
# One time for all files: the same packages make the same image.
tar --sort=name --mtime=@315532800 --numeric-owner --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' \
  -C "$root" -c . | docker import --change 'CMD ["python3"]' - "$tag"
