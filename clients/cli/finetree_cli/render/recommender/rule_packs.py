# SPDX-License-Identifier: Apache-2.0
"""Rule packs as text."""

from collections.abc import Sequence

from finetree_api.recommender.v1 import recommendation_pb2, rule_pack_pb2
from finetree_api.types.v1 import run_spec_pb2

from finetree_cli.jobfile.yaml_scalars import in_words, value_words
from finetree_cli.output import Output
from finetree_cli.render.recommender.recommendation import method_name

SHORT_HASH = 12
"""Digits of a hash in a table; --json has all of them."""


def show_list(out: Output, packs: Sequence[rule_pack_pb2.RulePack]) -> None:
    """Print the packs as a table."""
    rows = [
        (
            f"{item.id} *" if item.default else item.id,
            item.title,
            item.date,
            "built in" if item.origin == rule_pack_pb2.RULE_PACK_ORIGIN_BUILT_IN else "folder",
            item.extends or "-",
            item.sha256[:SHORT_HASH],
        )
        for item in packs
    ]
    out.table(["Pack", "Title", "Date", "From", "Extends", "SHA-256"], rows)
    out.text("* default")
    for item in packs:
        if item.problem:
            out.text(f"{item.id}: the file is invalid: {item.problem}")


def show(out: Output, pack: rule_pack_pb2.GetRulePackResponse) -> None:
    """Print a pack in full."""
    short = pack.rule_pack
    out.text(f"{short.id}  {short.title}")
    over = f", extends {short.extends}" if short.extends else ""
    out.text(f"{short.date}{over}, sha256 {short.sha256}")
    if short.problem:
        out.text(f"the file is invalid: {short.problem}")
    for question in pack.questions:
        rows = [
            (f"{item.label or item.value} {item.badge}".rstrip(), _votes(item), item.tooltip)
            for item in question.options
        ]
        out.table(["Answer", "In favor of", "Meaning"], rows, title=question.text or question.id, wrap=True)
    words = value_words(run_spec_pb2.RunSpec.DESCRIPTOR, recommendation_pb2.RecommendRequest.DESCRIPTOR)
    rules = [(rule.id, in_words(rule.words, words), rule.source or "-") for rule in pack.rules]
    if rules:
        out.table(["Rule", "Meaning", "Source"], rules, wrap=True)
    resolutions = [(item.id, item.about, item.decision, item.reason) for item in pack.resolutions]
    if resolutions:
        out.table(["Resolution", "About", "Decision", "Reason"], resolutions, wrap=True)


def _votes(option: rule_pack_pb2.QuestionOption) -> str:
    return ", ".join(method_name(method) for method in option.votes) or "-"
