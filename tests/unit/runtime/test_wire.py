# SPDX-License-Identifier: Apache-2.0
"""Fields written as bytes are what protobuf writes."""

import pytest
from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_runtime.wire import delimited, key


@pytest.mark.parametrize("length", [1, 127, 128, 2**14 - 1, 2**14, 2**21])
def test_a_text_of_any_length_is_written_as_protobuf_writes_it(length):
    expected = pb.Fit(summary="x" * length).SerializeToString()
    assert delimited(key(pb.Fit, "summary"), b"x" * length) == expected
