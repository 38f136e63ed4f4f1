# SPDX-License-Identifier: Apache-2.0
"""Figures in docs/ are those of the committed results."""

import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[3] / "benchmarks" / "estimator"))

import accuracy_page

ROOT = Path(__file__).parents[3]
RESULTS_PAGE = re.sub(r"\s+", " ", (ROOT / "docs/results.md").read_text(encoding="utf-8"))
LIMITS_PAGE = re.sub(r"\s+", " ", (ROOT / "docs/scale-limits.md").read_text(encoding="utf-8"))
RESULTS = ROOT / "benchmarks/results"
SMOLLM2_PARAMETERS = 134_515_008


def result(name: str, *keys: str) -> Any:
    """A part of a result that is committed."""
    found = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    for key in keys:
        found = found[key]
    return found


def percent(share, digits=0):
    """A share as the pages have it."""
    return f"{100 * share:.{digits}f} %"


def estimated():
    """The estimator's accuracy."""
    fit, other = result("estimator/accuracy.json", "fit"), result("estimator/other_sources.json")
    checked = result("estimator/accuracy.json", "validation", "memory · all")
    memory, speed, fast = fit["memory · all"], fit["speed · all"], other["other_rows"]["tables"]["speed · all"]
    assert checked["above_high"] == memory["above_high"] == 0.0
    yield f"On {memory['rows']} published peaks"
    yield f"memory is {percent(memory['mean_absolute_error'])} off on average"
    yield f"on {checked['rows']} of another source {percent(checked['mean_absolute_error'], 1)}, none above"
    every = other["all"]["memory"]
    yield f"On {every['rows']} peaks of {other['all']['sources']} more sources, which formulas were corrected by"
    yield f"it is {percent(every['mean_absolute_error'])} off, {percent(every['median_absolute_error'])} in the median"
    yield f"{percent(speed['median_absolute_error'])} off in the median on {speed['rows']} fitted runs"
    yield f"{percent(fast['median_absolute_error'])} on {fast['rows']} of other sources"


def compared():
    """Other estimators on rows that nobody fitted on: of those that answer most, the closest."""
    everything = result("estimator/peers.json", "elsewhere", "memory", "one card")
    ours = everything.pop("finetree")["peer"]
    most = {name: each for name, each in everything.items() if each["peer"]["n"] > ours["n"] / 2}
    best = min(most.values(), key=lambda each: each["peer"]["mean_absolute_percent"])
    (off, _), (theirs, same) = errors(ours, ours), errors(best["peer"], best["finetree_on_the_same"])
    yield f"On the {ours['n']} of all these that are of one card it is {off[0]} off"
    yield f"the best other open tool answers {best['peer']['n']} of them, {theirs[0]} off where it is {same[0]}"


def errors(*scores: dict[str, float]) -> list[list[str]]:
    """Mean and median error of each score."""
    return [[percent(each[f"{kind}_absolute_percent"] / 100) for kind in ("mean", "median")] for each in scores]


def recommended():
    """Speed of the recommender and of the estimator."""
    milliseconds = result("recommender/speed.json", "with_estimator", "new", "p50_ms")
    yield f"with its prices takes {milliseconds:.0f} ms in the median"
    yield f"an estimate {result('estimator/speed.json', 'estimate', 'p50_ms'):.0f} ms"
    yield f"a sweep of 100 estimates {result('estimator/speed.json', 'sweep_of_100', 'p50_ms') / 1000:.1f} s"


