# SPDX-License-Identifier: Apache-2.0
"""The five methods."""

from finetree_recommender.method import TRAINABLE_HERE, Method
from finetree_trainer.jobs import capabilities


def test_the_trainer_runs_every_method_that_is_recommended():
    assert {method.field for method in TRAINABLE_HERE} == set(capabilities.methods())
    assert set(TRAINABLE_HERE) == set(Method)
