# SPDX-License-Identifier: Apache-2.0
"""A recommendation in words."""

from finetree_recommender.advisor import Recommendation
from finetree_recommender.assess import Assessment
from finetree_recommender.estimates import Priced
from finetree_recommender.fields import path_for, value_of
from finetree_recommender.fit import GIB
from finetree_recommender.methods import Method
from finetree_recommender.reasons import Standing
from finetree_recommender.recipe import Recipe


def headline(answer: Recommendation) -> str:
    """The verdict in one line."""
    method = answer.decision.method
    if method is None:
        return "Upgrade the hardware: nothing was shown to train here"
    title = answer.pack.card(method).title
    if answer.decision.upgrade_advised:
        return f"{title}: it trains here, although the playbook says to upgrade the GPU"
    return f"{title}: {answer.methods[0].reasons[0].message}"


def paragraph(answer: Recommendation) -> str:
    """The whole answer for people: verdict, recipe, figures, confidence, and what the others lack."""
    parts = [f"{headline(answer)}."]
    if answer.recipe is not None and answer.decision.method is not None:
        parts.append(_recipe(answer.recipe, answer.decision.method))
    if answer.priced is not None:
        parts.append(_figures(answer.priced))
    parts.append(f"Confidence is {answer.confidence.level.lower()}.")
    parts.append(_others(answer.methods))
    parts.append(f"Rules: {answer.pack.rules.id}, whose figures are those of 7B models.")
    return " ".join(parts)


def _recipe(recipe: Recipe, method: Method) -> str:
    training = recipe.spec.training
    words = [f"learning rate {training.learning_rate:g}", f"batch {training.effective_batch_size}"]
    words += [f"{training.epochs:g} epochs", f"sequences of {training.sequence_length} tokens"]
    if method in (Method.LORA, Method.QLORA):
        words.insert(0, f"rank {value_of(recipe.spec, path_for('lora.rank', method))}")
    return f"Recipe: {', '.join(words)}."


def _figures(priced: Priced) -> str:
    needs, has = priced.device_bytes.expected / GIB, priced.usable_bytes / GIB
    text = f"It takes about {needs:.1f} of {has:.1f} GiB"
    if priced.total_seconds is not None:
        text += f" and {_duration(priced.total_seconds.expected)}"
    if priced.cost is not None:
        text += f", for {priced.cost.expected:.2f} {priced.currency}"
    return f"{text}."


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _others(methods: tuple[Assessment, ...]) -> str:
    lost = [
        f"{item.method} ({item.reasons[0].message})"
        for item in methods
        if item.standing is not Standing.RECOMMENDED and item.reasons
    ]
    return f"Not taken: {'; '.join(lost)}."
