# SPDX-License-Identifier: Apache-2.0
"""Reply of Recommend."""

import os
import subprocess
import sys

from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.types.v1 import estimate_summary_pb2, method_pb2
from finetree_recommender.messages.recommendation import recommendation
from finetree_recommender.recommend import conclude

GPU24 = {"unknown_accelerator": {"marketed_memory_gb": 24}}
ALL_ANSWERED = {
    "hardware": GPU24,
    "dataset_profile": {"examples": 5000},
    "budget_per_month": {"currency_code": "USD", "units": 300},
    "quality": "QUALITY_NEED_IMPORTANT",
    "time": "TIME_NEED_HOURS",
    "tasks": "TASK_VARIETY_SIMILAR",
}


def test_equal_requests_get_equal_replies(pack, read, evidence):
    first, second = (
        recommendation(conclude(pack, read(**ALL_ANSWERED), evidence(lora="FITS", qlora="TIGHT"))) for _ in range(2)
    )
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


PROGRAM = """
import hashlib
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_recommender.recommend import conclude
from finetree_recommender.explain.cautions import ESTIMATOR_UNAVAILABLE
from finetree_recommender.estimator.values import Catalog
from finetree_recommender.request.inputs import normalize
from finetree_recommender.rule_pack.pack import builtin_packs
from finetree_recommender.messages.recommendation import recommendation
request = recommendation_pb2.RecommendRequest(quality=recommendation_pb2.QUALITY_NEED_CRITICAL)
request.budget_per_month.currency_code, request.budget_per_month.units = "USD", 300
request.model.name = "m"
request.hardware.unknown_accelerator.marketed_memory_gb = 24
pack = builtin_packs()["playbook-1"]
reply = recommendation(conclude(pack, normalize(request, pack, Catalog()), None, missing=ESTIMATOR_UNAVAILABLE))
print(hashlib.sha256(reply.SerializeToString(deterministic=True)).hexdigest())
"""


def test_replies_do_not_depend_on_the_process():
    answers = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(answers) == 1


def test_a_reply_has_the_verdict_its_estimate_and_its_revisions(pack, read, evidence):
    reply = recommendation(conclude(pack, read(**ALL_ANSWERED), evidence(lora="FITS", qlora="FITS")))
    assert reply.verdict.method == method_pb2.METHOD_LORA
    assert recommendation_pb2.RecommendResponse.FromString(reply.SerializeToString()) == reply
    assert reply.estimate.fit == estimate_summary_pb2.FIT_VERDICT_FITS
    assert reply.plan_digest.startswith("sha256:")
    assert reply.revision.pack.id == "playbook-1"
    assert reply.revision.engine.id == "engine-1"
    assert not reply.other_packs
