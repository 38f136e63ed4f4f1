#!/bin/sh
# Install into the environment of an image's build stage, from uv.lock: `install.sh libraries` everything that the
# distributions named by PACKAGES need, `install.sh program` these themselves, which are built from /src.
set -eu
if [ -s /run/secrets/ca ]; then export SSL_CERT_FILE=/run/secrets/ca; fi
case "${TORCH}" in
cpu) left_out="torch $(sed -nE 's/^name = "(nvidia-.*|cuda-.*|triton)"$/\1/p' uv.lock | grep -v '^nvidia-ml-py$')" ;;
cuda) left_out="" ;;
*) echo "TORCH must be cpu or cuda, not '${TORCH}'" >&2; exit 1 ;;
esac
set -- "$1" --quiet --frozen --no-dev --no-editable --inexact --python python3
for name in ${PACKAGES}; do set -- "$@" --package "${name}"; done
for name in ${EXTRAS}; do set -- "$@" --extra "${name}"; done
for name in ${left_out}; do set -- "$@" --no-install-package "${name}"; done
layer=$1
shift
if [ "${layer}" = program ]; then
    exec /opt/uv/bin/uv sync "$@"
fi
/opt/uv/bin/uv sync "$@" --no-install-workspace
case "${TORCH} ${PACKAGES}" in
cpu*finetree-worker*)
    torch="$(sed -nE '/^name = "torch"$/{n;s/^version = "(.*)"$/torch==\1/p}' uv.lock)"
    set -- --index-url "${TORCH_INDEX}"
    for wheel in /wheels/torch-*.whl; do
        if [ -e "${wheel}" ]; then set -- --no-index --find-links /wheels; fi
    done
    /opt/uv/bin/uv pip install --quiet --no-deps --python /opt/finetree/bin/python "$@" "${torch}"
    ;;
esac
