# SPDX-License-Identifier: Apache-2.0
"""Rules of a pack: one frozen dataclass for each kind.

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
    """Hardware gate; with `physics` estimates, where there are some, come before the classes.

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
class TightRule:
    """A method that yields to another one where it fits only tightly, and the other needs less memory."""

    id: str
    method: Method
    to: Method
    source: str
    unless: When = field(default_factory=dict)


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
        """Reason for a method that it leads to; empty where the pack gives none."""
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
    """Question of the questionnaire."""

    id: str
    input: str
    options: tuple[Option, ...]
    text: str = ""
    help: str = ""


@dataclass(frozen=True, slots=True)
class CautionRule:
    """Advice against a method; `hard` advice is applied by the hardware gate, and is no caution.

    `advice` says on the method's card when it holds, instead of `message`; `also` are further methods that it points
    to, after `redirect`. `ratio` ends the message with a published ratio of times, which the times of a request replace
    where they are estimated; advice `on_time` alone is left out where those refute it.
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
    ratio: str = ""
    on_time: bool = False

    @property
    def text(self) -> str:
        """What it says in general, without a request."""
        return f"{self.message} {self.ratio}" if self.ratio else self.message

    @property
    def is_advice(self) -> bool:
        """Whether it says when not to use the method; a `note.` is another remark."""
        return self.id.startswith("dont.")


@dataclass(frozen=True, slots=True)
class UpgradeRule:
    """Methods to try where the playbook says to upgrade."""

    id: str
    when: When
    order: tuple[Method, ...]
    source: str


@dataclass(frozen=True, slots=True)
class ConfidenceRules:
    """Points that lower confidence, and the most points of each level."""

    unknown_question: Number
    tie: Number
    caution: Number
    overruled: Number
    no_estimate: Number
    tight: Number
    unmet: Number
    out_of_domain: Number
    implausible: Number
    data_unknown: Number
    few_rows: Number
    rows_cut: Number
    rounding: Number
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
    parameters: tuple[float, ...] = ()
    """Smallest and largest base model that the hours are of, in parameters; empty for any."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Content of a pack file."""

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
    """Recipe profile of requests that name none."""
    quote_times: bool = True
    """Whether `times` are quoted, and compared with limits, where nothing is estimated."""
    data_sizes: tuple[Bracket, ...] = ()
    """Sizes of the data, in rows, that rules tell apart; none in a pack that does not."""
    priors: tuple[QualityPrior, ...] = ()
    footprints: tuple[Footprint, ...] = ()
    tight: tuple[TightRule, ...] = ()
    offload: Cited | None = None
    """Whether to name programs that keep weights in the host's memory."""
    cut_tokens: Number | None = None
    """Largest share of the tokens that a recipe may lose by truncating rows to make them fit."""
    capacity: Cited | None = None
    """Whether to warn where the data have more tokens than the adapter has parameters."""
    experts: Cited | None = None
    """Whether to caution about a model's experts."""
    retrieval: Cited | None = None
    """Whether to name retrieval as an alternative for facts."""
    plausible: Domain | None = None
    """Rows of data outside of which a number is taken for a mistake."""
    longest_run: Number | None = None
    """Seconds of a run above which the inputs are taken for a mistake."""
    few_examples: Number | None = None
    """Rows of data below which to warn."""
    long_run: Number | None = None
    """Seconds of a run from which to warn."""
    rate_doubt: Number | None = None
    """Ratio of published learning rates from which they are uncertain."""
    bf16_rounding: Number | None = None
    """Learning rate below which full fine-tuning of bfloat16 weights loses updates to rounding."""
    quality_floors: tuple[QualityFloor, ...] = ()
