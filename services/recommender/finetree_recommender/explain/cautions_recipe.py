# SPDX-License-Identifier: Apache-2.0
"""Cautions on the recipe: truncated rows, too little data, uncertain rates, rounding, experts."""

import math
from collections.abc import Iterator

from finetree_api.types.v1 import hardware_pb2, training_data_pb2, training_pb2
from finetree_runtime.runspec.defaults import UNKNOWN_SEQUENCE_LENGTH

from finetree_recommender.decision.fit import room
from finetree_recommender.decision.situation import Situation
from finetree_recommender.formatting import duration
from finetree_recommender.method import Method, listed
from finetree_recommender.recipe.build import Recipe
from finetree_recommender.recipe.draft import BATCH, PRECISION, SEQUENCE, sequence_length
from finetree_recommender.recipe.tables import tables_of
from finetree_recommender.recipe.truncation import loss_at
from finetree_recommender.rule_pack.schema.recipe import Row
from finetree_recommender.trace import Caution

_RATE = "training.learning_rate"
_SWEPT = (Method.FULL, Method.LORA, Method.QLORA)
"""Methods with many published learning rates."""
BILLION = 1e9
_MUCH = 0.05
"""Share of the tokens from which it is told what the longest rows lose."""
_MANY_ROWS = 10_000
"""Rows from which fewer may be enough; below, the recipes' tables call data small."""


def cut_rows(situation: Situation, built: Recipe | None) -> Iterator[Caution]:
    """Rows that are truncated, to fit in memory or in the model's longest sequence; how many, where that is known."""
    inputs, profile = situation.inputs, situation.inputs.profile
    if built is None or profile is None:
        return
    length = built.spec.training.sequence_length
    cut_to_fit, lost = length < sequence_length(situation.pack, inputs)[0], loss_at(profile, length)
    usual = not cut_to_fit and length >= inputs.suggested_length
    if usual and (lost is None or lost.share < _MUCH):
        return
    why = "at most one row in a hundred is longer" if usual else "the model's longest sequence"
    text = f"rows are truncated at {length:,} tokens, {'to make it fit' if cut_to_fit else why}: "
    if lost is None:
        text += f"longer ones lose their end{_average(profile)}; state their lengths (dataset_profile.token_lengths)"
    elif lost.rows:
        text += f"up to {lost.rows:,} of {profile.examples:,} are longer, and {lost.words} of all tokens are lost; "
        text += "split them"
    else:
        text += f"{lost.words} of all tokens are lost{_average(profile)}; split the rows"
    yield Caution("ROWS_CUT", f"{text}, or use more memory" if cut_to_fit else text, built.rule_id(SEQUENCE))


def _average(profile: training_data_pb2.DatasetProfile) -> str:
    """Average length of the rows, in words; empty where it is unknown."""
    mean = profile.total_tokens // profile.examples
    return f" (the average is {mean:,})" if mean else ""


def unknown_lengths(situation: Situation, built: Recipe | None) -> Iterator[Caution]:
    """Length that is assumed for the rows where it is unknown, which memory and time depend on."""
    profile = situation.inputs.profile
    if built is None or profile is None or profile.token_lengths or situation.evidence is None:
        return
    length, rule = built.spec.training.sequence_length, situation.pack.rules.sequence
    if not profile.total_tokens:
        text = f"the lengths of the rows are unknown: time and cost assume {length:,} tokens a row, and shorter rows "
        yield Caution(
            "LENGTHS_UNKNOWN",
            f"{text}take less; state the number of tokens (dataset_profile.total_tokens)",
            rule.unknown.id,
        )
    elif length > UNKNOWN_SEQUENCE_LENGTH and length == situation.inputs.suggested_length:
        text = f"only the average length of the rows is known: those above {length:,} tokens lose their end; "
        yield Caution("LENGTHS_UNKNOWN", f"{text}state their lengths (dataset_profile.token_lengths)", rule.p99.id)


