# SPDX-License-Identifier: Apache-2.0
"""What is shown of each message, and that nothing in it is trusted."""

from html.parser import HTMLParser

import finetree
import pytest
from finetree.display.cards import CARDS, capacity_card, card_of, job_card
from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.trainer.v1 import capacity_pb2, event_pb2, job_pb2
from finetree_api.types.v1 import check_pb2, estimate_summary_pb2, evidence_pb2, method_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

CLASSES = [
    job_pb2.Job,
    event_pb2.JobEvent,
    capacity_pb2.GetCapacityResponse,
    estimate_pb2.Estimate,
    recommendation_pb2.RecommendResponse,
]
DEPTH = 4
HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\x1b[2J\r\n\u202e'


def fill(message: Message, text: str, number: float = 3, depth: int = DEPTH) -> Message:
    """Fill a message: texts with `text`, numbers with `number`, of each list two, of a oneof the first."""
    taken = set()
    for field in message.DESCRIPTOR.fields:
        group = field.containing_oneof
        if group is not None and group.name in taken:
            continue
        taken.add(group.name if group is not None else field.name)
        for _ in range(2 if field.is_repeated else 1):
            _set(message, field, text, number=number, depth=depth)
    return message


def _set(message: Message, field: FieldDescriptor, text: str, *, number: float, depth: int) -> None:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return
    if field.message_type is not None:
        if depth and not field.message_type.full_name.startswith("google.protobuf."):
            fill(value.add() if field.is_repeated else value, text, number, depth - 1)
            if not field.is_repeated:
                value.SetInParent()
        return
    kinds = {FieldDescriptor.CPPTYPE_STRING: text, FieldDescriptor.CPPTYPE_BOOL: True}
    if field.enum_type is not None:
        plain = field.enum_type.values[-1].number
    elif field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        plain = number
    else:
        plain = kinds.get(field.cpp_type, 3)
    plain = text.encode() if field.type == FieldDescriptor.TYPE_BYTES else plain
    if field.is_repeated:
        value.append(plain)
    else:
        setattr(message, field.name, plain)


def interval(value):
    return evidence_pb2.Interval(low=value * 0.9, expected=value, high=value * 1.1)


class Tags(HTMLParser):
    """Collects what a browser would take for markup."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag, attrs) -> None:
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("cls", CLASSES)
def test_every_message_that_is_shown_has_a_card(cls):
    assert cls.DESCRIPTOR.full_name in CARDS
    assert len(CARDS) == len(CLASSES)


@pytest.mark.parametrize("cls", CLASSES)
def test_html_escapes_everything_from_outside(cls):
    message = fill(cls(), HOSTILE)
    html = finetree.to_html(message)
    assert "alert(1)" in html, "the text itself is shown"
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    assert tags.seen <= {"div", "b", "span", "table", "thead", "tbody", "tr", "td", "th", "ul", "li", "svg", "polyline"}
    assert not {name for name in tags.attributes if name.startswith("on")} | {"src", "href"} & tags.attributes


@pytest.mark.parametrize("cls", CLASSES)
def test_text_controls_no_terminal(cls):
    text = finetree.to_text(fill(cls(), HOSTILE))
    assert "alert(1)" in text
    assert not {"\x1b", "\r", "\u202e"} & set(text)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("number", [0.0, float("inf"), float("nan"), -1.0, 1e300])
def test_no_number_breaks_a_card(cls, number):
    message = fill(cls(), "x", number)
    assert finetree.to_text(message)
    assert finetree.to_html(message)


@pytest.mark.parametrize("cls", CLASSES)
def test_an_empty_message_has_a_card_too(cls):
    assert finetree.to_text(cls())
    assert finetree.to_html(cls())


def test_other_messages_are_refused_with_what_to_do():
    with pytest.raises(TypeError, match=r"Interval has no text of its own, only Job, .*; to_json takes any message"):
        finetree.to_text(evidence_pb2.Interval())


def test_an_estimate_says_memory_time_and_cost_and_whether_it_fits():
    estimate = estimate_pb2.Estimate(
        memory=estimate_pb2.MemoryEstimate(
            device_bytes=interval(18 * 2**30),
            usable_device_bytes=24 * 2**30,
            components=[estimate_pb2.MemoryComponent(label="activations", bytes=interval(2**30))],
        ),
        fit=estimate_pb2.Fit(verdict=estimate_summary_pb2.FIT_VERDICT_FITS, summary="fits on an RTX 4090"),
        time=estimate_pb2.TimeEstimate(total_seconds=interval(7200)),
        cost=estimate_pb2.CostEstimate(total=evidence_pb2.MoneyInterval(amount=interval(1.6), currency_code="USD")),
        remarks=[check_pb2.Remark(message="rows are assumed to be 512 tokens long")],
    )
    assert finetree.to_text(estimate).splitlines() == [
        "Estimate: fits",
        "  fits on an RTX 4090",
        "  memory  about 16 to 20 GiB of 24",
        "  time    about 2 h",
        "  cost    about $1.40 to $1.80",
        "",
        "  Memory           Low  Expected      High",
        "  activations  922 MiB  1.00 GiB  1.10 GiB",
        "  - rows are assumed to be 512 tokens long",
    ]


def test_a_recommendation_without_a_recipe_says_so():
    answer = recommendation_pb2.RecommendResponse(
        verdict=recommendation_pb2.Verdict(headline="Upgrade the hardware.", upgrade_advised=True),
        methods=[recommendation_pb2.MethodAssessment(method=method_pb2.METHOD_QLORA)],
    )
    assert finetree.to_text(answer).splitlines()[:2] == ["Recommendation: no recipe", "  Upgrade the hardware."]
    assert "QLoRA" in finetree.to_text(answer)


def test_a_job_shows_its_curve():
    job = job_pb2.Job(name="projects/p/jobs/1", state=job_pb2.JOB_STATE_RUNNING)
    assert "<polyline" in job_card(job, curve=(3.0, 2.0, 1.5)).html()
    assert "<polyline" not in job_card(job, curve=(3.0,)).html()


def test_a_state_of_a_newer_service_is_shown_by_its_number():
    assert finetree.to_text(job_pb2.Job(name="j", state=77)) == "Job j: unknown (77)"  # type: ignore[arg-type]


def test_long_lists_of_notes_are_cut_and_say_so():
    estimate = estimate_pb2.Estimate(remarks=[check_pb2.Remark(message=f"remark {number}") for number in range(9)])
    assert card_of(estimate).notes[-1] == "and 4 more"


def test_the_card_of_a_capacity_says_what_is_promised_and_what_could_start():
    memory = capacity_pb2.MemoryUse(promised_bytes=2 * 2**30, available_bytes=5 * 2**30)
    device = capacity_pb2.Device(id="cpu", total_bytes=16 * 2**30, free_bytes=8 * 2**30, slots=3, free_slots=2)
    before = capacity_pb2.Node(name="n", devices=[device])
    (table,) = capacity_card(capacity_pb2.GetCapacityResponse(nodes=[before])).tables
    shown = dict(zip(table.columns, table.rows[0], strict=True))
    assert (shown[">Promised"], shown[">Available"]) == ("-", shown[">Free memory"].partition(" of")[0])
    device.memory.CopyFrom(memory)
    device.fault = "the driver does not answer"
    use = capacity_pb2.ProcessorUse(cores=4, used_by_us=1.5, used_by_others=0.25)
    now = capacity_pb2.Node(name="n", devices=[device], processors=use)
    card = capacity_card(capacity_pb2.GetCapacityResponse(nodes=[now]))
    shown = dict(zip(card.tables[0].columns, card.tables[0].rows[0], strict=True))
    assert shown[">Promised"].startswith("2")
    assert shown[">Available"].startswith("5")
    assert dict(card.facts)["cores of n"] == "4, 1.5 used by the trainer and its jobs, 0.2 by others"
    assert dict(card.facts)["fault of cpu"] == "the driver does not answer"
