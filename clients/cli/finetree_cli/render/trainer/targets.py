# SPDX-License-Identifier: Apache-2.0
"""What a served base model has loaded, as text."""

from finetree_api.trainer.v1 import serving_pb2
from finetree_api.types.v1 import method_pb2

from finetree_cli.output import Output
from finetree_cli.render import units


def show_targets(out: Output, found: serving_pb2.ListTargetsResponse) -> None:
    """Print targets with their weights, and the lease."""
    rows = [
        (
            target.name,
            units.word(method_pb2.Method, target.method),
            str(target.rank or "-"),
            units.size(target.size_bytes),
            getattr(target.weights, target.weights.WhichOneof("source") or "path"),
        )
        for target in found.targets
    ]
    out.table(["Target", "Method", ">Rank", ">Memory", "Weights"], rows)
    if found.HasField("lease"):
        answering = f", {found.lease.generations} being answered" if found.lease.generations else ""
        out.text(f"Lease until {units.instant(found.lease.expire_time)}{answering}")
    else:
        out.text("Not serving")
