# SPDX-License-Identifier: Apache-2.0
"""Old answers beside new ones: what the OpenAI model said, the base model before and after training."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from finetree_cli.migrate.recorded import Recorded, key_of

if TYPE_CHECKING:
    from finetree_api.trainer.v1 import event_pb2


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers to one question; `reference` is the right one where the validation file has it, else empty."""

    prompt: str
    openai: str
    before: str
    after: str
    reference: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the answer after training is OpenAI's, surrounding whitespace aside."""
        return self.after.strip() == self.openai.strip()


@dataclass(frozen=True, slots=True)
class Comparison:
    """The answers to all recorded questions that were asked again."""

    answers: tuple[Answers, ...]
    recorded: int
    """Recorded answers of the job's model."""

    def document(self) -> dict[str, Any]:
        """Build the JSON object."""
        return {
            "recorded": self.recorded,
            "asked_again": len(self.answers),
            "same_as_openai": sum(each.agrees for each in self.answers),
            "right": self.right(),
            "answers": [asdict(each) for each in self.answers],
        }

    def right(self) -> dict[str, int] | None:
        """Count the right answers of each model; None where no reference is known."""
        known = [each for each in self.answers if each.reference]
        if not known:
            return None
        found = {name: sum(getattr(each, name).strip() == each.reference.strip() for each in known) for name in MODELS}
        return {"questions": len(known), **found}


MODELS = ("openai", "before", "after")


def compare(
    records: Sequence[Recorded], references: Mapping[str, str], samples: "Iterable[event_pb2.Sample]"
) -> Comparison:
    """Put a job's samples to the records that they repeat; a sample has the question and the expected answer."""
    waiting: dict[tuple[str, str], list[Recorded]] = {}
    for each in records:
        expected = references.get(key_of(each.messages), each.answer)
        waiting.setdefault((each.prompt.strip(), expected.strip()), []).append(each)
    answers = []
    for sample in samples:
        matching = waiting.get((sample.prompt.strip(), sample.expected.strip()))
        if matching:
            record = matching.pop(0)
            reference = references.get(key_of(record.messages), "")
            answers.append(Answers(record.prompt, record.answer, sample.before, sample.after, reference))
    return Comparison(tuple(answers), len(records))
