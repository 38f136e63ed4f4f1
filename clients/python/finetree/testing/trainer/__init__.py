# SPDX-License-Identifier: Apache-2.0
"""The fake trainer."""

from finetree.testing.trainer.base_models import FakeBaseModels
from finetree.testing.trainer.datasets import FakeDatasets
from finetree.testing.trainer.replay import Replay
from finetree.testing.trainer.script import Script
from finetree.testing.trainer.service import FakeTrainer

__all__ = ["FakeBaseModels", "FakeDatasets", "FakeTrainer", "Replay", "Script"]
