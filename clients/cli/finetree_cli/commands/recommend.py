# SPDX-License-Identifier: Apache-2.0
"""`finetree recommend`: which method, why, and the complete recipe."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetree_cli.errors import BadInput
from finetree_cli.options.command import Command, Settings, pass_settings
from finetree_cli.options.model_folder import model_folder
from finetree_cli.options.spec import (
    DataFlags,
    HardwareFlags,
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
from finetree_cli.options.types import Duration, Names, Whole

if TYPE_CHECKING:
    from finetree import Client
    from finetree_api.recommender.v1 import recommender_pb2
    from google.protobuf import duration_pb2

    from finetree_cli.backends.recommender import Advisor

# The numbers are those of the contract's enums; a test holds them together.
QUALITY = {"maximum": 1, "critical": 2, "important": 3, "acceptable": 4, "experimental": 5}
TIME = {"days": 1, "hours": 2, "minutes": 3}
TASKS = {"single": 1, "similar": 2, "many": 3}
USE_CASE = {"enterprise": 1, "startup": 2, "research": 3}
TASK_KIND = {"style": 1, "classification": 2, "chat": 3, "code": 4, "math": 5, "knowledge": 6}
PROFILE = {"playbook": 1, "evidence": 2}
TREES = ("text", "mermaid", "svg")
FILE = click.Path(dir_okay=False, path_type=Path)
BEHAVIOR = {"minor": 1, "moderate": 2, "significant": 3}
EXPERIENCE = {"beginner": 1, "intermediate": 2, "expert": 3}
SERVING = {"vllm": 1, "ollama": 2, "llama.cpp": 3, "transformers": 4}
PRIORITY = {"quality": 1, "speed": 2, "cost": 3, "memory": 4, "simplicity": 5, "modularity": 6}


@click.command(
    cls=Command,
    examples=(
        "finetree recommend --model llama-3.1-8b --gpu rtx-4090 --quality important",
        "finetree recommend --model smollm2-135m-instruct --this-machine --output job.yaml",
        "finetree recommend --gpu-memory 16 --deadline 8h --serve vllm --priority quality",
        "finetree recommend --model qwen2.5-7b --gpu-memory 16 --tasks many --budget 200 --json | jq .verdict",
        "finetree recommend --model llama-3.1-8b --gpu rtx-4090 --explain --frontier methods.svg",
        "finetree recommend --interactive",
        "finetree recommend --gpu-memory 8 --tree svg --tree-output tree.svg",
    ),
)
@click.option(
    "--model",
    metavar="NAME",
    help="A name of `finetree models list --catalogue`, a hub id (org/name), or ./FOLDER with a config.json.",
)
@hardware_options
@data_options
@choice("--quality", QUALITY, "How good the result must be.")
@choice("--time", TIME, "How long a run may take.")
@choice("--tasks", TASKS, "How many tasks share the model.")
@choice("--use-case", USE_CASE, "Who asks.")
@choice("--task-kind", TASK_KIND, "What is taught.")
@choice("--behavior", BEHAVIOR, "How much the behaviour is to change.")
@choice("--experience", EXPERIENCE, "How much you have done of this.")
@click.option("--budget", type=float, metavar="USD", help="Budget of a month.")
@click.option("--budget-run", type=float, metavar="USD", help="Budget of one run.")
@click.option("--runs-per-month", type=Whole(), default=0, metavar="N", help="Runs of a month.")
@click.option("--deadline", type=Duration(), metavar="DURATION", help="Longest time for one run, such as 8h.")
@click.option("--task-count", type=Whole(), default=0, metavar="N", help="Tasks, and so adapters, to be served.")
@click.option("--serve", type=Names(tuple(SERVING)), default=(), help=f"Of {', '.join(SERVING)}: all that serve it.")
@click.option(
    "--priority", type=Names(tuple(PRIORITY)), default=(), help=f"Of {', '.join(PRIORITY)}: first things first."
)
@click.option("--can-rent/--cannot-rent", default=None, help="Whether hardware can be rented.")
@ownership_options
@choice("--recipe", PROFILE, "Which recipe numbers to use. [default: playbook]")
@click.option("--policy", default="", metavar="NAME", help="Rule pack. [default: playbook-1]")
@click.option("--explain", is_flag=True, help="Tell everything: rules, sources, the recipe, what would change it.")
@click.option("--interactive", is_flag=True, help="Ask the rule pack's questions; answers come from stdin, one a line.")
@click.option(
    "--tree", type=click.Choice(TREES), help="Draw how the pack decides, with the way of this request marked."
)
@click.option("--tree-output", type=FILE, metavar="FILE", help="Where --tree goes. [default: stdout, as the answer]")
@click.option(
    "--frontier", type=FILE, metavar="FILE", help="Draw the methods by quality, memory, time and cost: an SVG."
)
@click.option("--output", type=FILE, metavar="FILE", help="Write the recipe as a job file.")
@click.option("--local", is_flag=True, help="Use no server: recommender and estimator run as programs of their own.")
@pass_settings
def recommend(settings: Settings, /, output: Path | None, **flags: Any) -> None:
    """Recommend a fine-tuning method and its recipe, with the reason for each step and value.

    Without an address, and where no recommender listens, the installed one answers without a server; its answer is the
    served one. The same input, rule pack and estimator give the same answer.
    """
    if flags["tree_output"] is not None and flags["tree"] is None:
        raise BadInput("--tree-output needs --tree", remedy="say how to draw: --tree text, mermaid or svg")
    if flags["tree"] is not None and flags["tree_output"] is None and flags["explain"]:
        raise BadInput("--tree and --explain both answer on stdout", remedy="give --tree-output FILE")
    from finetree_cli.backends.recommender import advisor

    folder = model_folder(flags["model"])
    with settings.client() as client, advisor(settings, client, local=flags["local"], model=folder) as asked:
        request = _request(client, flags)
        if flags["interactive"]:
            from finetree_cli.interview import interview

            interview(asked.policy(request.policy), request, settings.out)
        if flags["tree"] is not None and flags["tree_output"] is None:
            _show_tree(settings, asked, request, flags["tree"])
            return
        response = asked.recommend(request)
        if flags["tree"] is not None:
            write(flags["tree_output"], _tree(asked, request, flags["tree"]).content, "--tree-output")
        if flags["frontier"] is not None:
            write(flags["frontier"], asked.frontier(request).content, "--frontier")
    if output is not None:
        write_job(output, response)
        settings.out.say(f"wrote {output}: `finetree train {output} --data FILE` trains it")
    _show(settings, response, explain=flags["explain"])


def _show(settings: Settings, response: "recommender_pb2.RecommendResponse", *, explain: bool) -> None:
    if settings.out.json:
        settings.out.message(response)
    elif explain:
        from finetree_cli.render.recommender.explanation import explain as tell

        tell(settings.out, response)
    else:
        from finetree_cli.render.recommender.recommendation import show

        show(settings.out, response)


def _tree(
    asked: "Advisor", request: "recommender_pb2.RecommendRequest", word: str
) -> "recommender_pb2.RenderDecisionTreeResponse":
    from finetree_api.recommender.v1 import recommender_pb2

    picture_format = recommender_pb2.PictureFormat.Value(f"PICTURE_FORMAT_{word.upper()}")
    return asked.decision_tree(recommender_pb2.RenderDecisionTreeRequest(format=picture_format, request=request))


def _show_tree(settings: Settings, asked: "Advisor", request: "recommender_pb2.RecommendRequest", word: str) -> None:
    """The picture as the answer; with --json its nodes, edges and marks too."""
    drawn = _tree(asked, request, word)
    if settings.out.json:
        settings.out.message(drawn)
    else:
        settings.out.text(drawn.content.rstrip("\n"))


def _request(client: "Client", flags: dict[str, Any]) -> "recommender_pb2.RecommendRequest":
    from finetree_api.recommender.v1 import recommender_pb2

    machine = hardware(HardwareFlags.take(flags), client)
    known = data(DataFlags.take(flags), client)
    return recommender_pb2.RecommendRequest(
        model=model_source(flags["model"]) if flags["model"] else None,
        hardware=machine,
        dataset=known.dataset,
        dataset_profile=known.profile,
        evaluation=known.evaluation,
        evaluation_profile=known.evaluation_profile,
        ownership=ownership(flags["price"], flags["tariff"], flags["watts"], flags["currency"]),
        quality=enum_value(QUALITY, flags["quality"]),
        time=enum_value(TIME, flags["time"]),
        tasks=enum_value(TASKS, flags["tasks"]),
        budget_usd_month=flags["budget"],
        can_rent=flags["can_rent"],
        use_case=enum_value(USE_CASE, flags["use_case"]),
        task_kind=enum_value(TASK_KIND, flags["task_kind"]),
        profile=enum_value(PROFILE, flags["recipe"]),
        policy=flags["policy"],
        deadline=_duration(flags["deadline"]),
        budget_usd_run=flags["budget_run"],
        runs_per_month=flags["runs_per_month"],
        task_count=flags["task_count"],
        behavior_change=enum_value(BEHAVIOR, flags["behavior"]),
        experience=enum_value(EXPERIENCE, flags["experience"]),
        serving=[enum_value(SERVING, word) for word in flags["serve"]],
        priorities=[enum_value(PRIORITY, word) for word in flags["priority"]],
    )


def _duration(seconds: float | None) -> "duration_pb2.Duration | None":
    from google.protobuf import duration_pb2

    return duration_pb2.Duration(seconds=int(seconds), nanos=round(seconds % 1 * 1e9)) if seconds is not None else None


def write_job(path: Path, response: "recommender_pb2.RecommendResponse") -> None:
    """Write the recommended recipe as a job file, each value with its reason."""
    from finetree_cli.jobfile.yaml_writer import to_yaml

    header = [response.verdict.headline or response.summary, f"plan_digest: {response.plan_digest}"]
    write(path, to_yaml(response.spec, response.setting_sources, header), "--output")


def write(path: Path, text: str, flag: str) -> None:
    """Write a file that a flag names."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{flag} {path}: {error.strerror}", remedy="name a file that can be written") from error
