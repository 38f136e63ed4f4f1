# SPDX-License-Identifier: Apache-2.0
"""`finetree recommend`: a fine-tuning method, the reasons, and a complete recipe."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetree_cli.errors import BadInput, GateFailed
from finetree_cli.options.command import Command, Settings, pass_settings, take_flags
from finetree_cli.options.local_rows import with_local_file
from finetree_cli.options.model_folder import model_folder
from finetree_cli.options.spec import (
    DataFlags,
    HardwareFlags,
    OwnershipFlags,
    choice,
    data,
    data_options,
    enum_value,
    hardware,
    hardware_options,
    model_source,
    ownership,
    ownership_options,
)
from finetree_cli.options.types import Amount, Duration, MoneyAmount, Names, Whole

if TYPE_CHECKING:
    from collections.abc import Iterator

    from finetree import Client
    from finetree_api.recommender.v1 import recommendation_pb2
    from google.protobuf import duration_pb2
    from google.type import money_pb2

    from finetree_cli.backends.recommender import Recommender

# The numbers are those of the contract's enums; a test compares them.
QUALITY = {"maximum": 1, "critical": 2, "important": 3, "acceptable": 4, "experimental": 5}
TIME = {"days": 1, "hours": 2, "minutes": 3}
TASKS = {"single": 1, "similar": 2, "many": 3}
USE_CASE = {"enterprise": 1, "startup": 2, "research": 3}
TASK_DOMAIN = {"style": 1, "classification": 2, "chat": 3, "code": 4, "math": 5, "knowledge": 6}
PROFILE = {"playbook": 1, "evidence": 2}
TREES = {"text": 1, "mermaid": 2, "svg": 3}
FILE = click.Path(dir_okay=False, path_type=Path)
BEHAVIOR = {"minor": 1, "moderate": 2, "significant": 3}
EXPERIENCE = {"beginner": 1, "intermediate": 2, "expert": 3}
SERVING = {"vllm": 1, "ollama": 2, "llama.cpp": 3, "transformers": 4, "finetree": 5, "tgi": 6, "sglang": 7}
PRIORITY = {"quality": 1, "speed": 2, "cost": 3, "memory": 4, "simplicity": 5, "modularity": 6}


@dataclass(frozen=True, slots=True)
class RecommendFlags:
    """Options of `finetree recommend`; None and empty are not given."""

    hardware: HardwareFlags
    data: DataFlags
    ownership: OwnershipFlags
    model: str | None
    data_file: Path | None
    quality: str | None
    time: str | None
    tasks: str | None
    use_case: str | None
    task_domain: str | None
    behavior: str | None
    experience: str | None
    budget_per_month: "money_pb2.Money | None"
    budget_per_run: "money_pb2.Money | None"
    runs_per_month: float | None
    max_duration: float | None
    task_count: int | None
    serve: tuple[str, ...]
    priority: tuple[str, ...]
    can_rent: bool | None
    recipe: str | None
    rule_pack: str
    explain: bool
    interactive: bool
    tree: str | None
    tree_output: Path | None
    frontier: Path | None
    output: Path | None
    local: bool


@click.command(
    cls=Command,
    examples=(
        "finetree recommend --model llama3.1:8b --gpu rtx-4090 --examples 5000 --tokens-per-example 300",
        "finetree recommend --model qwen2.5-7b --gpu 'dgx a100' --quality maximum",
        "finetree recommend --model smollm2-135m-instruct --this-machine --data train.jsonl --output job.yaml",
        "finetree recommend --gpu-memory 16 --max-duration 8h --serve vllm --priority quality",
        "finetree recommend --model qwen2.5-7b --gpu-memory 16 --budget-per-month 200 --json | jq .verdict",
        "finetree recommend --model llama-3.1-8b --gpu rtx-4090 --explain --frontier methods.svg",
        "finetree recommend --interactive",
        "finetree recommend --gpu-memory 8 --tree svg --tree-output tree.svg",
    ),
    sections={
        "Model and hardware": ("model", HardwareFlags),
        "Data": ("data_file", DataFlags),
        "What is needed": (
            "quality",
            "time",
            "tasks",
            "task_count",
            "task_domain",
            "behavior",
            "use_case",
            "experience",
            "serve",
            "priority",
        ),
        "Budget": (
            "budget_per_month",
            "budget_per_run",
            "runs_per_month",
            "max_duration",
            "can_rent",
            OwnershipFlags,
        ),
        "Rules": ("recipe", "rule_pack"),
    },
)
@click.option(
    "--model",
    metavar="NAME",
    help="A name of `finetree models list --catalog`, a hub id (org/name), or ./FOLDER with a config.json.",
)
@hardware_options
@data_options
@click.option(
    "--data",
    "data_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File of training rows on this machine: their number, lengths and format are read from it.",
)
@choice("--quality", QUALITY, "How good the result must be.")
@choice("--time", TIME, "Time available for a run.")
@choice("--tasks", TASKS, "How many tasks share the model.")
@choice("--use-case", USE_CASE, "Kind of organization.")
@choice("--task-domain", TASK_DOMAIN, "What the model is to learn.")
@choice("--behavior", BEHAVIOR, "How much the model's behavior is to change.")
@choice("--experience", EXPERIENCE, "Your experience with fine-tuning.")
@click.option("--budget-per-month", type=MoneyAmount(), metavar="USD", help="Budget for the runs of a month.")
@click.option("--budget-per-run", type=MoneyAmount(), metavar="USD", help="Budget for one run.")
@click.option("--runs-per-month", type=Amount(), metavar="N", help="Runs in a month.")
@click.option("--max-duration", type=Duration(), metavar="DURATION", help="Longest time for one run, such as 8h.")
@click.option("--task-count", type=Whole(1), metavar="N", help="Number of tasks, and so adapters, to serve.")
@click.option(
    "--serve",
    type=Names(tuple(SERVING)),
    default=(),
    metavar="A,B",
    help=f"What serves the model: {', '.join(SERVING)}.",
)
@click.option(
    "--priority",
    type=Names(tuple(PRIORITY)),
    default=(),
    metavar="A,B",
    help=f"Priorities, most important first: {', '.join(PRIORITY)}.",
)
@click.option("--can-rent/--cannot-rent", default=None, help="Whether hardware can be rented.")
@ownership_options
@choice("--recipe", PROFILE, "Source of the recipe's values. [default: playbook]")
@click.option("--rule-pack", default="", metavar="NAME", help="Rule pack. [default: playbook-1]")
@click.option("--explain", is_flag=True, help="Show everything: rules, sources, recipe, and what would change it.")
@click.option("--interactive", is_flag=True, help="Ask the rule pack's questions; answers come from stdin, one a line.")
@click.option("--tree", type=click.Choice(tuple(TREES)), help="Draw the decision tree with this request's path marked.")
@click.option("--tree-output", type=FILE, metavar="FILE", help="With --tree: file to write. [default: stdout]")
@click.option(
    "--frontier",
    type=FILE,
    metavar="FILE",
    help="Write a chart (SVG) of the methods by quality, memory, time and cost.",
)
@click.option("--output", type=FILE, metavar="FILE", help="Write the recipe as a job file.")
@click.option("--local", is_flag=True, help="Use no server, even if an address is given.")
@pass_settings
def recommend(settings: Settings, /, **flags: Any) -> None:
    """Recommend a fine-tuning method and a complete recipe.

    Each step and each value has its reason. Without an address, and if no recommender is running, the installed
    recommender answers in a child process; its answer is the server's. The same input, rule pack and estimator give the
    same answer.
    """
    given = RecommendFlags(
        hardware=take_flags(HardwareFlags, flags),
        data=take_flags(DataFlags, flags),
        ownership=take_flags(OwnershipFlags, flags),
        **flags,
    )
    if given.tree_output is not None and given.tree is None:
        raise BadInput("--tree-output needs --tree", remedy="add --tree text, mermaid or svg")
    if given.tree is not None and given.tree_output is None and given.explain:
        raise BadInput("--tree and --explain both print on stdout", remedy="add --tree-output FILE")
    response = _ask(settings, given)
    if response is None:
        return
    if given.output is not None and response.HasField("spec"):
        write_job(given.output, response)
        settings.out.say(f"wrote {given.output}")
    _show(settings, response, given)
    if not response.verdict.method:
        # Without a method there is no recipe, and a pipeline must not take the answer for one.
        raise _no_recipe(given)


def _ask(settings: Settings, flags: RecommendFlags) -> "recommendation_pb2.RecommendResponse | None":
    """Ask the recommender and write the pictures; None if the decision tree itself is the answer."""
    from finetree_cli.backends.recommender import open_recommender

    folder = model_folder(flags.model)
    with (
        settings.client() as client,
        open_recommender(settings, client, "Recommend", local=flags.local, model=folder) as recommender,
    ):
        request = _request(settings, client, flags)
        if flags.interactive:
            from finetree_cli.interview import interview

            answers = interview(recommender.get_rule_pack(request.rule_pack), request, settings.out)
            # The next command need not ask again.
            kept = (word for word in settings.arguments if word != "--interactive")
            settings.arguments = (*kept, *(word for answer in answers for word in as_options(answer)))
        if flags.tree is not None and flags.tree_output is None:
            _show_tree(settings, recommender, request, flags.tree)
            return None
        response = recommender.recommend(request)
        if flags.tree is not None and flags.tree_output is not None:
            drawn = recommender.render_decision_tree(request, picture_format=TREES[flags.tree])
            write(flags.tree_output, drawn.content, "--tree-output")
        if flags.frontier is not None:
            write(flags.frontier, recommender.render_frontier(request).content, "--frontier")
    return response


def _no_recipe(flags: RecommendFlags) -> GateFailed:
    """Build the error of an answer without a method."""
    text = "no recipe: no method was shown to train here"
    if flags.output is not None:
        text += f"; {flags.output} is not written"
    return GateFailed(text, reason="NO_METHOD_TRAINS", reported=True)


def _show(settings: Settings, response: "recommendation_pb2.RecommendResponse", flags: RecommendFlags) -> None:
    if settings.out.json:
        settings.out.message(response)
        return
    _name_flags(response)
    from finetree_cli.render.recommender.verdict import Asked, show_verdict

    job_file = str(flags.output) if flags.output is not None else ""
    asked = Asked(settings.arguments, job_file, memory_gb=_memory_gb())
    if flags.explain:
        from finetree_cli.render.recommender.explanation import show_explanation

        show_explanation(settings.out, response, asked)
    else:
        show_verdict(settings.out, response, asked)


def _memory_gb() -> float:
    """Memory of this computer in 10^9 bytes, rounded down to a tenth."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 10**8 / 10


