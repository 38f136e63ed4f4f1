# SPDX-License-Identifier: Apache-2.0
"""What searches over changed runs found, as parts of an estimate's message: the FULL view has all of them."""

from collections.abc import Iterable

from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.types.v1 import check_pb2
from google.protobuf import json_format, struct_pb2

from finetree_estimator.evidence.measured_runs import Near
from finetree_estimator.messages.catalog import price_message
from finetree_estimator.messages.estimate import verdict_value
from finetree_estimator.messages.provenance import (
    interval_message,
    money_interval,
    optional_interval,
    provenance_message,
)
from finetree_estimator.whatif.changes import Patch
from finetree_estimator.whatif.hardware import Offer, Option
from finetree_estimator.whatif.largest import Largest
from finetree_estimator.whatif.remedies import Remedy


def nearest_runs_message(found: Iterable[Near]) -> estimate_pb2.Estimate:
    """Write measured runs near a run."""
    return estimate_pb2.Estimate(nearest_runs=map(_measured_run, found))


def remedies_message(found: Iterable[Remedy]) -> estimate_pb2.Estimate:
    """Write changes that make a run fit."""
    return estimate_pb2.Estimate(remedies=map(_remedy, found))


def largest_message(found: Largest | None) -> estimate_pb2.Estimate:
    """Write the largest sizes that fit; None leaves the field unset."""
    if found is None:
        return estimate_pb2.Estimate()
    largest = estimate_pb2.LargestThatFits(micro_batch_size=found.micro_batch, sequence_length=found.sequence_length)
    return estimate_pb2.Estimate(largest=largest)


def smallest_hardware_message(found: Iterable[Option]) -> estimate_pb2.Estimate:
    """Write the smallest hardware on which a run fits."""
    return estimate_pb2.Estimate(smallest_hardware=map(_hardware_option, found))


def offers_message(found: Iterable[Offer]) -> estimate_pb2.Estimate:
    """Write prices of hardware on which a run fits."""
    return estimate_pb2.Estimate(offers=map(_offer, found))


def patch_message(patch: Patch) -> check_pb2.SpecPatch:
    """Write a new value of one field of a RunSpec."""
    return check_pb2.SpecPatch(
        field_path=patch.path, value=json_format.ParseDict(patch.value, struct_pb2.Value()), summary=patch.summary
    )


def _remedy(remedy: Remedy) -> estimate_pb2.Remedy:
    """Write changes that make a run fit, with the device peak after them."""
    return estimate_pb2.Remedy(
        patches=[patch_message(patch) for change in remedy.changes for patch in change.patches],
        device_bytes=interval_message(remedy.peak),
        verdict=verdict_value(remedy.verdict),
        summary=remedy.summary,
        total_seconds=optional_interval(remedy.total_seconds),
        cost=money_interval(remedy.cost.amount, remedy.cost.currency) if remedy.cost is not None else None,
    )


def _hardware_option(option: Option) -> estimate_pb2.HardwareOption:
    """Write hardware on which a run fits."""
    return estimate_pb2.HardwareOption(
        accelerator=option.accelerator,
        count=option.count,
        sharding=option.sharding,
        device_bytes=interval_message(option.peak),
        usable_device_bytes=option.usable_bytes,
        verdict=verdict_value(option.verdict),
    )


def _measured_run(near: Near) -> estimate_pb2.MeasuredRun:
    """Write a measured run and its distance."""
    return estimate_pb2.MeasuredRun(
        description=near.row.description,
        peak_bytes=near.row.peak_bytes,
        tokens_per_second=near.row.tokens_per_second,
        distance=near.distance,
        provenance=provenance_message(near.row.source),
    )


def _offer(offer: Offer) -> estimate_pb2.Offer:
    """Write a quote with the hours and the cost of the run on it."""
    return estimate_pb2.Offer(
        price=price_message(offer.quote),
        count=offer.devices,
        hours=interval_message(offer.hours),
        cost=money_interval(offer.amount, offer.quote.currency),
        verdict=verdict_value(offer.verdict),
    )
