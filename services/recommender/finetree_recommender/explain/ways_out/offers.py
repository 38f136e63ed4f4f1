# SPDX-License-Identifier: Apache-2.0
"""Ways out of a request that nothing trains, from the estimator's answers and from what is published."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.types.v1 import hardware_pb2, run_spec_pb2
from finetree_runtime.runspec.defaults import UNKNOWN_SEQUENCE_LENGTH

from finetree_recommender.decision.fit import GIB, fits
from finetree_recommender.estimator.client import converted
from finetree_recommender.estimator.values import Accelerator, Estimate, Evidence, FitState
from finetree_recommender.explain.ways_out.questions import Answers, Asked, Kind, maker, preferred
from finetree_recommender.formatting import duration
from finetree_recommender.method import Method
from finetree_recommender.recipe.build import adaptations, uncut
from finetree_recommender.recipe.draft import SEQUENCE, sequence_length
from finetree_recommender.recipe.truncation import loss_at
from finetree_recommender.request.inputs import Inputs
from finetree_recommender.rule_pack.fields import assign
from finetree_recommender.rule_pack.pack import Pack

BYTES_A_PARAMETER = 2
"""Bytes of a 16-bit weight."""


@dataclass(frozen=True, slots=True)
class WayOut:
    """A change with which a method trains."""

    kind: Kind
    method: Method
    message: str
    change: run_spec_pb2.RunSpec | None
    """The change alone; None for another tool."""
    estimate: Estimate | None
    trainable_here: bool = True


def with_truncated_rows(pack: Pack, inputs: Inputs, evidence: Evidence, found: Answers) -> Evidence:
    """Add the recipes that truncate rows and then train, unless too much of the data would be lost."""
    rows = dict(evidence.rows)
    for asked, answer in found.items():
        if asked.kind is not Kind.SHORTER_ROWS:
            continue
        estimate = _estimate(answer)
        if (
            estimate is not None
            and estimate.fit.trains
            and not _too_short(pack, inputs, _length(pack, inputs, asked, answer))
        ):
            rows[asked.method, _adapted(pack, inputs, asked, answer)] = estimate
    return replace(evidence, rows=rows)


def ways_out(pack: Pack, inputs: Inputs, evidence: Evidence | None, found: Answers) -> tuple[WayOut, ...]:
    """List the ways out, the most useful first; none where the estimator was not asked for any."""
    if not found or evidence is None:
        return ()
    return (
        *_stated_lengths(pack, inputs, found),
        *(at_hand := tuple(_devices_at_hand(pack, inputs, found))),
        *_another_gpu(pack, inputs, found),
        *_shorter_rows(pack, inputs, evidence, found),
        *_smaller_model(pack, inputs, found),
        *(() if at_hand else _several_gpus(pack, inputs, found)),
        *_other_tool(pack, inputs, evidence),
    )


def _stated_lengths(pack: Pack, inputs: Inputs, found: Answers) -> Iterator[WayOut]:
    """Rows that may turn out short enough, where their lengths are unknown: the only way that changes nothing."""
    if _lengths_known(inputs):
        return
    for method in (*preferred(pack, inputs), *Method):
        asked = Asked(Kind.SHORTER_ROWS, method)
        estimate = _estimate(found.get(asked))
        if estimate is not None and estimate.fit.trains:
            length = _length(pack, inputs, asked, found[asked])
            if loss_at(inputs.profile, length) is not None:  # the average alone is longer
                continue
            text = f"{fits(method, estimate)} if no row has more than {length:,} tokens: state the lengths "
            change = run_spec_pb2.RunSpec()
            assign(change, SEQUENCE, length)
            yield WayOut(Kind.SHORTER_ROWS, method, f"{text}(dataset_profile.token_lengths)", change, estimate)
            return


def _lengths_known(inputs: Inputs) -> bool:
    """Whether it is known how long the rows are, and not only on average."""
    return inputs.profile is not None and bool(inputs.profile.token_lengths)


def _another_gpu(pack: Pack, inputs: Inputs, found: Answers) -> Iterator[WayOut]:
    """The smallest single GPU for the rules' method, and for QLoRA where a smaller one does."""
    largest = math.inf
    for method in preferred(pack, inputs):
        option = next((item for item in _options(found, method) if item.count == 1), None)
        if option is not None and option.usable_device_bytes < largest:
            largest = option.usable_device_bytes
            yield _on_hardware(Kind.ANOTHER_GPU, inputs, method, option)


