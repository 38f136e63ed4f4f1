# SPDX-License-Identifier: Apache-2.0
"""A rule pack as messages: the questionnaire, the tree and every rule, for a wizard, a dashboard or a reviewer."""

import dataclasses
from collections.abc import Iterator

from finetree_api.recommender.v1 import recommender_pb2 as rec

from finetree_recommender.messages.methods import number
from finetree_recommender.messages.questionnaire import questionnaire
from finetree_recommender.method import Method
from finetree_recommender.policy.library import Entry
from finetree_recommender.policy.pack import DEFAULT_PACK, Pack
from finetree_recommender.policy.schema.rules import Node
from finetree_recommender.policy.wording import node_words, rule_words


def policy(entry: Entry) -> rec.Policy:
    """A pack in short."""
    origin = rec.POLICY_ORIGIN_BUILT_IN if entry.built_in else rec.POLICY_ORIGIN_FOLDER
    message = rec.Policy(id=entry.id, origin=origin, default=entry.id == DEFAULT_PACK, problem=entry.problem)
    if entry.pack is not None:
        rules = entry.pack.rules
        message.title, message.date, message.sha256 = rules.title, rules.date, entry.pack.sha256
        message.extends = entry.pack.extends
    return message


def details(entry: Entry, pack: Pack) -> rec.GetPolicyResponse:
    """A pack in full."""
    resolutions = (
        rec.PolicyResolution(id=item.id, about=item.about, decision=item.decision, reason=item.reason)
        for item in pack.rules.resolutions
    )
    return rec.GetPolicyResponse(
        policy=policy(entry),
        questions=questionnaire(pack),
        nodes=_nodes(pack),
        edges=_edges(pack),
        root=pack.rules.tree.root,
        rules=_rules(pack),
        resolutions=resolutions,
        yaml=pack.text,
    )


def _nodes(pack: Pack) -> Iterator[rec.PolicyNode]:
    nodes = pack.rules.tree.nodes
    for node in nodes:
        yield rec.PolicyNode(id=node.id, text=node_words(node), provenance=pack.provenance(node.source))
    leaves = {name for node in nodes for name in (node.yes, node.no) if name in list(Method)}
    for method in Method:
        if method in leaves:
            yield rec.PolicyNode(id=method.value, text=pack.card(method).title, method=number(method))


def _edges(pack: Pack) -> Iterator[rec.PolicyEdge]:
    for node in pack.rules.tree.nodes:
        yield from (_edge(node, answer) for answer in ("yes", "no"))


def _edge(node: Node, answer: str) -> rec.PolicyEdge:
    return rec.PolicyEdge(from_id=node.id, to_id=getattr(node, answer), answer=answer)


def _rules(pack: Pack) -> Iterator[rec.PolicyRule]:
    for section in dataclasses.fields(pack.rules):
        if section.name == "resolutions":  # they are given apart
            continue
        for rule_id, words, source in rule_words(getattr(pack.rules, section.name)):
            message = rec.PolicyRule(id=rule_id, kind=section.name, words=words, source=source)
            if source:
                message.provenance.CopyFrom(pack.provenance(source))
            yield message
