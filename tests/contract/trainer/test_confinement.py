# SPDX-License-Identifier: Apache-2.0
"""What a trainer says of the confinement of its workers."""

import asyncio
import json
import sys

from finetree_api.trainer.v1 import capacity_pb2
from trainer_harness import trainer

STATES = {
    "holds": capacity_pb2.CONFINEMENT_STATE_HOLDS,
    "partial": capacity_pb2.CONFINEMENT_STATE_PARTIAL,
    "unavailable": capacity_pb2.CONFINEMENT_STATE_UNAVAILABLE,
}


async def test_capacity_says_what_holds_on_this_system_and_why_the_rest_does_not(tmp_path):
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "finetree_data.confinement"), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await child.communicate()
    tried = json.loads(output)
    async with trainer(tmp_path, confinement="auto") as talk:
        found = (await talk.stub.GetCapacity(capacity_pb2.GetCapacityRequest())).confinement
    shown = {measure.name: (measure.state, measure.why) for measure in found}
    assert shown.pop("own_user")[0] == capacity_pb2.CONFINEMENT_STATE_UNAVAILABLE
    assert shown == {name: (STATES[state], why) for name, state, why in tried}
    assert all(why for state, why in shown.values() if state != capacity_pb2.CONFINEMENT_STATE_HOLDS)
