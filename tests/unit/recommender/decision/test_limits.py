# SPDX-License-Identifier: Apache-2.0
"""Limits of time, cost, serving and hardware, and the priorities: what they change in the verdict."""

from dataclasses import replace
from typing import Any

import pytest
from finetree_api.types.v1 import evidence_pb2
from finetree_recommender.decision.limits import violations
from finetree_recommender.decision.stages import choose
from finetree_recommender.estimator.values import Accelerator, Catalog, Estimate, Evidence, FitState
from finetree_recommender.explain.reasons import Standing
from finetree_recommender.method import Method
from finetree_recommender.recommend import Recommendation, conclude
from finetree_recommender.request.inputs import normalize
from finetree_recommender.request.limits import Limits
from finetree_recommender.rule_pack.answers import SERVING_WORDS, Answers
from finetree_recommender.rule_pack.pack import builtin_packs
from finetree_runtime.money import to_money
from google.protobuf import json_format


def usd(amount: float) -> dict[str, Any]:
    """A Money in proto JSON."""
    return json_format.MessageToDict(to_money(amount, "USD"))


GIB = 2**30
ALL_FIT = {"full": "FITS", "lora": "FITS", "qlora": "FITS", "prefix": "FITS", "adapter": "FITS"}
# Hours and USD of one run, so that each method is fastest or cheapest by a margin.
HOURS = {Method.FULL: 20, Method.LORA: 4, Method.QLORA: 6, Method.PREFIX: 3, Method.ADAPTER: 5}
USD = {Method.FULL: 40, Method.LORA: 8, Method.QLORA: 5, Method.PREFIX: 6, Method.ADAPTER: 9}


def gpu(gb):
    return {"unknown_accelerator": {"marketed_memory_gb": gb}}


def estimate(method, fit="FITS", currency="USD"):
    def point(value: float, spread: float = 1.0) -> evidence_pb2.Interval:
        return evidence_pb2.Interval(low=value / spread, expected=value, high=value * spread)

    state, hours = FitState(fit), HOURS[method] * 3600
    cost = evidence_pb2.MoneyInterval(amount=point(USD[method], 1.5), currency_code=currency)
    return Estimate(state, point(8.0 * GIB), 24 * GIB, point(hours, 1.5), cost, 100)


def figures(**fit: str) -> Evidence:
    rows = {(method, 0): estimate(method, fit.get(method.field, "FITS")) for method in Method}
    return Evidence(rows, evidence_pb2.Revision(), 7_000_000_000)


def codes(answer):
    return [caution.code for caution in answer.cautions]


def reason_codes(answer, method):
    return [reason.code for item in answer.methods if item.method is method for reason in item.reasons]


@pytest.fixture
def ask(pack, read):
    return lambda found=None, **fields: conclude(
        pack, read(**{"parameters": 7_000_000_000, **fields}), found, missing="" if found else "HARDWARE_UNKNOWN"
    )


def test_a_method_over_the_time_limit_gives_way_to_the_next_that_keeps_it(ask):
    kept = ask(figures(), hardware=gpu(24), time="TIME_NEED_HOURS", max_duration="14400s")
    late = ask(figures(), hardware=gpu(24), time="TIME_NEED_HOURS", max_duration="14399s")
    assert (kept.decision.method, kept.decision.verdict.overruled_rule_id) == (Method.LORA, "")
    assert (late.decision.method, late.decision.verdict.rule_id) == (Method.PREFIX, "limit.max_duration")
    assert late.decision.verdict.overruled_rule_id == "votes.plurality"
    assert reason_codes(late, Method.LORA)[0] == "OVER_MAX_DURATION"
    assert reason_codes(late, Method.PREFIX)[0] == "KEEPS_LIMITS"
    assert all(fact in late.methods[0].reasons[0].message for fact in ("LoRA", "4 h"))
    passed = [step for step in late.trace if step.stage == "limits"]
    assert [step.rule_id for step in passed] == ["limit.max_duration", "limit.max_duration", "limit.max_duration"]
    assert "4 h" in passed[0].outcome


