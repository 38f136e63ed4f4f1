# SPDX-License-Identifier: Apache-2.0
"""Cautions on a recommendation."""

from collections.abc import Iterator

from finetree.capabilities import unsupported
from finetree_api.types.v1 import hardware_pb2

from finetree_recommender.decision.fit import GIB, OVER_MAX_DURATION, fits, risk
from finetree_recommender.decision.hardware_gate import memory_words
from finetree_recommender.decision.situation import Situation
from finetree_recommender.estimator.values import Evidence, FitState
from finetree_recommender.explain import cautions_recipe, rental_offers, unmet_limits
from finetree_recommender.explain.reasons import advice_words, caution_code, redirect_of, warnings
from finetree_recommender.explain.thresholds import NOT_ESTIMATED
from finetree_recommender.explain.ways_out.offers import WayOut
from finetree_recommender.explain.ways_out.questions import Kind, preferred
from finetree_recommender.method import Method, listed
from finetree_recommender.recipe.build import Recipe
from finetree_recommender.request.inputs import Inputs
from finetree_recommender.rule_pack.pack import Pack
from finetree_recommender.trace import Caution

ESTIMATOR_UNAVAILABLE = "ESTIMATOR_UNAVAILABLE"
MODEL_NOT_ESTIMATED = "MODEL_NOT_ESTIMATED"
HARDWARE_UNKNOWN = "HARDWARE_UNKNOWN"
MEMORY_UNKNOWN = "MEMORY_UNKNOWN"
MODEL_UNKNOWN = "MODEL_UNKNOWN"

SMALLER = 0.8
"""Largest size of a smaller model, as a share: names round, and a 7B model has 6.7 to 7.6 billion parameters."""

_LEAST_GIB = 0.1

_ROOMY = (Method.LORA, Method.QLORA)
"""Methods to take in place of one that fits only tightly, in this order."""

MISSING_EVIDENCE = {
    ESTIMATOR_UNAVAILABLE: "the estimator did not answer: memory and time are the rule pack's figures; ask again later",
    MODEL_NOT_ESTIMATED: "the estimator cannot read a local model: give its shape or catalog name for an estimate",
    HARDWARE_UNKNOWN: "no hardware was named: the recipe is not estimated, and needs `hardware` before it can run",
    MEMORY_UNKNOWN: "the memory of the hardware is unknown: nothing is estimated, and the other answers decide",
    MODEL_UNKNOWN: "no model was named: the recipe is that of a 7B model, is not estimated, and needs `model` to run",
}
"""Why there is no estimate, by code."""


def collect(
    situation: Situation,
    unmet: tuple[Caution, ...],
    *,
    missing: str,
    parameters: int | None,
    built: Recipe | None,
    rented: tuple[rental_offers.Offer, ...] = (),
    ways: tuple[WayOut, ...] = (),
) -> tuple[Caution, ...]:
    """Collect all cautions, the gravest first.

    `unmet` are the limits that the verdict breaks, `missing` is the code of why there is no estimate, `rented` are
    offers of GPUs to rent, `ways` what would train where nothing does.
    """
    inputs, decision = situation.inputs, situation.decision
    slower = tuple(unmet_limits.slower(situation))
    late = bool(slower) or any(item.code == OVER_MAX_DURATION for item in unmet)
    return (
        *cautions_recipe.cut_rows(situation, built),
        *cautions_recipe.implausible(situation),
        *cautions_recipe.outside(situation, parameters if decision.method is not None else None),
        *_evidence(situation, missing, ways),
        *(_advised(situation, rented) if rented else ()),
        *(() if ways else _smaller(situation, parameters)),
        *_not_trained(built),
        *_sharding(situation, told={way.kind for way in ways}),
        *cautions_recipe.experts(situation, decision.method),
        *cautions_recipe.idle_devices(built),
        *unmet,
        *inputs.cautions,
        *unmet_limits.contradictions(situation),
        *slower,
        *unmet_limits.unchecked(situation),
        *_advice(situation, decision.method),
        *cautions_recipe.few_rows(situation),
        *(() if late else cautions_recipe.long_run(situation, decision.method)),
        *cautions_recipe.retrieval(situation, decision.method),
        *cautions_recipe.rounding(situation, built),
        *cautions_recipe.doubtful_rate(situation, decision.method, parameters),
        *(unmet_limits.device_notes(situation) if decision.method is not None else ()),
        *unmet_limits.serving_notes(situation, built.spec if built is not None else None),
        *_capacity(situation, decision.method),
        *(() if rented else _renting(situation)),
        *_unknown(inputs, parameters),
        *cautions_recipe.unknown_lengths(situation, built),
    )


