# SPDX-License-Identifier: Apache-2.0
"""The real suite on free loopback ports, as `finetree up` starts it, without a worker kept warm: one for all files."""

from collections.abc import Iterator

import finetree
import pytest
from finetree_cli.backends.suite import Suite


@pytest.fixture(scope="session")
def suite(tmp_path_factory) -> Iterator[Suite]:
    folder = tmp_path_factory.mktemp("suite")
    with Suite(folder, extra={"trainer": ("--no-prewarm",)}) as running:
        yield running
        # What a finished job teaches the estimator is part of every later answer, also of other files' tests.
        with finetree.Client(profile="", estimator_address=running.addresses["estimator"]) as client:
            assert not client.get_calibration().entries, "a test that trains needs a suite of its own"
