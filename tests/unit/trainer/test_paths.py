# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_runtime.errors import PermissionDenied
from finetree_trainer.paths import inside


def refusal(roots, path: str) -> str:
    with pytest.raises(PermissionDenied) as refused:
        inside(roots, path, field_path="weights.path", reason="WEIGHTS_NOT_FOUND")
    assert refused.value.reason == "PATH_OUTSIDE_ROOTS"
    return str(refused.value)


def test_a_path_that_leaves_the_roots_is_told_what_would_do(tmp_path):
    assert "use a path under one" in refusal([str(tmp_path)], "../elsewhere")
    assert "--model-roots" in refusal([], "adapters/theirs")
