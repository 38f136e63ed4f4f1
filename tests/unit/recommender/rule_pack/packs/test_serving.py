# SPDX-License-Identifier: Apache-2.0
"""The packs' rules for servers agree with what was read in the servers' code."""

import pytest
from finetree_api.types.v1 import serving_pb2
from finetree_recommender.decision.limits import violations
from finetree_recommender.method import Method
from finetree_recommender.request.limits import Limits
from finetree_recommender.rule_pack.library import Library
from finetree_recommender.rule_pack.pack import BUILTIN
from finetree_runtime.serving.check import Asked, check
from finetree_runtime.serving.facts import Facts, Form

FORMS = {Method.FULL: Form.MODEL, Method.LORA: Form.LORA, Method.QLORA: Form.LORA}
FORMS |= {Method.PREFIX: Form.PREFIX, Method.ADAPTER: Form.BOTTLENECK}


@pytest.mark.parametrize("pack_id", BUILTIN)
@pytest.mark.parametrize("method", Method)
def test_a_pack_says_served_where_some_version_serves_a_llama(pack_id, method):
    pack = Library(None)[pack_id]
    for name, number in serving_pb2.ServingTarget.items():
        if not number:
            continue
        answers = check(Facts(FORMS[method], family="llama"), [Asked(number)])
        served = any(answer.verdict != serving_pb2.SERVING_VERDICT_NOT for answer in answers)
        target = name.removeprefix("SERVING_TARGET_")
        broken = [item.code for item in violations(pack, Limits(serving=(target,)), None)[method]]
        assert broken == ([] if served else ["NOT_SERVABLE"]), (target, method)
