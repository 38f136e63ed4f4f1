# SPDX-License-Identifier: Apache-2.0
"""Every model of the catalog against transformers' own model of that configuration, on the meta device."""

from dataclasses import replace

import pytest
from finetree_estimator.catalog.models import models
from finetree_estimator.shapes.config_json import hf_config
from finetree_estimator.shapes.parameters import count


@pytest.mark.parametrize("entry", models(), ids=lambda entry: entry.name)
def test_a_shape_counts_every_parameter_that_transformers_builds(entry, build):
    assert count(entry.shape).total == build(entry.shape).num_parameters()


@pytest.mark.parametrize("entry", models(), ids=lambda entry: entry.name)
def test_a_configuration_as_transformers_writes_it_gives_the_same_shape(entry, as_config):
    # That of the text model alone.
    assert hf_config.parse(as_config(entry.shape).to_dict()).shape == replace(entry.shape, vision=0)