def trained():
    """The worker's speed beside other trainers."""
    methods = {each["method"]: each for each in result("worker/against_trl_amx.json", "methods")}
    assert all(each["same_curve"] for each in methods.values())
    ratio = {name: f"{each['ratio']:.2f}" for name, each in methods.items()}
    yield f"LoRA trains {ratio['lora']} times as many tokens"
    yield f"QLoRA {ratio['qlora']}, prefix tuning {ratio['prefix']} and full fine-tuning {ratio['full']} times"
    yield f"adapter layers {ratio['adapter']} times"
    memory = [each["own"]["peak_bytes"] / each["peer_figures"]["peak_bytes"] for each in methods.values()]
    yield f"in {100 * min(memory):.0f} to {percent(max(memory))} of the peer's memory"
    whole = result("worker/against_trl_whole.json", "methods")[0]["seconds"]
    own, peer = (statistics.median(whole[side]) for side in ("own", "peer"))
    yield f"takes {own:.0f} s for TRL's {peer:.0f}"
    held = [result(f"worker/against_trl_held_to_{name}.json", "methods")[0] for name in ("avx512", "avx2")]
    assert all(each["same_curve"] for each in held)
    yield f"to AVX-512 LoRA is {held[0]['ratio']:.2f} times as fast, to AVX2 in float32 {held[1]['ratio']:.2f} times"
    flops = [4 * SMOLLM2_PARAMETERS * each["own"]["tokens_per_second"] for each in held]
    rates = [each["machine"]["gflops"][name] for each, name in zip(held, ("bf16", "fp32"), strict=True)]
    shares = [100 * flop / rate / 1e9 for flop, rate in zip(flops, rates, strict=True)]
    yield f"at {shares[0]:.0f} and {shares[1]:.0f} % of what matrix products allow"
    xeon = [result(f"worker/against_trl_xeon_{name}.json", "methods")[0] for name in ("fp32", "bf16")]
    assert all(each["same_curve"] and f"{each['ratio']:.2f}" == "2.06" for each in xeon)
    flops = [4 * SMOLLM2_PARAMETERS * each["own"]["tokens_per_second"] for each in xeon]
    rates = [each["machine"]["gflops"][name] for each, name in zip(xeon, ("fp32", "bf16"), strict=True)]
    shares = [100 * flop / rate / 1e9 for flop, rate in zip(flops, rates, strict=True)]
    yield "float32 products are the faster ones, LoRA is 2.06 times as fast"
    yield f"at {shares[0]:.0f} and {shares[1]:.0f} % of what matrix products allow"
    slower = {each["method"]: each for each in result("worker/against_trl_avx512.json", "methods")}
    assert all(each["same_curve"] for each in slower.values())
    ratio = {name: f"{each['ratio']:.2f}" for name, each in slower.items()}
    yield f"LoRA is {ratio['lora']} times as fast, QLoRA {ratio['qlora']}, prefix tuning {ratio['prefix']}"
    yield f"full fine-tuning {ratio['full']} and adapter layers {ratio['adapter']} times"
    memory = [each["own"]["peak_bytes"] / each["peer_figures"]["peak_bytes"] for each in slower.values()]
    yield f"in {100 * min(memory):.0f} to {percent(max(memory))} of the memory"


def decoded():
    """Answers beside transformers' `generate`: at least as many tokens a second, and the same ones in float32."""
    whole, half = (result(f"worker/{name}.json", "cases") for name in ("generate", "generate_bf16"))
    rows = ("one answer", "one answer, long prompt", "four answers", "one answer of a LoRA")
    for row, *both in zip((*rows, "the base and three LoRA in one batch"), whole, half, strict=True):
        assert all(each["times_as_fast_lowest"] >= 1 for each in both), row
        assert both[0]["equal_answers"], row
        yield (
            f"| {row} | "
            + " | ".join(f"{each['tokens_per_second']:.1f} | {each['times_as_fast']:.2f}" for each in both)
            + " |"
        )


def stored():
    """What both databases take, and how late replicas see it."""
    both = [result("trainer/databases.json", name) for name in ("embedded", "postgresql")]
    for jobs, row in ((1, "events a second, 1 job"), (10, "10 jobs"), (100, "100 jobs")):
        yield f"| {row} | " + " | ".join(f"{each[f'jobs_{jobs}']['events_per_second']:,.0f}" for each in both) + " |"
    yield "p99 with 10 jobs | " + " | ".join(f"{each['jobs_10']['p99_ms']:.1f} ms" for each in both)
    created = (each["create_job"] for each in both)
    yield "p50 and p99 | " + " | ".join(f"{each['p50_ms']:.0f} and {each['p99_ms']:.0f} ms" for each in created)
    one, three = (result("trainer/replicas.json", "replicas", count) for count in ("1", "3"))
    late = three["lag"]
    yield f"at the leader, p99 | {one['lag']['leader']['p99_ms']} ms | {late['leader']['p99_ms']} ms"
    yield f"at another replica, p99 | | {max(each['p99_ms'] for name, each in late.items() if name != 'leader')} ms"
    yield f"events a second at most | {one['events_per_second']:,.0f} | {three['events_per_second']:,.0f}"


