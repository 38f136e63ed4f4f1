# SPDX-License-Identifier: Apache-2.0
"""Metrics of this machine's places for jobs, and of the job in each.

No label names a job: a job is seen by the slot that it runs in, so that there are as many series as slots, however many
jobs come and go. `finetree capacity` tells which job holds a slot.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby

from finetree_runtime.meter import Meter, Values

from finetree_trainer.clock import Clock
from finetree_trainer.scheduling.devices import PREPARING, Device, Slot
from finetree_trainer.scheduling.fit import Holder
from finetree_trainer.scheduling.memory import Budgets
from finetree_trainer.telemetry.live_jobs import LiveJob, LiveJobs, task_name

_SLOT = ("node", "device", "slot")


class PlaceMetrics:
    """Devices, slots and the jobs that run there.

    `holders` returns every slot with the job that holds it, `budgets` who holds the memories now.
    """

    def __init__(
        self,
        meter: Meter,
        devices: Sequence[Device],
        jobs: LiveJobs,
        *,
        holders: Callable[[], Mapping[Slot, Holder | None]],
        budgets: Callable[[], Budgets],
        clock: Clock,
    ) -> None:
        self._devices, self._jobs, self._holders, self._clock = devices, jobs, holders, clock
        self._budgets = budgets
        meter.gauge(
            "finetree_device_slots",
            "Places for jobs on a device, those for PREPARE jobs left out.",
            ("node", "device", "kind", "state"),
            read=self._slots,
        )
        meter.gauge(
            "finetree_device_memory_bytes",
            "Memory of a device; used by any program.",
            ("node", "device", "kind", "state"),
            read=self._memory,
        )
        of_jobs: dict[str, tuple[str, Callable[[LiveJob], float]]] = {
            "finetree_running_step": ("Newest optimizer step of the job in a slot.", lambda job: job.step),
            "finetree_running_total_steps": ("Optimizer steps that it will take.", lambda job: job.total_steps),
            "finetree_running_tokens_per_second": ("Its tokens per second.", lambda job: job.tokens_per_second),
            "finetree_running_silence_seconds": (
                "Time since it last made progress: a step, a phase, an evaluation, a checkpoint.",
                lambda job: self._since(job.heard),
            ),
            "finetree_running_checkpoint_age_seconds": (
                "Time since its newest checkpoint, or since its attempt began: what a loss of the machine would cost.",
                lambda job: self._since(job.saved),
            ),
        }
        for name, (text, value) in of_jobs.items():
            meter.gauge(name, text, (*_SLOT, "task"), read=partial(self._of_jobs, value))

    def _since(self, moment: int) -> float:
        return max(0, self._clock() - moment) / 1e6 if moment else 0.0

    def _slots(self) -> Values:
        values: dict[tuple[str, ...], float] = {}
        holders = self._holders()
        for device in self._devices:
            held = [holders.get(slot) is not None for slot in device.slots()]
            key = device.node, device.id, device.kind
            values[*key, "busy"], values[*key, "free"] = held.count(True), held.count(False)
        return values

    def _memory(self) -> Values:
        values: dict[tuple[str, ...], float] = {}
        budgets = self._budgets()
        for device in self._devices:
            key, budget = (device.node, device.id, device.kind), budgets.of(device.place)
            values[*key, "used"], values[*key, "free"] = max(0, budget.total - budget.free), budget.free
        return values

    def _of_jobs(self, value: Callable[[LiveJob], float]) -> Values:
        """Values of the jobs that run, each once: one on several devices counts at the first of its slots."""
        held = sorted((holder.uid, slot) for slot, holder in self._holders().items() if holder is not None)
        values: dict[tuple[str, ...], float] = {}
        for uid, found in groupby(held, key=lambda pair: pair[0]):
            _, slot = next(found)
            job = self._jobs.get(uid)
            if job is not None:
                index = "prepare" if slot.index == PREPARING else str(slot.index)
                values[slot.node, slot.device, index, task_name(job.task)] = value(job)
        return values
