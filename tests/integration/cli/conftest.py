# SPDX-License-Identifier: Apache-2.0
"""The real suite on free loopback ports, as `finetree up` starts it, without a worker kept warm: one for all files.

Nothing is trained on it: its estimator would learn from that, and answer the files that follow otherwise.
"""

from collections.abc import Iterator

import pytest
from finetree_cli.backends.suite import Suite


@pytest.fixture(scope="session")
def suite(tmp_path_factory) -> Iterator[Suite]:
    folder = tmp_path_factory.mktemp("suite")
    with Suite(folder, extra={"trainer": ("--no-prewarm",)}) as running:
        yield running