def fleet():
    """Where a fleet's walls are: `benchmarks/trainer/fleet.py`."""
    sizes = {(each["devices"], each["jobs"]): each for each in result("trainer/fleet.json", "sizes")}
    for (devices, jobs), each in sorted(sizes.items()):
        cpu, look = each["round"], each["look_of_the_watch"]["cpu_median_ms"]
        figures = f"{cpu['cpu_median_ms']:.1f} | {cpu['cpu_p99_ms']:.0f} | {cpu['wall_median_ms']:.0f} | {look:.1f}"
        yield f"| {devices:,} | {jobs:,} | {each['most_running']:,} | {figures} | {each['peak_mib']} |"
    for each in result("trainer/fleet.json", "before"):
        now = sizes[each["devices"], each["jobs"]]
        for name in ("round", "look_of_the_watch"):
            assert each[name]["cpu_median_ms"] > now[name]["cpu_median_ms"]
        parts = [
            f"{part[name]['cpu_median_ms']:.1f}" for name in ("round", "look_of_the_watch") for part in (each, now)
        ]
        yield f"| {each['devices']:,} | {' | '.join(parts)} |"
    walls = result("trainer/fleet.json", "walls")
    first, second, third, fourth = walls["devices"].items()
    assert [first[0], second[0], third[0], fourth[0]] == [
        "database_commits", "one_core_of_the_trainer", "starts_of_workers", "scheduling_rounds"
    ]  # fmt: skip
    yield f"| 1 | commits of one PostgreSQL | {first[1]:,.0f} |"
    yield f"| 2 | one core of the trainer: changes of jobs | {second[1]:,.0f} |"
    yield f"| 3 | starts of workers on one Ray cluster | {third[1]:,.0f} |"
    yield f"| 4 | one core of the trainer: scheduling rounds | {fourth[1]:,.0f} |"
    yield f"{walls['running_jobs']:,} jobs run on 10,000 devices"
    taken = walls["postgresql_changes_per_second"]
    yield f"{walls['events_needed_per_second']:,} commits a second, and one PostgreSQL takes {taken:.0f}"
    for batch, count in walls["trainers_needed"].items():
        yield f"| {batch} | {walls['devices_by_events_of_a_change'][batch]:,.0f} | {count} |"
    yield f"{walls['starts_needed_per_second']:.2f} starts a second"
    queued = walls["cores_of_rounds"]
    yield f"{percent(queued['1000'])} of a core with 1,000 jobs that wait, {percent(queued['100000'])} with 100,000"
    watchers = walls["watchers"]
    yield f"{percent(watchers['cores'])} of a core and {watchers['mib']:.0f} MiB"
    end = result("trainer/fleet.json", "to_the_end")
    assert end["violations"] == []
    assert end["ended"] == end["jobs"]
    used = (percent(end[f"utilisation_while_{name}"]) for name in ("all_projects_wait", "jobs_wait"))
    yield "{} of the devices were held while jobs of all projects waited, {} while any waited".format(*used)
    for name, wait in end["wait_hours"].items():
        yield f"{percent(end['shares'][name], 1)} | {wait['median']:.1f} | {wait['max']:.1f} |"
    for count, wait in end["wait_hours_by_devices"].items():
        yield f"{wait['count']} jobs of {count}: {wait['median']:.1f} hours (at most {wait['max']:.1f})"
    again = end["again_after_failure_seconds"]
    yield f"{end['node_failures']} nodes failed, and {again['count']} jobs"
    yield f"{again['median']:.0f} s (at most {again['max']:.0f})"


def test_the_tables_of_the_page_on_accuracy_are_those_of_the_results():
    """`python benchmarks/estimator/accuracy_page.py` writes them."""
    text = accuracy_page.PAGE.read_text(encoding="utf-8")

    assert accuracy_page.page(text) == text


@pytest.mark.parametrize("words", [*estimated(), *compared(), *recommended(), *trained(), *decoded(), *stored()])
def test_a_figure_of_the_page_on_results_is_the_measured_one(words):
    assert words in RESULTS_PAGE


@pytest.mark.parametrize("words", [*fleet()])
def test_a_figure_of_the_page_on_limits_of_scale_is_the_measured_one(words):
    assert words in LIMITS_PAGE


def test_the_page_of_several_devices_has_the_figures_of_its_benchmark():
    found = result("worker/several_devices.json")
    page = (ROOT / "docs/several-devices.md").read_text(encoding="utf-8")
    names = {"full fp32": "full", "lora fp32": "LoRA", "qlora nf4 fp32": "QLoRA", "prefix fp32": "prefix"}
    lines: dict[str, str] = {}
    for run in found["runs"]:
        name = names.get(run["case"], run["case"].partition(" ")[0])
        if run["count"] == 1:
            lines[name] = f"| {name} | {run['tokens_per_second']:.0f} tokens/s |"
            continue
        peak = max(int(rank["peak_memory_bytes"]) for rank in run["ranks"]) / 2**30
        lines[name] += f" {run['speedup']:.2f}; {peak:.1f} GiB |"
    assert len(lines) == 5
    for line in lines.values():
        assert line in page
    for run in found["runs"]:
        assert run["loss_difference_nats"] < (4e-5 if run["case"] == "full fp32" else 3.5e-6)
    assert f"({found['device']['fp32_flops_per_second'] / 1e12:.2f} TFLOP/s in float32)" in page