def _devices_at_hand(pack: Pack, inputs: Inputs, found: Answers) -> Iterator[WayOut]:
    """The devices at hand together, which cost nothing more: with room where a method has it."""
    answers = {method: found.get(Asked(Kind.SEVERAL_GPUS, method)) for method in preferred(pack, inputs)}
    for state, (method, answer) in product((FitState.FITS, FitState.TIGHT), answers.items()):
        estimate = _estimate(answer)
        if estimate is not None and estimate.fit is state:
            change = run_spec_pb2.RunSpec(hardware=inputs.hardware)
            change.hardware.sharding = hardware_pb2.SHARDING_FULL
            text = f"{fits(method, estimate)} on each of the {inputs.hardware.count} devices at hand, with the model "
            text += "sharded across them"
            yield WayOut(Kind.SEVERAL_GPUS, method, text, change, estimate)
            return


def _several_gpus(pack: Pack, inputs: Inputs, found: Answers) -> Iterator[WayOut]:
    """The fewest and smallest GPUs that hold the model together."""
    for method in preferred(pack, inputs):
        options = [item for item in _options(found, method) if item.count > 1]
        if options:
            yield _on_hardware(Kind.SEVERAL_GPUS, inputs, method, options[0])
            return


def _on_hardware(kind: Kind, inputs: Inputs, method: Method, option: estimate_pb2.HardwareOption) -> WayOut:
    hardware = hardware_pb2.Hardware(accelerator=option.accelerator, count=option.count)
    if option.count > 1:
        hardware.sharding = option.sharding
    estimate = Estimate(
        fit=FitState.FITS,
        device_bytes=option.device_bytes,
        usable_bytes=option.usable_device_bytes,
        total_seconds=None,
        cost=None,
        optimizer_steps=0,
    )
    entry = inputs.catalog.accelerators.get(option.accelerator.casefold())
    name = _gpu_name(entry) if entry is not None else option.accelerator
    several = option.count > 1
    place = f"{option.count} {name} with the model sharded across them" if several else name
    text = f"{fits(method, estimate)}{' each' if several else ''} on {place}"
    return WayOut(
        kind=kind,
        method=method,
        message=text,
        change=run_spec_pb2.RunSpec(hardware=hardware),
        estimate=estimate,
    )


def _gpu_name(entry: Accelerator) -> str:
    name = entry.display_name or entry.name
    return name if "GB" in name else f"{name} ({entry.marketed_gb:g} GB)"


def _shorter_rows(pack: Pack, inputs: Inputs, evidence: Evidence, found: Answers) -> Iterator[WayOut]:
    """The longest rows that fit, where the recipe does not truncate them itself."""
    for asked, answer in found.items():
        estimate = _estimate(answer)
        if asked.kind is not Kind.SHORTER_ROWS or estimate is None or not estimate.fit.trains:
            continue
        if evidence.best[asked.method].state.trains:
            continue
        length = _length(pack, inputs, asked, answer)
        lost = loss_at(inputs.profile, length)
        # Where it is not known that rows are longer, their lengths are asked for instead.
        if lost is None and not _lengths_known(inputs):
            continue
        text = f"{fits(asked.method, estimate)} with rows of at most {length:,} tokens: split them"
        text += f" (truncated, {lost.words} of the tokens would be lost)" if lost is not None else ""
        change = run_spec_pb2.RunSpec()
        assign(change, SEQUENCE, length)
        yield WayOut(Kind.SHORTER_ROWS, asked.method, text, change, estimate)


