# SPDX-License-Identifier: Apache-2.0
"""The ports of `finetree up`."""

from finetree_cli.commands import up


def test_ports():
    assert up.Ports().convert("auto", None, None) == {"estimator": 0, "recommender": 0, "trainer": 0}
    assert up.Ports().convert("1,2,3", None, None) == {"recommender": 1, "estimator": 2, "trainer": 3}
