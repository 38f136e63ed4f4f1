# SPDX-License-Identifier: Apache-2.0
"""`python -m finetree_recommender`: the recommender as a service."""

import sys

import finetree
from finetree_api.recommender.v1 import recommender_pb2_grpc
from finetree_runtime.identity import distribution_version
from finetree_runtime.server import Service, run
from finetree_runtime.settings import load_or_exit

from finetree_recommender.advisor import Advisor
from finetree_recommender.estimator_client import EstimatorClient
from finetree_recommender.pack import load_builtin
from finetree_recommender.servicer import SERVICE, RecommenderServicer
from finetree_recommender.settings import ENV_PREFIX, Settings


def build(settings: Settings) -> Service:
    """The service, wired and not yet started."""
    client = finetree.AsyncClient(estimator_address=settings.estimator_address, retries=False)
    advisor = Advisor(load_builtin(), EstimatorClient(client, settings.estimator_time))
    service = Service("finetree-recommender", distribution_version("finetree-recommender"), settings)
    service.add(recommender_pb2_grpc.add_RecommenderServiceServicer_to_server, RecommenderServicer(advisor), SERVICE)
    service.on_stop = client.close
    return service


if __name__ == "__main__":
    sys.exit(run(build(load_or_exit(Settings, ENV_PREFIX))))
