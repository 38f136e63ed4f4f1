# SPDX-License-Identifier: Apache-2.0
"""Questionnaire of a pack as messages: questions, and the fields that each answer adds to a request."""

from finetree_api.recommender.v1 import rule_pack_pb2
from google.protobuf import json_format

from finetree_recommender.messages.methods import number
from finetree_recommender.rule_pack.pack import Pack
from finetree_recommender.rule_pack.schema.rules import Option, Question

REQUEST_FIELDS = {"memory": "hardware", "budget": "budget_per_month"}
"""Fields of a request by input, where the names differ."""


def questionnaire(pack: Pack) -> list[rule_pack_pb2.Question]:
    """Write the questions, in order."""
    return [_question(pack, question) for question in pack.rules.questions]


def _question(pack: Pack, question: Question) -> rule_pack_pb2.Question:
    return rule_pack_pb2.Question(
        id=question.id,
        field_path=REQUEST_FIELDS.get(question.input, question.input),
        text=question.text,
        help=question.help,
        options=[_option(pack, option) for option in question.options],
    )


def _option(pack: Pack, option: Option) -> rule_pack_pb2.QuestionOption:
    message = rule_pack_pb2.QuestionOption(
        id=option.id,
        value=option.value,
        label=option.label or option.value,
        badge=option.badge,
        tooltip=option.tooltip,
        votes=[number(method) for method in option.votes],
        upgrade=option.upgrade,
        provenance=pack.provenance(option.source),
    )
    if option.request:
        json_format.Parse(option.request, message.request)
    return message