def test_a_method_over_the_budget_of_a_run_gives_way(ask):
    answer = ask(figures(), hardware=gpu(24), time="TIME_NEED_HOURS", budget_per_run=usd(5.5))
    assert (answer.decision.method, answer.decision.verdict.rule_id) == (Method.QLORA, "limit.budget")
    lora = next(item for item in answer.methods if item.method is Method.LORA)
    assert lora.standing is Standing.REJECTED
    assert all(amount in lora.reasons[0].message for amount in ("8.00 USD", "5.50 USD"))


def test_contradictory_limits_get_the_rules_answer_and_what_each_breaks(ask):
    """Maximum quality, in minutes, for 5 USD."""
    fields = {"quality": "QUALITY_NEED_MAXIMUM", "time": "TIME_NEED_MINUTES", "budget_per_run": usd(4.5)}
    answer = ask(figures(), hardware=gpu(80), max_duration="600s", **fields)
    by_code = {caution.code: caution.message for caution in answer.cautions}
    assert answer.decision.method is not None
    assert all(fact in by_code["OVER_MAX_DURATION"] for fact in ("10 min", "prefix tuning", "3 h"))
    assert all(
        fact in by_code["OVER_BUDGET"] for fact in ("4.50 USD", "QLoRA", "5.00 USD", "ownership.owned.price_per_kwh")
    )
    assert ask(figures(), hardware=gpu(16), budget_per_run=usd(1)).decision.method is Method.QLORA
    owned = ask(figures(), hardware=gpu(80), ownership={"owned": {"price_per_kwh": usd(0.3)}}, **fields)
    assert not [item for item in owned.cautions if "ownership" in item.message]
    assert "CONTRADICTORY_ANSWERS" not in by_code  # the limits' own cautions say by how much
    assert answer.confidence.level == "LOW"
    assert "LIMITS_UNMET" in {factor.code for factor in answer.confidence.factors}


def test_a_limit_that_is_kept_is_not_among_the_answers_that_are_not_met(ask):
    """The budget votes for QLoRA and the days for full fine-tuning: LoRA takes 4 hours and 8 USD."""
    fields = {"quality": "QUALITY_NEED_CRITICAL", "time": "TIME_NEED_DAYS", "tasks": "TASK_VARIETY_SIMILAR"}
    kept = ask(figures(), hardware=gpu(24), budget_per_month=usd(75), **fields)
    assert kept.decision.method is Method.LORA
    assert "CONTRADICTORY_ANSWERS" not in codes(kept)
    # Ten runs of LoRA cost 80 USD; QLoRA keeps the budget, and not the quality.
    broken = ask(figures(), hardware=gpu(24), budget_per_month=usd(75), runs_per_month=10, **fields)
    told = {caution.code: caution.message for caution in broken.cautions}
    assert broken.decision.method is Method.QLORA
    assert "quality critical" in told["CONTRADICTORY_ANSWERS"]
    assert not any(word in told["CONTRADICTORY_ANSWERS"] for word in ("days", "budget"))


def test_what_no_figure_tells_is_not_called_unmet(ask):
    """The time votes for prefix tuning, the budget for LoRA: without hardware and rows nobody knows either."""
    asked = {"time": "TIME_NEED_MINUTES", "quality": "QUALITY_NEED_CRITICAL", "tasks": "TASK_VARIETY_SIMILAR"}
    unknown = ask(None, **asked)
    (told,) = [caution.message for caution in unknown.cautions if caution.code == "CONTRADICTORY_ANSWERS"]
    assert unknown.decision.method is Method.LORA
    assert told.endswith("the one chosen may not meet: time minutes (for prefix tuning)")
    # With a figure that is too long, the caution on the time says by how much, once.
    slow = ask(figures(), hardware=gpu(24), **asked)
    assert "SLOWER_THAN_ASKED" in codes(slow)
    assert "CONTRADICTORY_ANSWERS" not in codes(slow)


