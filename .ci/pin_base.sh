#!/usr/bin/env bash
# Pin the base image of services/Dockerfile to what its tag names today. Needs docker with buildx, and the registry.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

pinned=$(sed -nE 's/^ARG PYTHON_IMAGE=(.+)$/\1/p' services/Dockerfile)
tag=${pinned%@*}
digest=$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$tag")
[[ $digest =~ ^sha256:[0-9a-f]{64}$ ]] || { echo "pin_base: the registry names no digest of $tag: $digest" >&2; exit 1; }
sed -i -E "s|^ARG PYTHON_IMAGE=.*$|ARG PYTHON_IMAGE=$tag@$digest|" services/Dockerfile
[ "$pinned" != "$tag@$digest" ] && echo "pin_base: now $tag@$digest" || echo "pin_base: already the newest"
