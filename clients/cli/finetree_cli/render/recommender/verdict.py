# SPDX-License-Identifier: Apache-2.0
"""A recommendation that is read in ten seconds: the method, three numbers, what to beware of, and what to type next."""

import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from finetree.quantities import cost_words, duration_words, memory_words
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.types.v1 import estimate_summary_pb2, evidence_pb2, hardware_pb2

from finetree_cli.output import Output
from finetree_cli.render import units

MOST_CAUTIONS = 3
MOST_COLUMNS = 100
SHORT_ROWS = "rows are short"
_HANGING = "\t"
"""In a line, the place under which what is wrapped begins."""
_TOGETHER = "\N{NO-BREAK SPACE}"
"""Keeps two words on one line."""
MEASURED = "--this-machine"
"""Option with which the speed of a CPU is measured."""
CAN_RENT = "--can-rent"
"""Option with which there are offers."""
_ASSUMED_SPEED = f"; its speed is assumed, and measured with {MEASURED}"
_ELECTRICITY = " (electricity of your own hardware)"
_RENT_OF = " (a rental price; of your own GPU: --price-per-kwh AMOUNT)"
"""What a cost is the price of."""
RENT = "RENT"
_TOLD = (RENT, "DATASET_UNKNOWN", "LENGTHS_UNKNOWN", "MODEL_UNKNOWN", "HARDWARE_UNKNOWN")
"""Cautions that the lines above them say already."""
_NOTES = ("MODEL_SIZE_UNKNOWN", "SERVING_NOTE")
"""Cautions that are only to be noted: told after those about a harm."""
SMALL_MODEL = "smollm2-135m-instruct"
"""Example of a model where the user's is unknown and only a small one may fit."""
USUAL_GPU, SOME_ROWS = "rtx-4090", "1000"
"""Examples of a GPU and of a number of rows where the user has named none."""
_YOURS = {
    "--model": "the model is an example: yours is of `finetree models list --catalog`, a hub (org/name) or a ./FOLDER",
    "--gpu": "the GPU is an example: yours is of `finetree gpus`; or take --cpu or --this-machine in its place",
    "--examples": "the number of rows is an example",
    "--memory-gb": "the memory is this computer's: state that of the one that trains",
}
"""What to put in place of a value that was filled in, by its option."""
_HARDWARE = {
    "--gpu": 1,
    "--gpu-memory": 1,
    "--devices": 1,
    "--sharding": 1,
    "--cores": 1,
    "--memory-gb": 1,
    "--cpu": 0,
    "--this-machine": 0,
}
"""Options that other hardware replaces, with the number of their values."""
_COUNTED = {"--examples": 1, "--tokens": 1, "--tokens-per-example": 1}
"""Options that say what a file of rows has."""
_UNCHECKED = ("BUDGET_UNCHECKED", "MAX_DURATION_UNCHECKED")
"""Cautions about limits that need the number of rows."""
_FITS = {
    estimate_summary_pb2.FIT_VERDICT_TIGHT: " (tight: it may run out of memory)",
    estimate_summary_pb2.FIT_VERDICT_DOES_NOT_FIT: " (does not fit)",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """How the recommendation was asked for, of which the next command is made."""

    arguments: tuple[str, ...] = ()
    """The words of the command line."""
    job_file: str = ""
    """File that the recipe was written to; empty for none."""
    memory_gb: float = 0.0
    """Memory of the computer that the command runs on, in 10^9 bytes, for a CPU of which none is given."""


def show_verdict(out: Output, response: recommendation_pb2.RecommendResponse, asked: Asked) -> None:
    """Print the verdict; the texts of the reply must name options already, in place of the contract's fields."""
    level = units.word(evidence_pb2.ConfidenceLevel, response.confidence.level)
    sure = f" (confidence:{_TOGETHER}{level})" if response.confidence.level else ""
    headline = response.verdict.headline or response.summary
    for line in textwrap.wrap(f"{headline}{sure}", _width(out), break_on_hyphens=False, break_long_words=False):
        out.heading(line.replace(_TOGETHER, " "))
    sections = (
        _takes(response, measured=MEASURED in asked.arguments),
        _ways_out(response),
        _warnings(response, headline),
        next_commands(response, asked),
    )
    for section in sections:
        lines = list(section)
        if lines:
            out.text()
        for line in lines:
            _wrapped(out, line)
    out.text("Why, the other methods and every value: add --explain")


def show_ways_out(out: Output, response: recommendation_pb2.RecommendResponse) -> None:
    """Print what would train, where nothing does as asked or only with truncated rows; nothing elsewhere."""
    lines = list(_ways_out(response))
    for line in lines:
        _wrapped(out, line)
    if lines:
        out.text()


def show_next(out: Output, response: recommendation_pb2.RecommendResponse, asked: Asked) -> None:
    """Print what to type next."""
    for number, line in enumerate(next_commands(response, asked)):
        if number == 0:
            out.text()
        _wrapped(out, line)


def _takes(response: recommendation_pb2.RecommendResponse, *, measured: bool) -> Iterator[str]:
    """The numbers, and the first offer to rent."""
    if response.verdict.method:
        for name, words in _numbers(response, measured=measured):
            yield f"  {name:7} {_HANGING}{words}"
    offer = next((item.message for item in response.cautions if item.code == RENT), "")
    if offer:
        yield f"  Rented  {_HANGING}{offer}"


def _warnings(response: recommendation_pb2.RecommendResponse, headline: str) -> Iterator[str]:
    """The first cautions of those that the headline does not say."""
    cautions = [item for item in _cautions(response) if item.message not in headline]
    for caution in cautions[:MOST_CAUTIONS]:
        yield f"  Caution: {_HANGING}{caution.message}"
    if len(cautions) > MOST_CAUTIONS:
        yield f"  and {len(cautions) - MOST_CAUTIONS} more: see --explain"


def _numbers(response: recommendation_pb2.RecommendResponse, *, measured: bool) -> Iterator[tuple[str, str]]:
    """Memory, time and cost, or what is missing for them; `measured`: of a CPU the speed was."""
    if not response.HasField("estimate"):
        yield "Takes", f"not estimated: {_missing(response)}"
        return
    found = response.estimate
    several = f" on each of {response.spec.hardware.count} GPUs" if response.spec.hardware.count > 1 else ""
    memory = memory_words(found.device_bytes, found.usable_device_bytes)
    yield "Memory", f"{memory}{several}{_FITS.get(found.fit, '')}"
    if not found.HasField("total_seconds"):
        yield "Time", "depends on the number of rows: add --data FILE, or --examples N"
        return
    short = SHORT_ROWS if _lengths_unknown(response) else ""
    assumed = f" (rows of {response.spec.training.sequence_length:,} tokens assumed: --tokens-per-example N)"
    speed = "" if measured or response.spec.hardware.WhichOneof("device") != "cpu" else _ASSUMED_SPEED
    yield "Time", f"{duration_words(found.total_seconds, low_if=short)}{assumed if short else ''}{speed}"
    if found.HasField("cost") and found.cost.amount.high > 0:
        owned = response.spec.ownership.WhichOneof("kind") == "owned"
        yield "Cost", f"{cost_words(found.cost, low_if=short)}{_ELECTRICITY if owned else _RENT_OF}"


def _missing(response: recommendation_pb2.RecommendResponse) -> str:
    """What an estimate needs, as the reply's first caution about it says."""
    lacking = [] if response.spec.HasField("model") else ["--model NAME"]
    lacking += [] if response.spec.hardware.WhichOneof("device") else ["--gpu NAME, --cpu or --this-machine"]
    return f"add {' and '.join(lacking)}" if lacking else "the estimator has no figure"


def _lengths_unknown(response: recommendation_pb2.RecommendResponse) -> bool:
    """Whether nothing is known of the lengths of the rows: the lower ends are then those of short rows."""
    coded = any(item.code == "LENGTHS_UNKNOWN" for item in response.cautions)
    return coded and not response.spec.dataset.profile.total_tokens


def _cautions(response: recommendation_pb2.RecommendResponse) -> Sequence[recommendation_pb2.Caution]:
    """The reply's cautions in its order, those about a harm first."""
    told = [item for item in response.cautions if item.code not in _TOLD]
    if not response.HasField("spec") or not response.spec.HasField("model"):
        told = [item for item in told if item.code != "MODEL_SIZE_UNKNOWN"]
    if response.ways_out:
        told = [item for item in told if item.code != "NOTHING_FITS"]
    return sorted(told, key=lambda item: item.code in _NOTES)


def _ways_out(response: recommendation_pb2.RecommendResponse) -> Iterator[str]:
    """What would train, where nothing does as asked or only with truncated rows."""
    truncated = bool(response.verdict.method)
    if response.ways_out:
        yield "  Without truncated rows:" if truncated else "  What would train:"
    for way in response.ways_out[:MOST_CAUTIONS] if truncated else response.ways_out:
        options = " ".join(_options(way))
        yield f"  - {_HANGING}{way.message}{f' ({options})' if options else ''}"


def _options(way: recommendation_pb2.WayOut) -> tuple[str, ...]:
    """Options of the command that make the change; none for a change that it has no option for."""
    if way.change.HasField("model"):
        return "--model", way.change.model.name or way.change.model.hub.id
    hardware = way.change.hardware
    if not hardware.accelerator:
        return ()
    several = ("--devices", str(hardware.count)) if hardware.count > 1 else ()
    sharded = ("--sharding", "fsdp") if hardware.sharding == hardware_pb2.SHARDING_FULL else ()
    return "--gpu", hardware.accelerator, *several, *sharded


def _wrapped(out: Output, line: str) -> None:
    """Print a line; what does not fit stands under its mark. A command is not broken: it is to be copied."""
    indent, plain = line.find(_HANGING), line.replace(_HANGING, "")
    if indent >= 0:
        plain = textwrap.fill(
            plain, _width(out), subsequent_indent=" " * indent, break_on_hyphens=False, break_long_words=False
        )
    out.text(plain)


def _width(out: Output) -> int:
    return min(out.console().width, MOST_COLUMNS)


def next_commands(response: recommendation_pb2.RecommendResponse, asked: Asked) -> Iterator[str]:
    """What to type next; nothing where no recipe was found."""
    spec = response.spec
    if not response.HasField("spec"):
        options = next((found for way in response.ways_out if way.trainable_here and (found := _options(way))), ())
        lacking = {} if options else _lacking(response, asked)
        if options or lacking:
            filled = [word for pair in lacking.items() for word in pair]
            yield f"Next: {shlex.join(['finetree', *_changed(asked.arguments, options), *filled])}"
        yield from (f"      {_HANGING}{_YOURS[option]}" for option in lacking)
        return
    known = spec.dataset.WhichOneof("source") in ("name", "path")
    train = "finetree train {}" + ("" if known else " --data FILE")
    again = shlex.join(["finetree", *asked.arguments])
    if not known and any(item.code == "IMPLAUSIBLE_INPUT" for item in response.cautions):
        counted = shlex.join(["finetree", *_without(asked.arguments, _COUNTED)])
        yield f"Next: {counted} --data FILE"
        return
    trained = all(item.code != "NOT_TRAINED_HERE" for item in response.cautions)
    if asked.job_file and trained:
        yield f"Next: {train.format(shlex.quote(asked.job_file))}"
    elif asked.job_file:
        return
    elif not spec.HasField("model") or not spec.hardware.WhichOneof("device"):
        lacks = list(_recipe_lacks(response, renting=CAN_RENT in asked.arguments))
        filled = [word for option, value, _ in lacks for word in (option, value)]
        yield f"Next: {shlex.join(['finetree', *asked.arguments, *filled])}"
        yield from (f"      {_HANGING}{note}" for _, _, note in lacks if note)
    else:
        yield f"Next: {again} --output job.yaml"
        # What this suite does not train is a recipe for another program.
        if trained:
            yield f"      {train.format('job.yaml')}"


def _lacking(response: recommendation_pb2.RecommendResponse, asked: Asked) -> dict[str, str]:
    """Options that would give an answer with a method, with values that can be pasted; empty where none would."""
    codes = {item.code for item in response.cautions}
    found = {"--model": SMALL_MODEL} if "MODEL_UNKNOWN" in codes else {}
    of_cpu = "--cpu" in asked.arguments and not any(word.startswith("--memory-gb") for word in asked.arguments)
    if ("FIT_UNKNOWN" in codes or found) and of_cpu and asked.memory_gb:
        found["--memory-gb"] = f"{asked.memory_gb:.4g}"
    return found


def _recipe_lacks(response: recommendation_pb2.RecommendResponse, *, renting: bool) -> Iterator[tuple[str, str, str]]:
    """Options without which a recipe is not estimated, each with a value to paste and what to say of an example.

    Hardware is named by the first offer to rent; where there may be offers, they need the number of rows first. Where
    no offer has the memory, no example would have it: the user has to name one.
    """
    spec = response.spec
    unnamed, uncounted = not spec.hardware.WhichOneof("device"), not spec.dataset.WhichOneof("source")
    not_offered = renting and unnamed and uncounted
    if not spec.HasField("model"):
        yield "--model", SMALL_MODEL, _YOURS["--model"]
    if unnamed and not not_offered:
        offered = next((item.hardware.accelerator for item in response.cautions if item.code == RENT), "")
        known = offered or ("NAME" if renting else "")
        yield "--gpu", known or USUAL_GPU, "" if known else _YOURS["--gpu"]
    if not_offered or (uncounted and any(item.code in _UNCHECKED for item in response.cautions)):
        yield "--examples", SOME_ROWS, _YOURS["--examples"]


def _changed(arguments: Sequence[str], options: Sequence[str]) -> list[str]:
    """Replace options of a command line by others of the same kind; `--output FILE` is kept."""
    replaced = {"--model": 1} if options[:1] == ("--model",) else _HARDWARE if options else {}
    return [*_without(arguments, replaced), *options]


def _without(arguments: Sequence[str], options: Mapping[str, int]) -> list[str]:
    """Leave options out of a command line; `options` have the number of their values."""
    kept, skipped = list[str](), 0
    for word in arguments:
        if skipped:
            skipped -= 1
        elif word in options:
            skipped = options[word]
        elif word.partition("=")[0] not in options:
            kept.append(word)
    return kept
