# SPDX-License-Identifier: Apache-2.0
"""`finetree chat`: talk to what was trained, beside its base model and other runs."""

import sys
from collections import deque
from typing import TYPE_CHECKING

import click

from finetree_cli.options.command import Command, Settings, pass_settings
from finetree_cli.options.types import Duration

if TYPE_CHECKING:
    from finetree import Client, Serving

    from finetree_cli.chat import Chat, Subject

KEYS = "an empty line or Ctrl-D ends, Ctrl-C ends an answer, /new begins anew"


@click.command(
    cls=Command,
    examples=(
        "finetree chat JOB",
        'finetree chat JOB --against base -m "How do I reset my password?"',
        "finetree chat JOB@200 --against JOB --against OTHER_JOB --temperature 0.7 --seed 1",
        "finetree chat JOB --json -m Hello | jq -r '.answers[].text'",
    ),
)
@click.argument("job")
@click.option(
    "--against", multiple=True, metavar="base|JOB", help="Also asked, side by side; may be repeated, 4 times at most."
)
@click.option("-m", "--message", help="Say this, print the answers and end. [default: stdin, or a conversation]")
@click.option("--system", default="", help="Instructions, put in front of the conversation.")
@click.option("--temperature", type=click.FloatRange(0, 100), help="0: always the most probable token. [default: 0]")
@click.option(
    "--top-p", type=click.FloatRange(0, 1, min_open=True), help="Choose among tokens of this probability. [default: 1]"
)
@click.option("--top-k", type=click.IntRange(0), help="Choose among so many most probable tokens. [default: all]")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Of the random choices. [default: 0]")
@click.option("--max-new-tokens", type=click.IntRange(1), help="Longest answer. [default: 256]")
@click.option("--stop", multiple=True, help="Text that ends an answer; may be repeated, 8 times at most.")
@click.option("--timeout", type=Duration(), help="Longest wait until the model is loaded.")
@click.option("--keep", is_flag=True, help="Leave the model loaded at the end; its lease ends by itself.")
@pass_settings
def chat(
    settings: Settings,
    /,
    *,
    job: str,
    against: tuple[str, ...],
    message: str | None,
    timeout: float | None,
    keep: bool,
    system: str,
    temperature: float | None,
    top_p: float | None,
    top_k: int | None,
    seed: int | None,
    max_new_tokens: int | None,
    stop: tuple[str, ...],
) -> None:
    """Talk to what JOB has trained, with the chat template that it was trained with.

    JOB is a job, or its checkpoint JOB@STEP. Its base model is loaded for the time of the chat, in 4 or 8 bits where
    all were trained so, unless a job of the project serves it already; that job is used then, and left as it is.
    """
    from finetree_cli.chat import Asking, Chat, running_base, subjects_of
    from finetree_cli.follow import wait_ready

    message = _message(message)
    asking = Asking(system, temperature, top_p=top_p, top_k=top_k, seed=seed, max_new_tokens=max_new_tokens, stop=stop)
    with settings.client() as client:
        subjects, trained = subjects_of(client, job, against)
        found = running_base(client, trained)
        if found is not None:
            _use(settings, found, subjects)
            _talk(settings, Chat(found, subjects, asking), message)
            return
        serving = _serve(client, trained.name, subjects)
        try:
            wait_ready(settings, serving, timeout=timeout)
            _talk(settings, Chat(serving, subjects, asking), message)
        except BaseException:
            serving.end()
            raise
        if keep:
            from finetree_cli.output import short_name

            name = short_name(serving.job.name)
            settings.out.say(f"job {name} keeps the model loaded; `finetree jobs cancel {name}` ends it")
        else:
            serving.end()


def _use(settings: Settings, serving: "Serving", subjects: "list[Subject]") -> None:
    from finetree_cli.chat import load_missing
    from finetree_cli.output import short_name

    settings.out.say(f"job {short_name(serving.job.name)} serves the base model already")
    load_missing(serving, subjects)


def _serve(client: "Client", trained: str, subjects: "list[Subject]") -> "Serving":
    from finetree_cli.chat import quantization_of

    targets = {subject.target: subject.weights for subject in subjects if subject.weights}
    return client.serve(trained, targets=targets, quantization=quantization_of(subjects), display_name="chat")


def _message(given: str | None) -> str | None:
    """Return what is to be said, of -m or stdin; None where a conversation is. Raises BadInput: it is empty."""
    from finetree_cli.errors import BadInput

    if given is None:
        if sys.stdin.isatty():
            return None
        given = sys.stdin.read().strip()
    if not given.strip():
        raise BadInput("there is nothing to say", remedy="give -m TEXT, or write to stdin", reason="NO_MESSAGE")
    return given


def _talk(settings: Settings, chat_: "Chat", message: str | None) -> None:
    if message is not None:
        _one_turn(settings, chat_, message)
        return
    settings.out.say(KEYS)
    while said := _ask():
        if said == "/new":
            chat_.forget()
            continue
        _one_turn(settings, chat_, said)


def _one_turn(settings: Settings, chat_: "Chat", message: str) -> None:
    from finetree_cli.render.trainer.chat import show_turn, turn_document

    turns = chat_.say(message)
    if settings.out.json:
        for turn in deque(turns, maxlen=1):  # the last one is the whole
            settings.out.line(turn_document(turn, chat_.subjects))
        return
    try:
        show_turn(settings.out, turns)
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
        turns.close()
        settings.out.text()


def _ask() -> str:
    try:
        # On stderr, since stdout has the answers.
        sys.stderr.write("> ")
        sys.stderr.flush()
        return sys.stdin.readline().strip()
    except KeyboardInterrupt:
        return ""
