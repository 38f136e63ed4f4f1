# SPDX-License-Identifier: Apache-2.0
"""This project's side of against_trl.py: the worker's own core trains a plan, and stops at every step to be told to go.

    python against_trl_own.py SETTINGS.json [tokens]

Speaks as pacing.py says. The clock of a step runs from the word to go on to the worker's StepMetrics event: rows,
gradients, update and the event's own making.
"""

import json
import sys
from pathlib import Path
from typing import Any

from method_process import cpu_task
from pacing import Pacer, peak_bytes, settings

IGNORED = -100  # the peer's label of a token that is not learned


class Recorder:
    """The worker's reporter and control: tells the driver what happens, and waits before every step."""

    def __init__(self, pacer: Pacer) -> None:
        self.pacer = pacer
        self.tokens = 0

    def emit(self, event: Any, **_: Any) -> None:
        """Take a payload of the worker's."""
        kind = type(event).__name__
        if kind == "PreflightReport":
            self.pacer.ready()
        elif kind == "StepMetrics":
            tokens = event.processed_tokens - self.tokens
            self.pacer.step(tokens=tokens, loss=event.loss, grad_norm=event.grad_norm)
            self.tokens = event.processed_tokens
        elif kind == "EvalMetrics":
            self.pacer.tell("held_out", step=event.step, loss=event.loss)

    def poll(self) -> Any:
        """Nothing is asked of the run."""
        from finetree_worker.control import Signal

        return Signal.NONE


def task(asked: dict[str, Any]) -> Any:
    """The worker's task of the spec in the settings."""
    made = cpu_task(Path(asked["work"]), asked["model"], asked["spec"], asked["threads"])
    made.dataset_file, made.evaluation_file = asked["rows"], asked["held_out"]
    return made


def write_tokens(asked: dict[str, Any]) -> None:
    """Write the tokens and labels of both files, as the worker makes them, for the peer."""
    from finetree_worker.data.dataset import load_dataset
    from finetree_worker.models.load import load_tokenizer
    from finetree_worker.plan_from_task import train_plan

    here = train_plan(task(asked))
    made = load_dataset(here.data, load_tokenizer(here.base.folder), lambda *_: None)
    for path, examples in ((asked["tokens"], made.train), (asked["held_out_tokens"], made.held_out)):
        with Path(path).open("w", encoding="ascii") as stream:
            for example in examples:
                learned = [i if wanted else IGNORED for i, wanted in zip(*_lists(example), strict=True)]
                stream.write(json.dumps({"input_ids": example.tokens.tolist(), "labels": learned}) + "\n")


def _lists(example: Any) -> tuple[list[int], list[bool]]:
    return example.tokens.tolist(), example.is_target.tolist()


def main() -> None:
    """Train the settings of the first argument, or write their tokens where the second is "tokens"."""
    asked = settings()
    if sys.argv[2:] == ["tokens"]:
        write_tokens(asked)
        return
    from finetree_worker.process.log_capture import set_environment

    set_environment()
    from finetree_worker.process.core import TrainingCore

    core, pacer = TrainingCore(), Pacer()
    core.warm_up()
    recorder = Recorder(pacer)
    core.train(task(asked), recorder, recorder)
    pacer.tell("done", peak_bytes=peak_bytes())


if __name__ == "__main__":
    sys.exit(main())