def _name_flags(response: "recommendation_pb2.RecommendResponse") -> None:
    """Name this command's options in the reply's texts, in place of the contract's fields."""
    from finetree_cli.options.flag_names import flag_of, in_flags

    response.summary = in_flags(response.summary, recommend)
    response.verdict.headline = in_flags(response.verdict.headline, recommend)
    for caution in response.cautions:
        caution.message = in_flags(caution.message, recommend)
    for unknown in response.sharpen:
        name, colon, rest = unknown.message.partition(":")
        unknown.message = f"{flag_of(name, recommend) or name}{colon}{in_flags(rest, recommend)}"
    for given in response.inputs:
        given.field_path = flag_of(given.field_path, recommend) or given.field_path
    for change in response.counterfactuals:
        change.field_path = flag_of(change.field_path, recommend) or change.field_path
    for way in response.ways_out:
        way.message = in_flags(way.message, recommend)
    for reason in (each for item in response.methods for each in item.reasons):
        reason.message = in_flags(reason.message, recommend)


def _show_tree(
    settings: Settings, recommender: "Recommender", request: "recommendation_pb2.RecommendRequest", word: str
) -> None:
    """Print the decision tree; with --json also its nodes, edges and marks."""
    drawn = recommender.render_decision_tree(request, picture_format=TREES[word])
    if settings.out.json:
        settings.out.message(drawn)
    else:
        settings.out.text(drawn.content.rstrip("\n"))


