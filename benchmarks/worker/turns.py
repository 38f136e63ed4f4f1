# SPDX-License-Identifier: Apache-2.0
"""Two processes that take turns at training steps (pacing.py is their end), and what their steps add up to."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pacing import MARK


class SideError(Exception):
    """A side ended before its last step; the text is the end of what it wrote to standard error."""


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step: wall-clock and CPU time in seconds, and tokens that are no padding."""

    seconds: float
    cpu_seconds: float
    tokens: int


@dataclass(slots=True)
class Side:
    """A process that trains, and what it has said so far."""

    command: Sequence[str]
    asked: dict[str, Any]
    steps: list[Step] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    held_out: dict[int, float] = field(default_factory=dict)
    peak_bytes: int = 0

    def start(self) -> None:
        """Start it, up to its first step."""
        folder = Path(self.asked["work"])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "settings.json").write_text(json.dumps(self.asked), encoding="utf-8")
        self._errors = (folder / "errors.txt").open("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            [*self.command, str(folder / "settings.json")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._until("ready")

    def step(self) -> Step:
        """Let it take one step."""
        self._go()
        self._until("step")
        return self.steps[-1]

    def finish(self) -> None:
        """Let it go on behind its last step, to its end."""
        self._go()
        self._until("done")
        self.stop()

    def stop(self) -> None:
        """End it wherever it is."""
        if self._process is None:
            return
        if not self.peak_bytes:  # else it has said its last word and ends by itself
            self._process.kill()
        self._process.communicate()
        self._errors.close()
        self._process = None

    _process: subprocess.Popen[str] | None = field(default=None, init=False, repr=False)
    _errors: Any = field(default=None, init=False, repr=False)

    def _go(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._ended() from error

    def _until(self, kind: str) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                said = json.loads(line.removeprefix(MARK))
                self._note(said)
                if said["kind"] == kind:
                    return
        raise self._ended()

    def _note(self, said: dict[str, Any]) -> None:
        if said["kind"] == "step":
            self.steps.append(Step(said["seconds"], said["cpu_seconds"], said["tokens"]))
        if "loss" in said and said["kind"] != "held_out":
            self.losses.append(said["loss"])
        elif said["kind"] == "held_out":
            self.held_out[said["step"]] = said["loss"]
        elif said["kind"] == "done":
            self.peak_bytes = said["peak_bytes"]

    def _ended(self) -> SideError:
        assert self._process is not None
        status = self._process.wait()
        if status < 0:
            return SideError(f"ended by signal {-status}")  # 9: as a rule, for its memory
        self._errors.seek(0)
        return SideError(self._errors.read()[-2000:].strip() or f"exit status {status}")


def take_turns(own: Side, peer: Side, *, warm_up: int, rounds: int) -> None:
    """Start both and let them step in turns, the one first in even rounds, the other in odd ones. Raises SideError."""
    try:
        for side in (own, peer):
            side.start()
        for number in range(warm_up + rounds):
            for side in (own, peer) if number % 2 == 0 else (peer, own):
                side.step()
            note = " ".join(f"{side.steps[-1].tokens / side.steps[-1].seconds:.0f}" for side in (own, peer))
            print(f"  step {number + 1} of {warm_up + rounds}: {note} tokens/s", file=sys.stderr, flush=True)
        for side in (own, peer):
            side.finish()
    finally:
        for side in (own, peer):
            side.stop()


def alone(side: Side, *, warm_up: int, rounds: int) -> float:
    """Tokens per second of a side that works alone, behind its first steps. Raises SideError."""
    try:
        side.start()
        for _ in range(warm_up + rounds):
            side.step()
        return rate(side.steps[warm_up:])
    finally:
        side.stop()


def whole(side: Side, *, steps: int) -> float:
    """Seconds of a side from its process's start to its end: imports, data, model, both evaluations and all steps."""
    started = time.perf_counter()
    try:
        side.start()
        for _ in range(steps):
            side.step()
        side.finish()
        return time.perf_counter() - started
    finally:
        side.stop()


def rate(steps: Sequence[Step]) -> float:
    """Median over steps of the tokens per second."""
    return statistics.median(step.tokens / step.seconds for step in steps)


def cpu_rate(steps: Sequence[Step]) -> float:
    """Median over steps of the tokens per second of CPU time: what a busy machine disturbs least."""
    return statistics.median(step.tokens / step.cpu_seconds for step in steps)


def ratios(own: Sequence[Step], peer: Sequence[Step]) -> list[float]:
    """By round, how many times the peer's tokens per second the project's are."""
    pairs = zip(own, peer, strict=True)
    return [(mine.tokens / mine.seconds) / (theirs.tokens / theirs.seconds) for mine, theirs in pairs]


def same_curve(own: dict[int, float], peer: dict[int, float], *, start: float, end: float) -> bool:
    """Whether two held-out losses by step begin within `start` and end within `end` of each other, as a share."""
    for step, tolerance in ((min(own), start), (max(own), end)):
        if abs(own[step] - peer[step]) > tolerance * peer[step]:
            return False
    return True