def test_a_method_that_reaches_the_quality_and_keeps_the_limits_is_named(read):
    """In minutes evidence-1 takes LoRA; where full fine-tuning is as quick, maximum quality is to be had by it."""
    fields = {"quality": "QUALITY_NEED_MAXIMUM", "time": "TIME_NEED_MINUTES", "hardware": gpu(80)}
    rules = builtin_packs()["evidence-1"]

    def told(found: Evidence, **more: Any) -> Any:
        answer = conclude(rules, read(parameters=7_000_000_000, **fields, **more).reread(rules), found)
        assert answer.decision.method is Method.LORA
        (caution,) = [each for each in answer.cautions if each.code == "BELOW_QUALITY_NEED"]
        return caution

    quick = figures()
    rows = {
        key: replace(row, total_seconds=evidence_pb2.Interval(low=100, expected=120, high=140))
        for key, row in quick.rows.items()
    }
    named = told(Evidence(rows, quick.revision, quick.parameters))
    assert named.message.endswith("; full fine-tuning fits here too, in about 2 min")
    assert named.redirect is Method.FULL
    # Not where it takes longer than minutes, is over the budget, or fits only tightly.
    tight = {key: replace(row, fit=FitState.TIGHT) if key[0] is Method.FULL else row for key, row in rows.items()}
    for found, more in (
        (quick, {}),
        (Evidence(rows, quick.revision, quick.parameters), {"budget_per_run": usd(9)}),
        (Evidence(tight, quick.revision, quick.parameters), {}),
    ):
        assert told(found, **more).redirect is None


def test_adapters_of_any_kind_meet_several_tasks(ask):
    """The playbook votes for LoRA where tasks are similar; QLoRA's adapters can be switched as well."""
    fields = {"quality": "QUALITY_NEED_ACCEPTABLE", "tasks": "TASK_VARIETY_SIMILAR", "budget_per_month": usd(75)}
    answer = ask(figures(), hardware=gpu(16), **fields)
    assert answer.decision.method is Method.QLORA
    assert "CONTRADICTORY_ANSWERS" not in codes(answer)
    whole = {"quality": "QUALITY_NEED_MAXIMUM", "time": "TIME_NEED_DAYS", "tasks": "TASK_VARIETY_SIMILAR"}
    full = ask(figures(), hardware=gpu(80), budget_per_month=usd(5000), **whole)
    assert full.decision.method is Method.FULL
    (told,) = [caution.message for caution in full.cautions if caution.code == "CONTRADICTORY_ANSWERS"]
    assert told.endswith("the one chosen does not meet: tasks similar (for LoRA)")


def test_where_nothing_trains_no_answer_is_called_unmet(ask):
    asked = {"time": "TIME_NEED_MINUTES", "quality": "QUALITY_NEED_CRITICAL"}
    nothing = figures(**dict.fromkeys(ALL_FIT, "DOES_NOT_FIT"))
    answer = ask(nothing, hardware=gpu(24), **asked)
    assert answer.decision.method is None
    assert "CONTRADICTORY_ANSWERS" not in codes(answer)


def test_of_methods_that_all_break_a_limit_the_one_that_breaks_fewest_is_taken(ask):
    # Nothing is done in an hour; only QLoRA is within 5 USD.
    answer = ask(figures(), hardware=gpu(24), time="TIME_NEED_HOURS", max_duration="3600s", budget_per_run=usd(5))
    assert answer.decision.method is Method.QLORA
    assert "OVER_MAX_DURATION" in codes(answer)
    assert "OVER_BUDGET" not in codes(answer)


def test_less_quality_than_asked_for_is_cautioned_with_both_numbers(ask):
    answer = ask(figures(full="DOES_NOT_FIT"), hardware=gpu(24), quality="QUALITY_NEED_MAXIMUM")
    caution = next(item for item in answer.cautions if item.code == "BELOW_QUALITY_NEED")
    assert all(fact in caution.message for fact in ("LoRA", "95 percent", "100"))


