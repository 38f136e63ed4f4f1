# SPDX-License-Identifier: Apache-2.0
"""The fake estimator."""

from finetree.testing.estimator.service import FakeEstimator

__all__ = ["FakeEstimator"]
