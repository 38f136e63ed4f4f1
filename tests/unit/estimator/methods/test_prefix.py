# SPDX-License-Identifier: Apache-2.0
from finetree_estimator.methods.prefix import Prefix
from finetree_estimator.run import Rows
from finetree_estimator.timing import step_time

ROWS = Rows(count=1000, mean=200.0, mean_square=45_000.0, longest=512, target_fraction=0.5)


def forward(run, rows):
    return step_time.forward_flops(run, rows)


def test_virtual_tokens_cost_attention(make_run):
    few, many = (forward(make_run(method=Prefix(n)), ROWS).attention for n in (10, 110))

    assert many - few == 28 * 3072 * 4 * 100