def retrieval(situation: Situation, method: Method | None) -> Iterator[Caution]:
    """Retrieval as an alternative, where facts are to be learned."""
    rule = situation.pack.rules.retrieval
    if rule is not None and method is not None and situation.answers.task_domain == "KNOWLEDGE":
        text = "for facts, retrieval did better than fine-tuning where both were compared: try it first, "
        yield Caution("RETRIEVAL_FIRST", f"{text}or together; each fact needs several wordings in the data", rule.id)


def long_run(situation: Situation, method: Method | None) -> Iterator[Caution]:
    """A run of many days, and how to shorten it."""
    rule = situation.pack.rules.long_run
    if rule is None or method is None or situation.evidence is None:
        return
    seconds, most = situation.seconds(method), situation.pack.rules.longest_run
    if seconds is not None and rule.value < seconds <= (most.value if most is not None else math.inf):
        many = (situation.inputs.examples or 0) >= _MANY_ROWS
        less = "fewer rows (a few thousand selected ones may do as well)" if many else "a smaller model"
        profile, assumed = situation.inputs.profile, ""
        if profile is not None and not profile.total_tokens and not profile.token_lengths:
            assumed = f" if its rows have {sequence_length(situation.pack, situation.inputs)[0]:,} tokens"
        text = f"a run takes {duration(seconds)}{assumed}: {less}, fewer epochs or faster hardware make it shorter"
        yield Caution("LONG_RUN", text, rule.id)


def idle_devices(built: Recipe | None) -> Iterator[Caution]:
    """Devices that have no row of a batch."""
    if built is None:
        return
    rows, devices = built.spec.training.effective_batch_size, built.spec.hardware.count
    if devices > rows > 0:
        text = f"a batch of {rows} rows keeps {rows} of the {devices} devices busy: the others are paid for and idle"
        yield Caution("IDLE_DEVICES", text, built.rule_id(BATCH))


def implausible(situation: Situation) -> Iterator[Caution]:
    """Numbers that are more likely a mistake than a plan."""
    rows, seconds = situation.pack.rules.plausible, situation.pack.rules.longest_run
    examples, method = situation.inputs.examples, situation.decision.method
    if rows is not None and examples is not None and not rows.low <= examples <= rows.high:
        few = examples < rows.low
        counted = "1 row" if examples == 1 else f"{examples:,} rows"
        text = (
            "nothing is learned from so few that examples in the prompt would not do"
            if few
            else "nobody fine-tunes on so many"
        )
        yield Caution("IMPLAUSIBLE_INPUT", f"{counted} of data: {text}; check dataset_profile.examples", rows.id)
    takes = situation.seconds(method) if method is not None and situation.evidence is not None else None
    if seconds is not None and takes is not None and takes > seconds.value:
        text = f"a run would take {duration(takes)}: check the rows, their tokens and the hardware"
        yield Caution("IMPLAUSIBLE_INPUT", text, seconds.id)


def outside(situation: Situation, parameters: int | None) -> Iterator[Caution]:
    """A model of a size that the rules do not cover, for which the verdict is a default."""
    domain = situation.pack.rules.domain
    if parameters is not None and not domain.low <= parameters <= domain.high:
        sizes = f"{domain.low / BILLION:g} to {domain.high / BILLION:g} billion parameters"
        text = f"the rules are of models of {sizes}; for {parameters / BILLION:.3g} billion their verdict is a default"
        yield Caution("MODEL_OUT_OF_DOMAIN", text, domain.id)


def few_rows(situation: Situation) -> Iterator[Caution]:
    """Less data than guides ask for."""
    rule, examples, plausible = (
        situation.pack.rules.few_examples,
        situation.inputs.examples,
        situation.pack.rules.plausible,
    )
    if plausible is not None and examples is not None and examples < plausible.low:
        return
    if rule is not None and examples is not None and examples < rule.value:
        rows = "1 row" if examples == 1 else f"{examples} rows"
        text = f"only {rows} of data: guides ask for at least {rule.value:g} and recommend 500 to 1,000; "
        text += "try a few of them as examples in the prompt first, and hold some out for evaluation"
        yield Caution("FEW_EXAMPLES", text, rule.id)


