# SPDX-License-Identifier: Apache-2.0
from finetree_estimator.catalog.models import model
from finetree_estimator.methods.full import Full
from finetree_estimator.shapes.parameters import count

SMOL = model("smollm2-135m-instruct").shape


def test_frozen_layers_freeze_the_embeddings_below_them():
    whole, counted = count(SMOL).total, count(SMOL)
    layer = (whole - counted.embeddings - 576) // 30

    assert Full(frozen_layers=10).trainable_parameters(SMOL) == 20 * layer + 576
