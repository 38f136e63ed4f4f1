# SPDX-License-Identifier: Apache-2.0
"""The estimator's answers to runs that were made: with time and cost also where it thinks that they do not fit."""

from dataclasses import replace

from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.types.v1 import estimate_summary_pb2
from finetree_estimator.memory.fit import Verdict
from finetree_estimator.messages.estimate import basic_message
from finetree_estimator.servicer import EstimatorServicer
from finetree_estimator.spec.resolve import Knowledge
from finetree_estimator.whatif.fallbacks import answer_request


class MadeRuns(EstimatorServicer):
    """Answers in the BASIC view. A published speed shows that its run fitted, whatever the verdict."""

    def __init__(self, knowledge: Knowledge) -> None:
        super().__init__(knowledge)
        self._knowledge = knowledge

    def estimate(self, request: estimate_pb2.EstimateRunRequest) -> estimate_pb2.Estimate:
        """Answer a validated request. Raises DomainError."""
        found = super().estimate(request)
        if found.fit.verdict != estimate_summary_pb2.FIT_VERDICT_DOES_NOT_FIT:
            return found
        answer = answer_request(request, self._knowledge)
        fit = replace(answer.estimate.fit, verdict=Verdict.TIGHT)
        return basic_message(replace(answer, estimate=replace(answer.estimate, fit=fit)), found.revision)
