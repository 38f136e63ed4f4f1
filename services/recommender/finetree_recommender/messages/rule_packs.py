# SPDX-License-Identifier: Apache-2.0
"""Rule pack as messages: the questionnaire, the tree and every rule."""

import dataclasses
from collections.abc import Iterator

from finetree_api.recommender.v1 import rule_pack_pb2

from finetree_recommender.messages.methods import number
from finetree_recommender.messages.questionnaire import questionnaire
from finetree_recommender.method import Method
from finetree_recommender.rule_pack.library import Entry
from finetree_recommender.rule_pack.pack import DEFAULT_PACK, Pack
from finetree_recommender.rule_pack.schema.rules import Node
from finetree_recommender.rule_pack.wording import node_words, rule_words


def rule_pack(entry: Entry) -> rule_pack_pb2.RulePack:
    """Write the summary of a pack."""
    origin = rule_pack_pb2.RULE_PACK_ORIGIN_BUILT_IN if entry.built_in else rule_pack_pb2.RULE_PACK_ORIGIN_FOLDER
    message = rule_pack_pb2.RulePack(
        id=entry.id, origin=origin, default=entry.id == DEFAULT_PACK, problem=entry.problem
    )
    if entry.pack is not None:
        rules = entry.pack.rules
        message.title, message.date, message.sha256 = rules.title, rules.date, entry.pack.sha256
        message.extends = entry.pack.extends
    return message


def details(entry: Entry, pack: Pack) -> rule_pack_pb2.GetRulePackResponse:
    """Write the whole of a pack."""
    resolutions = (
        rule_pack_pb2.PackResolution(id=item.id, about=item.about, decision=item.decision, reason=item.reason)
        for item in pack.rules.resolutions
    )
    return rule_pack_pb2.GetRulePackResponse(
        rule_pack=rule_pack(entry),
        questions=questionnaire(pack),
        nodes=_nodes(pack),
        edges=_edges(pack),
        root=pack.rules.tree.root,
        rules=_rules(pack),
        resolutions=resolutions,
        yaml=pack.text,
    )


def _nodes(pack: Pack) -> Iterator[rule_pack_pb2.PackNode]:
    nodes = pack.rules.tree.nodes
    for node in nodes:
        yield rule_pack_pb2.PackNode(id=node.id, text=node_words(node), provenance=pack.provenance(node.source))
    leaves = {name for node in nodes for name in (node.yes, node.no) if name in list(Method)}
    for method in Method:
        if method in leaves:
            yield rule_pack_pb2.PackNode(id=method.value, text=pack.card(method).title, method=number(method))


def _edges(pack: Pack) -> Iterator[rule_pack_pb2.PackEdge]:
    for node in pack.rules.tree.nodes:
        yield from (_edge(node, answer) for answer in ("yes", "no"))


def _edge(node: Node, answer: str) -> rule_pack_pb2.PackEdge:
    return rule_pack_pb2.PackEdge(from_id=node.id, to_id=getattr(node, answer), answer=answer)


def _rules(pack: Pack) -> Iterator[rule_pack_pb2.PackRule]:
    for section in dataclasses.fields(pack.rules):
        if section.name == "resolutions":  # they are given apart
            continue
        for rule_id, words, source in rule_words(getattr(pack.rules, section.name)):
            message = rule_pack_pb2.PackRule(id=rule_id, kind=section.name, words=words, source=source)
            if source:
                message.provenance.CopyFrom(pack.provenance(source))
            yield message
