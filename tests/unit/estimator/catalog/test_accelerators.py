# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_estimator import constants
from finetree_estimator.catalog.accelerators import (
    UNSUPPORTED,
    accelerator,
    accelerators,
    canonical,
    other_memories,
    supported,
)
from finetree_estimator.catalog.devices import by_memory_class, known
from finetree_estimator.catalog.names import GIB, UnknownNameError, table
from finetree_estimator.spec.resolve import read_accelerator
from finetree_runtime.errors import NotFound
from finetree_runtime.runspec.device_names import counted

SPELLINGS = {
    "rtx-4090": (
        "RTX 4090",
        "rtx_4090",
        "GeForce RTX 4090",
        "NVIDIA GeForce RTX 4090",
        "RTX4090",
        "RTX 4090 24GB",
        "4090",
    ),
    "rtx-4060": ("RTX 4060", "rtx 4060 8gb", "NVIDIA GeForce RTX 4060"),
    "rtx-4060-ti": ("RTX 4060 Ti", "RTX 4060 Ti 8GB", "rtx4060ti"),
    "rtx-4060-ti-16gb": ("rtx 4060 16gb", "RTX 4060 Ti 16 GB", "RTX-4060-Ti-16GB"),
    "rtx-4060-laptop": ("NVIDIA GeForce RTX 4060 Laptop GPU", "RTX 4060 Mobile"),
    "rtx-3060": ("RTX 3060", "rtx 3060 12gb", "3060"),
    "rtx-3060-8gb": ("RTX 3060 8GB",),
    "rtx-3080-12gb": ("GeForce RTX 3080 12GB",),
    "rtx-5060-ti-16gb": ("NVIDIA RTX 5060 Ti 16GB",),
    "gtx-1060-3gb": ("GTX 1060 3GB",),
    "gtx-1080-ti": ("NVIDIA GeForce GTX 1080 Ti", "1080ti"),
    "quadro-rtx-6000": ("Quadro RTX 6000",),
    "rtx-6000-ada": ("NVIDIA RTX 6000 Ada Generation",),
    "rtx-a6000": ("NVIDIA RTX A6000", "A6000"),
    "rtx-pro-6000": (
        "NVIDIA RTX PRO 6000 Blackwell Server Edition",
        "NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
        "RTX 6000 Pro",
        "RTX PRO 6000 Blackwell",
    ),
    "rtx-pro-6000-max-q": ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition",),
    "t4": ("Tesla T4", "NVIDIA T4"),
    "p100": ("Tesla P100-PCIE-16GB",),
    "v100-16gb": ("Tesla V100-SXM2-16GB", "V100"),
    "v100-32gb-pcie": ("Tesla V100S-PCIE-32GB",),
    "a100-40gb": ("NVIDIA A100-SXM4-40GB", "A100 40GB", "A100 40"),
    "a100-80gb": ("a100", "NVIDIA A100-SXM4-80GB", "A100 SXM", "A800", "A800 80GB"),
    "a100-40gb-pcie": ("NVIDIA A100-PCIE-40GB",),
    "a100-80gb-pcie": ("NVIDIA A100 80GB PCIe",),
    "a10": ("NVIDIA A10",),
    "a10g": ("NVIDIA A10G",),
    "l40s": ("NVIDIA L40S",),
    "h100": ("H100 SXM", "NVIDIA H100 80GB HBM3", "H100 SXM5", "NVIDIA H800"),
    "h100-pcie": ("NVIDIA H100 PCIe", "H800 PCIe"),
    "h100-nvl": ("NVIDIA H100 NVL",),
    "gh200-96gb": ("NVIDIA GH200 480GB",),
    "h20": ("NVIDIA H20",),
    "gb10": ("NVIDIA GB10", "DGX Spark"),
    "b200": ("NVIDIA B200",),
    "mi300x": ("AMD Instinct MI300X",),
    "rx-7900-xtx": ("AMD Radeon RX 7900 XTX", "7900 XTX"),
    "apple-m2": ("Apple M2 Max", "M2"),
    "gaudi-2": ("Gaudi2",),
    "tpu-v5e": ("TPU v5e", "Google Cloud TPU v5e"),
    "inferentia-2": ("AWS Inferentia2", "inf2"),
}


@pytest.mark.parametrize(("name", "asked"), [(name, asked) for name, many in SPELLINGS.items() for asked in many])
def test_an_accelerator_is_found_as_people_and_programs_write_it(name, asked):
    assert accelerator(asked).name == name


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("A100", ["a100-40gb"]),
        ("NVIDIA A100 SXM4", ["a100-40gb"]),
        ("A100 PCIe", ["a100-40gb-pcie"]),
        ("v100", ["v100-32gb"]),
        ("GeForce GTX 1060 Laptop GPU", []),
        ("A100 80GB", []),
        ("A100 80", []),
        ("a100-80gb", []),
        ("rtx-3060", []),
        ("RTX 3060", []),
        ("4090", []),
        ("t4", []),
    ],
)
def test_a_name_that_tells_no_memory_may_mean_a_smaller_card(name, others):
    assert [entry.name for entry in other_memories(name)] == others