def test_a_limit_without_a_figure_is_unchecked(ask, evidence):
    unknown = ask(max_duration="3600s", budget_per_run=usd(5))
    assert {"MAX_DURATION_UNCHECKED", "BUDGET_UNCHECKED"} <= set(codes(unknown))
    euros = figures()
    rows = {(method, 0): estimate(method, currency="EUR") for method in Method}
    other = ask(Evidence(rows, euros.revision, None), hardware=gpu(24), budget_per_run=usd(5))
    assert "BUDGET_UNCHECKED" in codes(other)


def test_a_limit_within_the_interval_is_at_risk(ask):
    answer = ask(figures(), hardware=gpu(24), time="TIME_NEED_HOURS", max_duration="18000s", budget_per_run=usd(9))
    assert answer.decision.method is Method.LORA
    assert {"MAX_DURATION_AT_RISK", "BUDGET_AT_RISK"} <= set(codes(answer))


def test_without_an_estimator_the_packs_own_hours_are_checked_and_named(ask):
    answer = ask(hardware=gpu(24), max_duration="7200s", time="TIME_NEED_HOURS", dataset_profile={"examples": 5000})
    assert answer.decision.method is Method.PREFIX
    lora = next(item for item in answer.methods if item.method is Method.LORA)
    assert "by the playbook's table for 7B models" in lora.reasons[0].message


@pytest.mark.parametrize("parameters", [135_000_000, 405_000_000_000])
def test_nothing_is_priced_from_the_table_for_a_model_of_another_size(ask, parameters):
    rows = {"dataset_profile": {"examples": 5000}}
    answer = ask(parameters=parameters, budget_per_run=usd(1), max_duration="7200s", **rows)
    assert answer.decision.method is Method.LORA
    assert {"MAX_DURATION_UNCHECKED", "BUDGET_UNCHECKED"} <= set(codes(answer))
    assert all(item.figures.cost is item.figures.total_seconds is None for item in answer.methods)
    assert ask(budget_per_run=usd(1), **rows).decision.method is Method.PREFIX


@pytest.mark.parametrize("target", SERVING_WORDS)
def test_a_method_that_no_server_loads_is_passed_over(ask, pack, target):
    fields = {"hardware": gpu(24), "serving": [f"SERVING_TARGET_{target}"], "tasks": "TASK_VARIETY_MANY_DIFFERENT"}
    answer = ask(figures(), **fields)
    if target in ("TRANSFORMERS", "FINETREE"):
        assert answer.decision.method is Method.ADAPTER
        return
    assert answer.decision.method is Method.LORA
    assert reason_codes(answer, Method.ADAPTER)[0] == "NOT_SERVABLE"
    assert reason_codes(answer, Method.PREFIX)[0] == "NOT_SERVABLE"
    assert "SERVING_NOTE" in codes(answer)


def test_8_gb_and_vllm_take_qlora_where_the_playbook_says_prefix(ask):
    found = figures(full="DOES_NOT_FIT", lora="DOES_NOT_FIT", adapter="DOES_NOT_FIT")
    answer = ask(found, hardware=gpu(8), serving=["SERVING_TARGET_VLLM"])
    assert answer.decision.choice.method is Method.PREFIX
    assert (answer.decision.method, answer.decision.verdict.rule_id) == (Method.QLORA, "serving.vllm.prefix")


def test_where_nothing_that_runs_can_be_served_the_answer_says_so(ask):
    answer = ask(hardware=gpu(8), serving=["SERVING_TARGET_VLLM", "SERVING_TARGET_OLLAMA"])
    assert answer.decision.method is Method.PREFIX
    assert codes(answer).count("NOT_SERVABLE") == 2


def test_a_rank_above_the_default_of_vllm_is_cautioned(ask):
    fields = {"hardware": gpu(24), "serving": ["SERVING_TARGET_VLLM"], "profile": "RECIPE_PROFILE_EVIDENCE"}
    large = ask(figures(), dataset_profile={"examples": 50000}, **fields)
    small = ask(figures(), dataset_profile={"examples": 500}, **fields)
    assert any("--max-lora-rank 32" in caution.message for caution in large.cautions)
    assert not any("--max-lora-rank" in caution.message for caution in small.cautions)