def _advised(situation: Situation, rented: tuple[rental_offers.Offer, ...]) -> Iterator[Caution]:
    """GPUs to rent, first for the method that the rules prefer where hardware sets no limit."""
    first, *_ = preferred(situation.pack, situation.inputs)
    return rental_offers.advice(
        situation.pack, first, _usable(situation, rented), limits=situation.inputs.stated_limits
    )


def _usable(situation: Situation, rented: tuple[rental_offers.Offer, ...]) -> tuple[rental_offers.Offer, ...]:
    """Offers for methods whose result the named servers load."""
    return tuple(offer for offer in rented if not any(item.hard for item in situation.violations[offer.method]))


def _evidence(situation: Situation, missing: str, ways: tuple[WayOut, ...]) -> Iterator[Caution]:
    inputs, evidence, decision = situation.inputs, situation.evidence, situation.decision
    if evidence is None:
        yield Caution(missing, MISSING_EVIDENCE[missing], "fit.no_estimate")
    elif decision.method is None and decision.fit.state is FitState.UNKNOWN:
        text = "whether any method fits is unknown: state the memory (hardware.cpu.memory_bytes)"
        text += _smallest(evidence)
        yield Caution("FIT_UNKNOWN", text, "fit.nothing_fits")
    elif decision.method is None:
        text = f"no recipe was shown to fit this hardware{_nearest(evidence)}: "
        if ways:
            text += ways[0].message
        else:
            text += "shard the model across the devices, " if _divisible(situation) else ""
            text += "use more memory or a smaller model"
        if inputs.profile is None and not ways:
            text += ", or state the lengths of the rows (dataset_profile.token_lengths); short rows need less"
        yield Caution("NOTHING_FITS", text, "fit.nothing_fits")
    elif decision.fit.state is FitState.UNKNOWN:
        text = f"the estimator has no figure for {decision.method} here: whether it fits is unknown"
        yield Caution("METHOD_NOT_ESTIMATED", text, "fit.not_estimated")
    elif decision.fit.state is FitState.TIGHT:
        tight = situation.estimate(decision.method)
        roomy = next((m for m in _ROOMY if evidence.best[m].state is FitState.FITS and m is not decision.method), None)
        text = f"{decision.method} fits only tightly: {risk(tight)}"
        if roomy is not None:
            text += f"; {fits(roomy, situation.estimate(roomy))}"
        else:
            text += "; more memory or shorter rows leave room"
        yield Caution("MEMORY_TIGHT", text, "fit.fits", roomy)


def _not_trained(built: Recipe | None) -> Iterator[Caution]:
    """What the trainer of this suite refuses of a recipe for several devices."""
    if built is None or max(built.spec.hardware.count, built.spec.hardware.nodes) <= 1:
        return
    refused = [each for each in unsupported(built.spec) if each.field.partition(".")[0] in ("hardware", "optimizer")]
    if refused:
        text = "; ".join(f"{each.field}: {each.description}" for each in refused)
        yield Caution("NOT_TRAINED_HERE", f"the trainer refuses the recipe as it is ({text})", "fit.sharded")


def _sharding(situation: Situation, told: set[Kind]) -> Iterator[Caution]:
    """Methods that would fit if the model were sharded across the devices."""
    hardware = situation.inputs.hardware
    if Kind.SEVERAL_GPUS not in told and (found := _divisible(situation)):
        words = listed(found, "and")
        text = f"each of the {hardware.count} devices holds the whole model: {words} may fit if it is sharded "
        text += "across them (hardware.sharding)"
        yield Caution("NOT_SHARDED", text, "fit.does_not_fit", found[0])


def _divisible(situation: Situation) -> tuple[Method, ...]:
    """Methods that may fit if the model is sharded across the devices, each of which holds all of it here."""
    hardware = situation.inputs.hardware
    several = hardware.count > 1 and hardware.sharding != hardware_pb2.SHARDING_FULL
    return _shardable(situation, hardware.count) if several else ()


def _shardable(situation: Situation, count: int) -> tuple[Method, ...]:
    """Preferred methods that do not fit on one device, and may fit on all of them together."""
    evidence, decision = situation.evidence, situation.decision
    if evidence is None:
        return ()
    preferred = list(decision.fit.rejected) if decision.method is not None else []
    preferred += [Method.LORA] if decision.method is Method.QLORA else []
    preferred += [Method.FULL] if situation.answers.quality in ("MAXIMUM", "CRITICAL") else []
    preferred += [Method.LORA, Method.QLORA] if decision.method is None else []
    best = {method: evidence.best[method] for method in dict.fromkeys(preferred)}
    return tuple(
        method
        for method, found in best.items()
        if found.state is FitState.DOES_NOT_FIT
        and (found.estimate is None or found.estimate.device_bytes.expected <= count * found.estimate.usable_bytes)
    )


