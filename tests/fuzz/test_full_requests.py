# SPDX-License-Identifier: Apache-2.0
"""The largest request of each method, full of the smallest elements, costs a service little.

By processor time of services that nobody else asks: those of test_services.py still have jobs that it has created.
"""

from collections.abc import Iterator

import grpc
import psutil
import pytest
from finetree_cli.backends.suite import Suite
from finetree_estimator import settings as estimator_settings
from finetree_recommender import settings as recommender_settings
from finetree_trainer import settings as trainer_settings
from full_requests import lists_of, request_of, width
from fuzz_services import METHODS, call

pytestmark = [pytest.mark.slow(15), pytest.mark.timeout(300)]

LARGEST = {
    "estimator": estimator_settings.Settings().max_request_bytes,
    "recommender": recommender_settings.Settings().max_request_bytes,
    "trainer": trainer_settings.Settings().max_request_bytes,
}
"""Bytes of a request that each service takes."""
MOST_CPU_SECONDS = 0.4
"""Of a whole process for the worst request, which takes 0.04; the loop itself is measured in tests/contract/runtime.

The kernel's time is left out: it gives memory to a request of a megabyte, which grows with what else the machine does.
Both together were 0.6 on a busy one.
"""


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> Iterator[Suite]:
    with Suite(tmp_path_factory.mktemp("full"), extra={"trainer": ("--no-prewarm", "--hub-offline")}) as running:
        yield running


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_a_request_full_of_elements_takes_little_of_the_processor(suite, name, method):
    process = psutil.Process(suite.children[name].process.pid)
    with grpc.insecure_channel(suite.addresses[name], [("grpc.use_local_subchannel_pool", 1)]) as channel:
        for path in lists_of(method.input_type):
            request = request_of(path, LARGEST[name] // width(path[-1]) - 100)
            taken = []
            # What a service does beside the request, such as collecting garbage, is not in each of the tries.
            while not taken or (min(taken) >= MOST_CPU_SECONDS and len(taken) < 3):
                before = process.cpu_times().user
                error = call(channel, method, request)
                after = process.cpu_times().user
                assert error is None or error.code() is grpc.StatusCode.INVALID_ARGUMENT, f"{path[-1].name}: {error}"
                taken.append(after - before)
            assert min(taken) < MOST_CPU_SECONDS, f"{path[-1].full_name}: {taken} s"