def _smaller_model(pack: Pack, inputs: Inputs, found: Answers) -> Iterator[WayOut]:
    """The first smaller model that fits, by the rules' method where that has room, else by QLoRA.

    One of another maker comes after all of the same. One that would train for longer than the pack calls long is none.
    """
    longest = pack.rules.long_run.value if pack.rules.long_run is not None else math.inf
    models = dict.fromkeys(asked.model for asked in found if asked.kind is Kind.SMALLER_MODEL)
    ours = maker(inputs.model.name) if inputs.model is not None else ""
    for alike, state in product((True, False), (FitState.FITS, FitState.TIGHT)):
        for model in models:
            if (maker(model) == ours) is not alike:
                continue
            for method in preferred(pack, inputs):
                estimate = _estimate(found.get(Asked(Kind.SMALLER_MODEL, method, model)))
                if estimate is None or estimate.fit is not state:
                    continue
                seconds = estimate.total_seconds.expected if estimate.total_seconds is not None else 0.0
                if seconds <= longest:
                    change = run_spec_pb2.RunSpec()
                    change.model.name = model
                    text = f"{fits(method, estimate, of=f'the smaller {model}')} on this hardware"
                    text += f", in about {duration(seconds)}" if seconds else ""
                    yield WayOut(Kind.SMALLER_MODEL, method, text, change, estimate)
                    return


def _other_tool(pack: Pack, inputs: Inputs, evidence: Evidence) -> Iterator[WayOut]:
    """A program that is reported to need less memory, or one that keeps weights in the host's memory."""
    parameters, gb, lora = evidence.parameters, inputs.marketed_gb, evidence.best[Method.LORA].estimate
    if parameters is None or gb is None or lora is None:
        return
    # What is reported is of short rows, and offloading moves weights, not activations.
    if sequence_length(pack, inputs)[0] > UNKNOWN_SEQUENCE_LENGTH:
        return
    weights = parameters * BYTES_A_PARAMETER
    fitting = [item for item in pack.rules.footprints if item.gb <= gb and item.parameters >= parameters]
    if fitting:
        least = min(fitting, key=lambda item: item.parameters)
        name = pack.provenance(least.source).source.split()[0]
        text = f"{name} is reported to train {least.parameters / 1e9:g}B by {least.method} in {least.gb:g} GB"
        yield WayOut(Kind.OTHER_TOOL, least.method, text, None, None, trainable_here=False)
    elif pack.rules.offload is not None and lora.device_bytes.expected - weights <= lora.usable_bytes:
        text = f"DeepSpeed (ZeRO-3 with offload) keeps the {weights / GIB:,.0f} GiB of weights in the host's memory, "
        text += "at the price of speed"
        yield WayOut(Kind.OTHER_TOOL, Method.LORA, text, None, None, trainable_here=False)


def _options(found: Answers, method: Method) -> list[estimate_pb2.HardwareOption]:
    answer = found.get(Asked(Kind.ANOTHER_GPU, method))
    return list(answer.smallest_hardware) if answer is not None else []


def _estimate(answer: estimate_pb2.Estimate | None) -> Estimate | None:
    found = converted(answer) if answer is not None else None
    return found if isinstance(found, Estimate) else None


def _adapted(pack: Pack, inputs: Inputs, asked: Asked, answer: estimate_pb2.Estimate) -> int:
    """Number of the method's adaptations in a recipe that truncates rows: the first such one is always in it."""
    return len(uncut(adaptations(pack, inputs, asked.method))) + 1 + answer.fallbacks_taken


def _length(pack: Pack, inputs: Inputs, asked: Asked, answer: estimate_pb2.Estimate) -> int:
    """Tokens at which a recipe truncates rows."""
    applied = adaptations(pack, inputs, asked.method)[: _adapted(pack, inputs, asked, answer)]
    return next((rule.cut_rows_at for rule in reversed(applied) if rule.cut_rows_at), sequence_length(pack, inputs)[0])


def _too_short(pack: Pack, inputs: Inputs, length: int) -> bool:
    """Whether rows that are truncated at a length lose more of the tokens than a recipe may."""
    most, lost = pack.rules.cut_tokens, loss_at(inputs.profile, length)
    return most is not None and lost is not None and lost.share > most.value