@pytest.mark.parametrize(
    ("gb", "fields", "method"),
    [
        (
            24,
            {"use_case": "USE_CASE_ENTERPRISE", "budget_per_month": usd(10000), "quality": "QUALITY_NEED_MAXIMUM"},
            "FULL",
        ),
        (8, {}, "LORA"),
        (80, {}, None),
    ],
)
def test_renting_names_the_smallest_gpu_of_the_best_method(ask, gb, fields, method):
    """An enterprise with a budget and a smaller GPU gets LoRA, with a caution on full fine-tuning on a rented one."""
    answer = ask(figures(full="DOES_NOT_FIT"), hardware=gpu(gb), can_rent=True, **fields)
    cautioned = [caution for caution in answer.cautions if caution.code == "RENTING_CHANGES_METHOD"]
    assert [caution.redirect for caution in cautioned] == ([method] if method else [])
    if method == "FULL":
        assert answer.decision.method is Method.LORA
        assert "80 GB" in cautioned[0].message
    silent = ask(figures(full="DOES_NOT_FIT"), hardware=gpu(gb), **fields)
    assert "RENTING_CHANGES_METHOD" not in codes(silent)


def test_every_server_loads_the_usual_methods(pack):
    for target in SERVING_WORDS:
        served = {m for m in Method if not violations(pack, Limits(serving=(target,)), None)[m]}
        # This suite's own loader is for what no other program loads.
        assert served >= ({Method.ADAPTER} if target == "FINETREE" else {Method.FULL, Method.LORA, Method.QLORA})


@pytest.mark.parametrize(("capability", "passes"), [(5.2, False), (6.0, True), (8.9, True), (None, True)])
def test_a_4_bit_base_needs_compute_capability_6(pack, capability, passes):
    found = violations(pack, Limits(capability=capability), None)
    assert [item.code for item in found[Method.QLORA]] == ([] if passes else ["NO_NF4"])
    assert not found[Method.LORA]


def test_what_an_old_gpu_cannot_do_is_cautioned(pack, ask):
    card = Accelerator(8, False, "gtx-1080", "GeForce GTX 1080", 6.1)
    newer = Accelerator(8, True, "rtx-4060", "GeForce RTX 4060", 8.9)
    catalog = Catalog(accelerators={"gtx-1080": card, "rtx-4060": newer})

    def answer_on(name: str) -> Recommendation:
        request = ask(hardware=gpu(8)).inputs.request
        request.hardware.accelerator = name
        return conclude(pack, normalize(request, pack, catalog), figures())

    assert "NO_BF16" in codes(answer_on("GTX 1080"))
    assert "NO_INT8" in reason_codes(answer_on("GTX 1080"), Method.QLORA)
    assert "NO_BF16" not in codes(answer_on("RTX 4060"))
    assert "NO_INT8" not in reason_codes(answer_on("RTX 4060"), Method.QLORA)


@pytest.mark.parametrize(
    ("priorities", "method"),
    [
        (("QUALITY",), "FULL"), (("SPEED",), "PREFIX"), (("COST",), "QLORA"), (("MEMORY",), "QLORA"),
        (("SIMPLICITY",), "LORA"), (("MODULARITY",), "ADAPTER"), (("MODULARITY", "QUALITY"), "ADAPTER"),
        (("COST", "QUALITY"), "QLORA"), ((), "LORA"),
    ],
)  # fmt: skip
def test_what_matters_decides_where_nothing_else_does(pack, priorities, method):
    """As the playbook's own short answers have it (L297-L327)."""
    choice = choose(pack, Answers(priorities=priorities))
    assert choice.method == method
    assert (choice.steps[-1].stage == "priorities") is bool(priorities)