def _request(settings: Settings, client: "Client", flags: RecommendFlags) -> "recommendation_pb2.RecommendRequest":
    from finetree_api.recommender.v1 import recommendation_pb2

    machine = hardware(flags.hardware, client)
    job_folder = flags.output.parent if flags.output is not None else Path()
    known = with_local_file(data(flags.data, client), flags.data_file, settings.out, beside=job_folder)
    return recommendation_pb2.RecommendRequest(
        model=model_source(flags.model) if flags.model else None,
        hardware=machine.hardware if machine is not None else None,
        matrix_rates=machine.matrix_rates if machine is not None else None,
        dataset=known.dataset,
        dataset_profile=known.profile,
        evaluation=known.evaluation,
        evaluation_profile=known.evaluation_profile,
        ownership=ownership(flags.ownership),
        quality=enum_value(QUALITY, flags.quality),
        time=enum_value(TIME, flags.time),
        tasks=enum_value(TASKS, flags.tasks),
        budget_per_month=flags.budget_per_month,
        can_rent=flags.can_rent,
        use_case=enum_value(USE_CASE, flags.use_case),
        task_domain=enum_value(TASK_DOMAIN, flags.task_domain),
        profile=enum_value(PROFILE, flags.recipe),
        rule_pack=flags.rule_pack,
        max_duration=_duration(flags.max_duration),
        budget_per_run=flags.budget_per_run,
        runs_per_month=flags.runs_per_month,
        task_count=flags.task_count,
        behavior_change=enum_value(BEHAVIOR, flags.behavior),
        experience=enum_value(EXPERIENCE, flags.experience),
        serving=[enum_value(SERVING, word) for word in flags.serve],
        priorities=[enum_value(PRIORITY, word) for word in flags.priority],
    )