def doubtful_rate(situation: Situation, method: Method | None, parameters: int | None) -> Iterator[Caution]:
    """A learning rate on which published recipes disagree widely."""
    if method not in _SWEPT or parameters is None:
        return
    rule, row = situation.pack.rules.rate_doubt, _rate_row(situation, method, parameters)
    if rule is None or row is None or len(row.range) != 2 or row.range[1] < rule.value * row.range[0]:
        return
    low, high = row.range
    text = f"published learning rates for this size range from {low:g} to {high:g}, a factor of {high / low:.0f}: "
    yield Caution("LEARNING_RATE_UNCERTAIN", f"{text}compare about three of them", row.id)


def _rate_row(situation: Situation, method: Method, parameters: int) -> Row | None:
    """The row that sets the rate by the size of the model, before factors for few rows and the like."""
    profile = "EVIDENCE" if situation.inputs.evidence_profile else "PLAYBOOK"
    tables = (table for table in tables_of(situation.pack, method, profile) if table.knob == _RATE)
    table = next((table for table in tables if not table.factor and table.input == "parameters"), None)
    rows = table.rows if table is not None else ()
    return next((row for row in rows if row.below is not None and parameters < row.below), None)


def rounding(situation: Situation, built: Recipe | None) -> Iterator[Caution]:
    """All weights in bfloat16, with a learning rate so low that rounding loses its updates."""
    rule = situation.pack.rules.bf16_rounding
    if rule is None or built is None or built.spec.WhichOneof("method") != "full":
        return
    spec = built.spec
    # Sharded training keeps float32 copies whatever is asked for.
    if spec.precision != training_pb2.PRECISION_BF16 or spec.hardware.sharding == hardware_pb2.SHARDING_FULL:
        return
    rate = spec.training.learning_rate
    if rate < rule.value:
        text = f"at a learning rate of {rate:g} bfloat16 weights lose many updates to rounding"
        instead = ["shard the model across the devices"] if spec.hardware.count > 1 else []
        if any(each.id == built.rule_id(PRECISION) for each in situation.pack.rules.adaptations):
            text += ", and float32 ones do not fit here"
        else:
            instead += ["take float32 weights where memory allows (8 to 10 bytes more a parameter)"]
        lora = situation.estimate(Method.LORA)
        trains = lora is not None and lora.fit.trains
        text += f": {Method.LORA}, whose weights are float32, loses none, and {room(lora)}; else " if trains else ": "
        text += listed([*instead, "take a higher rate"], "or")
        yield Caution("BF16_ROUNDING", text, rule.id, Method.LORA if trains else None)


def experts(situation: Situation, method: Method | None) -> Iterator[Caution]:
    """The experts of a model that has some: in 16 bits under a 4-bit base, and not adapted."""
    rule, model = situation.pack.rules.experts, situation.inputs.model
    if rule is None or model is None or model.experts < 2:
        return
    if method in (None, Method.QLORA):
        text = f"the {model.experts} experts of each layer stay in 16 bits even with a 4-bit base, since they are "
        text += (
            "stacked tensors and not linear layers; tools that quantize them need a fraction (127 to 23 GiB in one run)"
        )
        yield Caution("EXPERTS_NOT_QUANTIZED", text, rule.id)
    if method in (Method.LORA, Method.QLORA):
        text = f"the {model.experts} experts of each layer are most of this model and are not adapted by the recipe"
        more = "; lora.include_experts adapts them, with lora.dropout 0 and more memory"
        yield Caution("EXPERTS_NOT_ADAPTED", text + (more if method is Method.LORA else ""), rule.id)