def test_no_listed_name_means_two_accelerators():
    owners: dict[str, str] = {}
    for entry in accelerators():
        for name in {canonical(name) for name in (entry.name, entry.display_name, *entry.aliases)}:
            assert owners.setdefault(name, entry.name) == entry.name, name


def test_what_is_no_name_is_told_where_it_belongs():
    with pytest.raises(NotFound, match=r"hardware\.cpu"):
        read_accelerator("CPU")


def test_no_listed_name_is_read_as_a_number_of_devices():
    named = (name for entry in accelerators() for name in (entry.name, entry.display_name, *entry.aliases))
    assert [name for name in named if counted(name)[0]] == []


@pytest.mark.parametrize(
    ("system", "count", "name"),
    [
        ("dgx a100", 8, "a100-80gb"),
        ("NVIDIA DGX A100 640GB", 8, "a100-80gb"),
        ("DGX A100 40GB", 8, "a100-40gb"),
        ("HGX-H100", 8, "h100"),
        ("DGX Station A100", 4, "a100-80gb"),
        ("DGX B300", 8, "b300"),
    ],
)
def test_a_system_is_so_many_accelerators_of_the_catalog(system, count, name):
    assert counted(system) == (count, name)
    assert accelerator(name).name == name


def test_an_unknown_accelerator_comes_back_with_the_nearest():
    with pytest.raises(UnknownNameError) as caught:
        accelerator("rtx-4091")

    assert "rtx-4090" in caught.value.nearest


def test_the_catalog_has_what_people_train_on():
    names = {entry.name for entry in supported()}

    assert len(names) >= 45
    for series in ("gtx-10", "gtx-16", "rtx-20", "rtx-30", "rtx-40", "rtx-50", "rtx-a", "v100", "a100", "h100", "b200"):
        assert any(name.startswith(series) for name in names), series


@pytest.mark.parametrize(
    ("name", "bf16", "int8"),
    [
        ("gtx-1080", False, False),
        ("p40", False, False),  # dp4a multiplies 8-bit integers, but outside of tensor cores, which it has none of
        ("v100-16gb", False, False),
        ("gtx-1660", False, False),
        ("t4", False, True),
        ("a100-80gb", True, True),
        ("rtx-4090", True, True),
        ("mi300x", False, False),
    ],
)
def test_number_formats_follow_the_compute_capability(name, bf16, int8):
    entry = accelerator(name)

    assert (entry.native_bf16, entry.native_int8) == (bf16, int8)


def test_another_makers_accelerators_are_known_and_say_why_they_do_not_work():
    others = [entry for entry in accelerators() if entry.vendor != "NVIDIA"]

    assert {entry.vendor for entry in others} == {"AMD", "AWS", "Apple", "Google", "Intel"}
    assert all(entry.unsupported == UNSUPPORTED[entry.vendor] for entry in others)
    assert accelerator("mi300x").unsupported == "ROCm is not supported yet"
    assert not any(entry.unsupported for entry in supported())


def test_the_numbers_of_an_accelerator_are_plausible():
    for entry in supported():
        assert 0.85 < entry.usable_bytes / (entry.marketed_gb * GIB) < 1.0, entry.name
        # A GeForce's clock rises above the one of its peak, since half of its tensor cores' products are idle.
        assert 0.3 < entry.training_flops / (entry.dense_flops or entry.fp32_flops) < 1.05, entry.name
        assert 80e9 < entry.bandwidth <= 8e12, entry.name
        assert 10e9 < entry.link_bandwidth < 800e9, entry.name
        assert entry.network_gbits in (0, 100, 400, 3200), entry.name
        assert 30 <= entry.watts <= 1400, entry.name


@pytest.mark.parametrize("file", ["accelerators.csv", "links.csv", "rate_classes.csv"])
def test_each_row_of_the_hardware_files_has_a_source_and_a_date(file):
    for row in table(file):
        assert len(row["source"]) > 10, row
        assert row["date"][:4] == "2026", row
        assert not row.get("usable_gib") or row["usable_source"], row
        assert not row.get("machine_gbit_s") or row["machine_source"], row