def as_options(answer: "recommendation_pb2.RecommendRequest") -> "Iterator[str]":
    """Say an answer of the interview by options; nothing for one that no option sets."""
    from finetree.money import to_decimal

    for flag, words, number in (
        ("--quality", QUALITY, answer.quality),
        ("--time", TIME, answer.time),
        ("--tasks", TASKS, answer.tasks),
        ("--use-case", USE_CASE, answer.use_case),
        ("--task-domain", TASK_DOMAIN, answer.task_domain),
    ):
        yield from (part for word, each in words.items() if each == number for part in (flag, word))
    if answer.HasField("budget_per_month"):
        yield from ("--budget-per-month", f"{to_decimal(answer.budget_per_month):f}")
    device = answer.hardware.WhichOneof("device")
    if device == "unknown_accelerator":
        yield from ("--gpu-memory", f"{answer.hardware.unknown_accelerator.marketed_memory_gb:g}")
    elif device == "cpu":
        yield "--cpu"


def _duration(seconds: float | None) -> "duration_pb2.Duration | None":
    from google.protobuf import duration_pb2

    return duration_pb2.Duration(seconds=int(seconds), nanos=round(seconds % 1 * 1e9)) if seconds is not None else None


def write_job(path: Path, response: "recommendation_pb2.RecommendResponse") -> None:
    """Write the recommended recipe as a job file, each value with its reason. Raises BadInput."""
    from finetree_cli.jobfile.yaml_writer import to_yaml

    header = [response.verdict.headline or response.summary, f"plan_digest: {response.plan_digest}"]
    write(path, to_yaml(response.spec, response.setting_sources, header), "--output")


def write(path: Path, text: str, flag: str) -> None:
    """Write the file of a flag. Raises BadInput."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{flag} {path}: {error.strerror}", remedy="name a file that can be written") from error
