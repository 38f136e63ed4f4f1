# SPDX-License-Identifier: Apache-2.0
"""The estimator without a server."""

from pathlib import Path
from typing import TYPE_CHECKING

from finetree_cli.local_program import LocalPrograms

if TYPE_CHECKING:
    from collections.abc import Mapping

    from finetree import FinetreeError
    from finetree_api.estimator.v1 import estimator_pb2


class LocalEngine(LocalPrograms):
    """An estimator of one's own."""

    def __init__(self, *, price_book: Path | None = None) -> None:
        super().__init__("estimator", [] if price_book is None else ["--price-book", str(price_book)])

    def estimate(self, request: "estimator_pb2.EstimateRunRequest") -> "estimator_pb2.Estimate":
        """EstimateRun. Raises FinetreeError as a client does."""
        from finetree_api.estimator.v1 import estimator_pb2 as pb

        return self.ask("EstimateRun", request, pb.EstimateRunResponse()).estimate

    def estimate_batch(
        self, rows: "Mapping[str, estimator_pb2.EstimateRunRequest]"
    ) -> "dict[str, estimator_pb2.Estimate | FinetreeError]":
        """BatchEstimateRuns; a row that fails holds the exception that a client's would."""
        from finetree import error_of_status
        from finetree_api.estimator.v1 import estimator_pb2 as pb

        request = pb.BatchEstimateRunsRequest(
            rows=[pb.BatchEstimateRow(key=key, request=each) for key, each in rows.items()]
        )
        answer = self.ask("BatchEstimateRuns", request, pb.BatchEstimateRunsResponse())
        return {
            row.key: error_of_status(row.error) if row.WhichOneof("result") == "error" else row.estimate
            for row in answer.results
        }

    def check_plan(
        self, run: "estimator_pb2.EstimateRunRequest", policy: "estimator_pb2.PlanPolicy"
    ) -> "estimator_pb2.CheckPlanResponse":
        """CheckPlan. Raises FinetreeError as a client does."""
        from finetree_api.estimator.v1 import estimator_pb2 as pb

        return self.ask("CheckPlan", pb.CheckPlanRequest(run=run, policy=policy), pb.CheckPlanResponse())
