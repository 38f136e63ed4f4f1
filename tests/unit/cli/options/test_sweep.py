# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_cli.options.sweep import option_of

PATHS = ["lora.rank", "training.learning_rate"]


@pytest.mark.parametrize(
    ("field", "option"),
    [
        ("sweep.parameters[1].range.low", "--set training.learning_rate"),
        ("sweep.parameters[0]", "--set lora.rank"),
        ("sweep.parameters", "--set"),
        ("job.train.spec.lora.rank", "--set lora.rank"),
        ("sweep.max_cost.currency_code", "--max-cost"),
        ("job.train.spec.lora.alpha", ""),
        ("sweep.job.suspended", ""),
        ("parent", ""),
    ],
)
def test_a_field_of_a_request_is_known_by_the_option_that_set_it(field, option):
    assert option_of(field, PATHS) == option