def test_the_next_priority_decides_what_the_first_leaves_tied(pack):
    first = choose(pack, Answers(quality="ACCEPTABLE", priorities=("MODULARITY",)))
    second = choose(pack, Answers(quality="ACCEPTABLE", priorities=("MODULARITY", "SPEED")))
    # QLoRA and prefix tuning are tied, and one as modular as the other.
    assert (first.method, second.method) == (Method.QLORA, Method.PREFIX)
    assert second.rule_id == "tie.speed"


def test_priorities_do_not_outvote_answers(pack):
    choice = choose(pack, Answers(memory="24", time="HOURS", priorities=("SPEED",)))
    assert choice.method is Method.LORA


def test_a_first_time_breaks_ties_towards_the_simplest(pack):
    fields = {"memory": "80", "budget": "unlimited", "quality": "ACCEPTABLE", "time": "MINUTES", "tasks": "SINGLE"}
    assert choose(pack, Answers(**fields)).method is Method.PREFIX
    beginner = choose(pack, Answers(memory="24", quality="ACCEPTABLE", experience="BEGINNER"))
    assert (beginner.method, beginner.rule_id) == (Method.LORA, "tie.beginner")


@pytest.mark.parametrize(
    ("fields", "method", "code"),
    [
        ({"behavior_change": "BEHAVIOR_CHANGE_MINOR"}, Method.LORA, "CAUTION_LORA_TINY"),
        ({"behavior_change": "BEHAVIOR_CHANGE_SIGNIFICANT"}, Method.PREFIX, "CAUTION_PREFIX_CHANGE"),
        ({"experience": "EXPERIENCE_BEGINNER"}, Method.ADAPTER, "CAUTION_ADAPTER_BEGINNER"),
        ({"task_count": 5}, Method.FULL, "CAUTION_FULL_COPIES"),
    ],
)
def test_the_playbooks_advice_on_the_new_answers_is_given(ask, fields, method, code):
    assert code in reason_codes(ask(hardware=gpu(80), **fields), method)
    assert code not in reason_codes(ask(hardware=gpu(80)), method)


def test_how_a_server_is_started_is_one_sentence(ask):
    answer = ask(figures(), hardware=gpu(24), serving=["SERVING_TARGET_TGI"])
    assert answer.decision.method is Method.LORA
    notes = [caution.message for caution in answer.cautions if caution.code == "SERVING_NOTE"]
    assert any(" To serve it: " in note and "; start it with --model-id BASE " in note for note in notes), notes
    assert not any(". start it" in note for note in notes)


def test_prefix_tuning_is_not_for_uneven_keys(pack):
    broken = violations(pack, Limits(uneven_keys=True), None)
    assert {method for method in Method if broken[method]} == {Method.PREFIX}
    assert [(item.code, item.hard) for item in broken[Method.PREFIX]] == [("NO_KEYS_AND_VALUES", True)]


def test_a_model_of_uneven_layers_is_recommended_what_can_be_trained(ask):
    """Eight GB: the playbook's method is prefix tuning."""
    linear = {"layers": 18, "key_heads": 16, "key_head_dim": 128, "value_heads": 16, "value_head_dim": 128}
    shape = {"hidden_size": 1024, "layers": 24, "intermediate_size": 3584, "attention_heads": 8, "vocab_size": 248320}
    plain = ask(figures(), hardware=gpu(8), model={"shape": shape})
    assert plain.decision.method is Method.PREFIX
    full = {"sliding_window": 512, "full_attention_layers": 4, "full_attention": {"kv_heads": 1, "head_dim": 512}}
    latent = {"key_value_rank": 512, "plain_head_dim": 128, "rotary_head_dim": 64, "value_head_dim": 128}
    others = ({"convolution": {"layers": 10}}, {"latent_attention": latent})
    for other in ({"linear_attention": linear}, full, {"kv_shared_layers": 8}, *others):
        answer = ask(figures(), hardware=gpu(8), model={"shape": shape | other})
        assert answer.decision.method is not Method.PREFIX
        assert "NO_KEYS_AND_VALUES" in reason_codes(answer, Method.PREFIX)
