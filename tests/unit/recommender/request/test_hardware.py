# SPDX-License-Identifier: Apache-2.0
"""Names of hardware, and the stated memory."""

from typing import Any

import pytest
from finetree_api.types.v1 import hardware_pb2
from finetree_recommender.estimator.values import Accelerator, Catalog
from finetree_recommender.request.hardware import read_device
from finetree_runtime.runspec.device_names import canonical
from google.protobuf import json_format

CARDS = (
    Accelerator(2, False, "gtx-1050", "GeForce GTX 1050", 6.1),
    Accelerator(4, False, "gtx-1050-ti", "GeForce GTX 1050 Ti", 6.1),
    Accelerator(8, False, "gtx-1080", "GeForce GTX 1080", 6.1),
    Accelerator(11, False, "gtx-1080-ti", "GeForce GTX 1080 Ti", 6.1),
    Accelerator(8, True, "rtx-4060", "GeForce RTX 4060", 8.9),
    Accelerator(8, True, "rtx-4060-laptop", "GeForce RTX 4060 Laptop", 8.9),
    Accelerator(8, True, "rtx-4060-ti", "GeForce RTX 4060 Ti 8GB", 8.9),
    Accelerator(16, True, "rtx-4060-ti-16gb", "GeForce RTX 4060 Ti 16GB", 8.9),
    Accelerator(24, True, "rtx-4090", "GeForce RTX 4090", 8.9),
    Accelerator(16, True, "rtx-4090-laptop", "GeForce RTX 4090 Laptop", 8.9),
    Accelerator(24, False, "quadro-rtx-6000", "NVIDIA Quadro RTX 6000", 7.5),
    Accelerator(48, True, "rtx-6000-ada", "NVIDIA RTX 6000 Ada", 8.9),
    Accelerator(24, False, "rx-7900-xtx", "AMD Radeon RX 7900 XTX", None, "ROCm is not supported yet"),
    Accelerator(0, False, "apple-m3", "Apple M3", None, "Apple's GPUs are not supported yet"),
)
CATALOG = Catalog(accelerators={name: card for card in CARDS for name in (card.name, canonical(card.name))})


def device(pack, catalog=CATALOG, **hardware: Any):
    return read_device(json_format.ParseDict(hardware, hardware_pb2.Hardware()), pack, catalog)


def described(pack, name, gb):
    return device(pack, unknown_accelerator={"marketed_memory_gb": gb, "name": name})


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("NVIDIA GeForce RTX 4090", "rtx-4090"), ("RTX4090", "rtx-4090"), ("rtx_4060 Ti 16 GB", "rtx-4060-ti-16gb"),
        ("gtx 1080ti", "gtx-1080-ti"),
    ],
)  # fmt: skip
def test_names_are_found_in_any_spelling(pack, name, found):
    assert canonical(name) == found
    read = device(pack, accelerator=name)
    # The estimator and the trainer know it by the catalog's name.
    assert (read.entry.name, read.hardware.accelerator) == (found, found)


@pytest.mark.parametrize(
    ("name", "given", "count", "codes"),
    [("4x4090", None, 4, []), ("RTX 4090 x2", 2, 2, []), ("2x RTX 4090", 8, 8, ["INPUTS_DISAGREE"])],
)
def test_a_number_in_a_name_is_the_count_where_none_was_given(pack, name, given, count, codes):
    catalog = Catalog(accelerators={**CATALOG.accelerators, "4090": CATALOG.accelerators["rtx-4090"]})
    read = device(pack, catalog, accelerator=name, **({"count": given} if given else {}))
    assert (read.hardware.accelerator, read.hardware.count) == ("rtx-4090", count)
    assert [caution.code for caution in read.cautions] == codes