TENSOR_TO_FP32 = {
    ("Volta", "hbm"): 8,
    ("Turing", "geforce"): 4,
    ("Turing", "workstation"): 8,
    ("Turing", "inference"): 8,
    ("Ampere", "geforce"): 2,
    ("Ampere", "workstation"): 4,
    ("Ampere", "hbm"): 16,
    ("Ada", "geforce"): 2,
    ("Ada", "workstation"): 4,
    ("Blackwell", "geforce"): 2,
    ("Blackwell", "workstation"): 4,
}
"""Products per clock of tensor cores that add in float32, to those of plain cores, by architecture."""


def test_tensor_rates_are_dense_and_add_in_float32():
    """Sparse figures would be twice too high, figures that add in float16 as well on a GeForce."""
    checked = 0
    for entry in supported():
        ratio = TENSOR_TO_FP32.get((entry.architecture, entry.segment))
        if ratio is not None and entry.dense_flops:
            assert entry.dense_flops / entry.fp32_flops == pytest.approx(ratio, rel=0.03), entry.name
            checked += 1
    assert checked > 70


@pytest.mark.parametrize(
    ("name", "tflops"),
    [("rtx-3090", 71), ("rtx-4090", 165.2), ("a10g", 70), ("h100-pcie", 756), ("l40s", 362), ("l40", 181), ("t4", 65)],
)
def test_figures_that_are_often_given_wrong(name, tflops):
    assert accelerator(name).dense_flops == tflops * 1e12


def test_nvlink_is_faster_than_pcie_and_both_lose_a_fifth():
    assert accelerator("a100-80gb").link_bandwidth == pytest.approx(240e9)
    assert accelerator("rtx-4090").link_bandwidth == pytest.approx(24.8e9)
    assert known(accelerator("a100-80gb"), fp32=False).link_bandwidth == pytest.approx(240e9)


@pytest.mark.parametrize(
    ("name", "tflops", "spread", "codes"),
    [
        ("a100-80gb", 225, constants.KNOWN_RATE, []),
        ("rtx-4090", 0.85 * 178.8, constants.PRODUCTS_RATE, ["RATE_FROM_PRODUCTS"]),
        ("rtx-4070", 0.92 * 58.3, constants.CLASS_RATE, ["RATE_FROM_CLASS"]),
    ],
)
def test_the_less_a_rate_rests_on_the_wider_it_is(name, tflops, spread, codes):
    device = known(accelerator(name), fp32=False)

    assert device.training_flops / 1e12 == pytest.approx(tflops, rel=0.01)
    assert (device.rate_below, device.rate_above) == spread
    assert [remark.code for remark in device.remarks] == codes


def test_training_reaches_less_of_a_faster_cards_products():
    """0.85 below 300 TFLOP/s, 0.715 above, as on the accelerators of which both were published."""
    for row in table("accelerators.csv"):
        if row["training_evidence"] == "products":
            alone = float(row["source"].partition("products alone ")[2].partition(" TFLOP/s")[0])
            assert float(row["training_tflops"]) / alone == pytest.approx(0.85 if alone < 300 else 0.715, rel=0.01)


@pytest.mark.parametrize(
    ("name", "note"),
    [("gtx-1080", "no tensor cores"), ("t4", "no native bfloat16"), ("rtx-4080-laptop", "power limit")],
)
def test_what_slows_a_card_down_is_said(name, note):
    assert any(note in remark.message for remark in known(accelerator(name), fp32=False).remarks)


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("a100-80gb", 0.74),
        ("v100-32gb", 0.74),
        ("rtx-2080-ti", 0.74),
        ("rtx-4090", 0.6),
        ("h100", 0.6),
        ("gtx-1080", 0.6),
    ],
)
def test_float32_lanes_that_are_shared_with_integers_reach_less_of_their_peak(name, share):
    entry = accelerator(name)

    assert known(entry, fp32=True).training_flops == pytest.approx(min(share * entry.fp32_flops, entry.training_flops))


def test_float32_is_slower_where_tensor_cores_stand_idle():
    half, single = (known(accelerator("rtx-4090"), fp32=fp32).training_flops for fp32 in (False, True))
    pascal = [known(accelerator("gtx-1080"), fp32=fp32).training_flops for fp32 in (False, True)]

    assert single < 0.7 * half
    assert pascal[0] == pascal[1]


def test_a_memory_class_takes_the_median_card_of_those_that_are_supported():
    device = by_memory_class(192.0)

    assert "AMD" not in device.remarks[0].message
    assert device.usable_bytes == round(192 * 0.98 * GIB)
    assert device.link_bandwidth > 0


def test_a_name_as_the_catalog_or_the_maker_writes_it_means_the_same_however_it_is_spelled():
    for entry in accelerators():
        for name in (entry.name, entry.display_name):
            assert accelerator(name) is accelerator(f" {name.upper()} ") is entry