def _nearest(evidence: Evidence) -> str:
    """The method that lacks the least memory, and how much; empty where none has an estimate."""
    estimate = [(best.estimate, method) for method, best in evidence.best.items() if best.estimate is not None]
    wanting = ((item.device_bytes.expected - item.usable_bytes, method) for item, method in estimate)
    lacks = sorted((lack, method) for lack, method in wanting if lack > 0)
    if not lacks:
        return ""
    lack = lacks[0][0] / GIB
    much = f"{lack:.1f} GiB" if lack >= _LEAST_GIB else f"less than {_LEAST_GIB} GiB"
    return f" (nearest: {lacks[0][1]}, which lacks {much})"


def _smallest(evidence: Evidence) -> str:
    """Memory that the usual methods need, in words; empty without estimates."""
    usual = ((method, evidence.best[method].estimate) for method in (Method.LORA, Method.QLORA, Method.FULL))
    takes = [f"{m}: {p.device_bytes.expected / GIB:.1f} GiB" for m, p in usual if p is not None]
    return f"; needed at the smallest: {', '.join(takes)}" if takes else ""


def _advice(situation: Situation, method: Method | None) -> Iterator[Caution]:
    if method is not None:
        for rule in warnings(situation.pack, situation.answers, method, evidence=situation.evidence):
            instead = redirect_of(rule, situation)
            yield Caution(caution_code(rule), advice_words(rule, situation), rule.id, instead)


def _renting(situation: Situation) -> Iterator[Caution]:
    """The smallest GPU to rent for the best method that the rules would recommend on any GPU."""
    gb, pack = situation.inputs.marketed_gb, situation.pack
    if not situation.inputs.request.can_rent or (gb is None and not situation.inputs.on_cpu):
        return
    best, found = _grade(pack, situation.decision.method), None
    for item in pack.rules.gate.classes:
        if item.low > (gb or 0):
            rented = situation.elsewhere(item.key)
            if rented.method is not None and _grade(pack, rented.method) > best:
                best, found = _grade(pack, rented.method), (item, rented.method)
    if found is not None:
        words = f"{memory_words(pack, found[0].key)} {NOT_ESTIMATED}"
        text = f"hardware can be rented: on {words} the recommendation would be {found[1]}"
        yield Caution("RENTING_CHANGES_METHOD", text, found[0].id, found[1])


def _grade(pack: Pack, method: Method | None) -> float:
    """Quality to expect, percent of full fine-tuning."""
    return pack.card(method).quality_percent.expected if method is not None else 0


def _smaller(situation: Situation, parameters: int | None) -> Iterator[Caution]:
    """The largest smaller model that is reported to train in this memory, where nothing fits."""
    hardware, gb = situation.inputs.hardware, situation.inputs.marketed_gb
    if situation.decision.method is not None or gb is None:
        return
    if hardware.sharding == hardware_pb2.SHARDING_FULL:
        gb /= max(1, hardware.count)  # the reports are of one GPU
    most = SMALLER * (parameters or 7e9)
    fitting = [item for item in situation.pack.rules.footprints if item.gb <= gb and item.parameters <= most]
    if fitting:
        best = max(fitting, key=lambda item: item.parameters)
        text = f"a smaller model may fit: {best.parameters / 1e9:g}B is reported to train by {best.method}"
        yield Caution("SMALLER_MODEL", f"{text} in {best.gb:g} GB", best.id, best.method)


def _capacity(situation: Situation, method: Method | None) -> Iterator[Caution]:
    """Data with more tokens to learn than the adapter has parameters."""
    rule, profile = situation.pack.rules.capacity, situation.inputs.profile
    if rule is None or profile is None or method not in (Method.LORA, Method.QLORA):
        return
    estimate = situation.estimate(method)
    # The share that is trained is often unknown; all tokens would warn of data that are mostly prompts.
    taught = int(profile.total_tokens * profile.target_fraction)
    if estimate is not None and 0 < estimate.trainable < taught:
        text = f"the adapter has {estimate.trainable:,} parameters for {taught:,} trained tokens: a higher rank "
        yield Caution("ADAPTER_CAPACITY", f"{text}(lora.rank) or full fine-tuning may learn more", rule.id, Method.FULL)


def _unknown(inputs: Inputs, parameters: int | None) -> Iterator[Caution]:
    if inputs.profile is None:
        text = "the data are unknown: epochs, batch size and sequence length are defaults of the rules"
        yield Caution("DATASET_UNKNOWN", text, "recipe.batch")
    if parameters is None:
        text = "the size of the model is unknown: the learning rate is that of a 7B model"
        yield Caution("MODEL_SIZE_UNKNOWN", text, "recipe.learning_rate.medium_model")