@pytest.mark.parametrize(
    ("hardware", "gb", "named"),
    [
        ({"accelerator": "RX 7900 XTX"}, 24, "AMD Radeon RX 7900 XTX"),
        ({"accelerator": "Radeon 580"}, None, "Radeon 580"),
        ({"accelerator": "M3"}, None, "Apple M3"),
        ({"unknown_accelerator": {"marketed_memory_gb": 64, "name": "M3"}}, 64, "Apple M3"),
        ({"unknown_accelerator": {"marketed_memory_gb": 16, "name": "RX 6800"}}, 16, "RX 6800"),
    ],
)
@pytest.mark.parametrize("catalog", [CATALOG, Catalog()])
def test_another_makers_accelerator_counts_by_its_memory_and_is_said_to_be_unsupported(
    pack, catalog, hardware, gb, named
):
    read = device(pack, catalog, count=2, **hardware)
    known = catalog is CATALOG or "unknown_accelerator" in hardware
    assert read.unsupported
    assert (read.gb, read.entry) == (gb if known else None, None)
    assert (read.hardware.WhichOneof("device") is not None, read.hardware.count) == (read.gb is not None, 2)
    (caution,) = read.cautions
    assert caution.code == "ACCELERATOR_NOT_SUPPORTED"
    assert "not supported yet" in caution.message
    if catalog is CATALOG:
        assert caution.message.startswith(f"{named}: ")


@pytest.mark.parametrize(
    ("name", "gb", "accelerator", "code"),
    [
        ("RTX 4060", 16, "rtx-4060-ti-16gb", "HARDWARE_NAME_MISLEADING"),
        ("GTX 1050", 4, "gtx-1050-ti", "HARDWARE_NAME_MISLEADING"),
        ("GTX 1080", 11, "gtx-1080-ti", "HARDWARE_NAME_MISLEADING"),
        ("RTX 4060", 8, "rtx-4060", None),
        ("RTX 4090", 23.6, "rtx-4090", None),
    ],
)
def test_a_name_with_a_memory_is_the_card_that_has_it(pack, name, gb, accelerator, code):
    found = described(pack, name, gb)
    assert found.hardware.accelerator == accelerator
    assert [caution.code for caution in found.cautions] == ([code] if code else [])
    if code:
        assert name.split()[1] in found.cautions[0].message
        assert found.entry.display_name in found.cautions[0].message


def test_a_memory_that_no_card_of_the_name_has_is_trusted(pack):
    found = described(pack, "GTX 1080", 24)
    assert found.hardware.WhichOneof("device") == "unknown_accelerator"
    assert (found.gb, found.entry.capability) == (24, 6.1)
    assert found.cautions[0].code == "HARDWARE_NAME_MISLEADING"
    assert "8 GB" in found.cautions[0].message
    assert "24 GB" in found.cautions[0].message


def test_an_unknown_name_has_its_memory_and_a_suggestion(pack):
    found = described(pack, "RTX 4099", 24)
    assert (found.gb, found.entry) == (24, None)
    assert found.cautions[0].code == "HARDWARE_NAME_UNKNOWN"
    assert "rtx-4090" in found.cautions[0].message


def test_a_name_near_a_card_of_another_class_is_cautioned(pack):
    assert [item.code for item in device(pack, accelerator="rtx-4060").cautions] == ["HARDWARE_NAME_AMBIGUOUS"]
    # One class of memory, but the elder has no bfloat16; its full name says which it is.
    (found,) = device(pack, accelerator="RTX 6000").cautions
    assert "RTX 6000 Ada (48 GB)" in found.message
    assert not device(pack, accelerator="Quadro RTX 6000").cautions
    # The two cards of 8 and 11 GB are of one class, and a laptop's card is called one.
    assert not device(pack, accelerator="gtx-1080").cautions
    assert not device(pack, accelerator="rtx-4090").cautions


@pytest.mark.parametrize(
    ("sharding", "count", "gate"),
    [("SHARDING_FULL", 4, 96), ("SHARDING_FULL", 0, 24), ("SHARDING_REPLICATED", 4, 24), ("SHARDING_GRADIENTS", 4, 24)],
)
def test_the_gate_reads_one_device_unless_everything_is_sharded(pack, sharding, count, gate):
    found = device(pack, accelerator="rtx-4090", count=count, sharding=sharding)
    assert (found.gb, found.gate_gb) == (24, gate)


def test_without_the_catalog_a_name_is_left_alone(pack):
    found = device(pack, Catalog(), unknown_accelerator={"marketed_memory_gb": 16, "name": "RTX 4060"})
    assert (found.gb, found.cautions) == (16, ())
    named = {name: device(pack, Catalog(), accelerator=name).gb for name in ("NVIDIA RTX 4090", "A100 80GB")}
    assert named == {"NVIDIA RTX 4090": 24, "A100 80GB": 80}
    assert device(pack, Catalog(), accelerator="RTX 4090 Laptop").gb is None
