# SPDX-License-Identifier: Apache-2.0
"""Devices are shared by projects: in a capacity, the names of jobs that the caller may not read are hidden."""

from finetree_api.trainer.v1 import capacity_pb2
from finetree_runtime.ids import project_in
from finetree_runtime.server.access.roles import EVERY_PROJECT, Grants, Role

HIDDEN = "-"
"""Stands for the name of a job that the caller may not read: that something holds the place is no secret."""


def hide_jobs(reply: capacity_pb2.GetCapacityResponse, grants: Grants) -> None:
    """Replace each name of a job in a project in which the role READ is not granted."""
    if grants.allows(Role.READ, EVERY_PROJECT):
        return

    def shown(name: str) -> str:
        return name if not name or grants.allows(Role.READ, project_in(name) or "") else HIDDEN

    for node in reply.nodes:
        for device in node.devices:
            device.running_jobs[:] = [shown(name) for name in device.running_jobs]
            for lease in device.leases:
                lease.job = shown(lease.job)
            for share in device.memory.jobs:
                share.job = shown(share.job)
            for slot in device.slot_uses:
                slot.job = shown(slot.job)
