# SPDX-License-Identifier: Apache-2.0
"""The shape of a rule pack: one frozen dataclass for each kind of rule.

`source` is a key of the pack's sources with a place inside it ("playbook L264"); `Pack.provenance` resolves it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from finetree_recommender.method import Method
from finetree_recommender.rule_pack.schema.basic import Cited, MethodOrder, Number, Resolution, Source, When
from finetree_recommender.rule_pack.schema.cards import Card
from finetree_recommender.rule_pack.schema.content import Content
from finetree_recommender.rule_pack.schema.limits import (
    Bracket,
    Capabilities,
    Domain,
    Footprint,
    LimitRules,
    QualityFloor,
    QualityPrior,
    ServingRule,
    TieBreak,
)
from finetree_recommender.rule_pack.schema.recipe import Adaptation, BatchRules, SequenceRules, Table


@dataclass(frozen=True, slots=True)
class Leaf:
    """A method that a condition leads to."""

    id: str
    method: Method
    source: str
    when: When = field(default_factory=dict)
    unless: When = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MemoryClass:
    """Marketed GPU memory in GB, `low` inside and `high` outside."""

    id: str
    key: str
    low: float
    high: float
    source: str
    upgrade: bool = False


@dataclass(frozen=True, slots=True)
class KnownAccelerator:
    """Memory of accelerators whose name begins with a prefix, GB."""

    prefix: str
    gb: float
    source: str


@dataclass(frozen=True, slots=True)
class Gate:
    """The hardware gate; with `physics` the estimator's word, where there is one, goes before the classes.

    `speaker` is who asks for the memory of a class, in words.
    """

    tolerance: Number
    classes: tuple[MemoryClass, ...]
    cpu: Cited
    unknown: Cited
    sharded: Cited
    accelerators: tuple[KnownAccelerator, ...]
    physics: Cited | None = None
    speaker: str = "the playbook"


@dataclass(frozen=True, slots=True)
class Node:
    """A question of the tree; `yes` and `no` name a node or a method. `needs` must be among the feasible methods.

    `yes_reason` and `no_reason` say why a method that it leads to is taken.
    """

    id: str
    when: When
    yes: str
    no: str
    source: str
    needs: Method | None = None
    yes_reason: str = ""
    no_reason: str = ""

    def reason_for(self, method: Method) -> str:
        """Why a method that it leads to is taken; empty where the pack does not say."""
        return self.yes_reason if self.yes == method else self.no_reason


@dataclass(frozen=True, slots=True)
class Tree:
    """The decision tree."""

    root: str
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Option:
    """An answer, how it is shown, and the methods that it votes for.

    `request` is what the answer adds to a RecommendRequest, as proto JSON; `upgrade` says that no method is for it.
    """

    id: str
    value: str
    votes: tuple[Method, ...]
    source: str
    label: str = ""
    badge: str = ""
    tooltip: str = ""
    request: str = ""
    upgrade: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """A question of the helper."""

    id: str
    input: str
    options: tuple[Option, ...]
    text: str = ""
    help: str = ""


@dataclass(frozen=True, slots=True)
class CautionRule:
    """Advice against a method; what is `hard` the hardware gate keeps, and nobody need be cautioned.

    `advice` says on the method's card when it holds, instead of `message`; `also` are further methods that it points
    to, after `redirect`.
    """

    id: str
    method: Method
    when: When
    message: str
    source: str
    redirect: Method | None = None
    also: tuple[Method, ...] = ()
    advice: str = ""
    hard: bool = False

    @property
    def is_advice(self) -> bool:
        """Whether it says when not to use the method; a `note.` says something else of it."""
        return self.id.startswith("dont.")


@dataclass(frozen=True, slots=True)
class UpgradeRule:
    """Methods to try where the playbook says upgrade."""

    id: str
    when: When
    order: tuple[Method, ...]
    source: str


@dataclass(frozen=True, slots=True)
class ConfidenceRules:
    """What lowers confidence, in points, and how many points each level bears."""

    unknown_question: Number
    tie: Number
    caution: Number
    overruled: Number
    no_estimate: Number
    tight: Number
    unmet: Number
    out_of_domain: Number
    high_up_to: Number
    medium_up_to: Number
    score_zero_at: Number


@dataclass(frozen=True, slots=True)
class Times:
    """Hours by method for each dataset size, and USD an hour."""

    examples: tuple[int, ...]
    source: str
    hours: Mapping[Method, tuple[float, ...]]
    usd_per_hour: Mapping[Method, float]
    price_source: str


@dataclass(frozen=True, slots=True)
class Rules:
    """Everything that a pack file holds."""

    id: str
    date: str
    title: str
    sources: Mapping[str, Source]
    resolutions: tuple[Resolution, ...]
    stars_order: MethodOrder
    default_leaf: Leaf
    gate: Gate
    override: Leaf
    tree: Tree
    use_cases: tuple[Leaf, ...]
    budget: tuple[Bracket, ...]
    durations: tuple[Bracket, ...]
    task_counts: tuple[Bracket, ...]
    tie_breaks: tuple[TieBreak, ...]
    serving: tuple[ServingRule, ...]
    serving_rank: Number
    capabilities: Capabilities
    limits: LimitRules
    domain: Domain
    questions: tuple[Question, ...]
    cautions: tuple[CautionRule, ...]
    upgrade: tuple[UpgradeRule, ...]
    adaptations: tuple[Adaptation, ...]
    confidence: ConfidenceRules
    times: Times
    recipe: tuple[Table, ...]
    batch: BatchRules
    sequence: SequenceRules
    content: Content
    methods: tuple[Card, ...]
    profile: str = "PLAYBOOK"
    """Recipe profile where a request names none."""
    priors: tuple[QualityPrior, ...] = ()
    footprints: tuple[Footprint, ...] = ()
    capacity: Cited | None = None
    """Whether to warn where an adapter holds less than the data teach."""
    experts: Cited | None = None
    """Whether to say what becomes of a model's experts."""
    retrieval: Cited | None = None
    """Whether to say that new facts may be looked up instead of learned."""
    few_examples: Number | None = None
    """Rows of data below which to warn."""
    long_run: Number | None = None
    """Seconds of a run from which on to warn."""
    rate_doubt: Number | None = None
    """How many times apart published learning rates must be to be told as uncertain."""
    bf16_rounding: Number | None = None
    """Learning rate below which full fine-tuning of bfloat16 weights loses updates to rounding."""
    quality_floors: tuple[QualityFloor, ...] = ()
