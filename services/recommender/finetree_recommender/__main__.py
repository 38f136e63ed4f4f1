# SPDX-License-Identifier: Apache-2.0
"""`python -m finetree_recommender`: serve, with --once answer the requests on stdin, or check a rule pack."""

import sys
from pathlib import Path

import finetree
from finetree_api.recommender.v1 import recommender_pb2_grpc
from finetree_runtime.config.service_token import service_token
from finetree_runtime.config.settings import SettingsError, load_or_exit, refuse_start
from finetree_runtime.server import oneshot
from finetree_runtime.server.identity import distribution_version, limits_of
from finetree_runtime.server.service import Service, run
from google.protobuf import json_format

from finetree_recommender.estimator.client import EstimatorClient
from finetree_recommender.estimator.subprocess import EstimatorProgram
from finetree_recommender.messages.rule_packs import rule_pack
from finetree_recommender.recommend import Recommender
from finetree_recommender.rule_pack.library import Entry, Library
from finetree_recommender.rule_pack.pack import parse
from finetree_recommender.rule_pack.yaml import PackError
from finetree_recommender.servicer import SERVICE, RecommenderServicer
from finetree_recommender.settings import ENV_PREFIX, NAME, Settings

ONCE_SECONDS = 60.0
"""Longest wait for the estimator's programs, start-up included."""


def main() -> int:
    """Serve until a signal, answer the requests on stdin, or check a rule pack; return the exit code."""
    settings = load_or_exit(Settings, ENV_PREFIX)
    try:
        if settings.rule_pack_check is not None:
            return check_rule_pack(settings, settings.rule_pack_check)
        if settings.once:
            return answer_once(settings)
        built = service(settings)
    except SettingsError as error:
        return refuse_start(error)
    return run(built)


def service(settings: Settings) -> Service:
    """Build the recommender as a service that can be run.

    Raises:
        SettingsError: The folder of own packs, or a pack in it, cannot be used.
    """
    client = finetree.AsyncClient(
        estimator_address=settings.estimator_address,
        profile="",
        token=service_token(settings.service_token_file),
        retries=False,
    )
    servicer = _servicer(settings, EstimatorClient(client, settings.estimator_time))
    built = Service(NAME, distribution_version(NAME), settings)
    built.add(recommender_pb2_grpc.add_RecommenderServiceServicer_to_server, servicer, SERVICE)
    built.on_stop = client.close
    return built


def answer_once(settings: Settings) -> int:
    """Answer the requests on stdin, with the estimator as a subprocess and without a socket; return the exit code.

    Raises:
        SettingsError: The folder of own packs, or a pack in it, cannot be used.
    """
    with EstimatorProgram() as program:
        servicer = _servicer(settings, EstimatorClient(program, ONCE_SECONDS))
        rpc = oneshot.Rpc.of(
            SERVICE, settings.once_method, servicer=servicer, max_request_bytes=settings.max_request_bytes
        )
        return oneshot.run(rpc, settings.once_format, oneshot.Streams.standard())


def check_rule_pack(settings: Settings, file: Path) -> int:
    """Print the summary of a pack file as JSON, and return the exit code.

    Raises:
        SettingsError: It is no usable pack.
    """
    try:
        pack = parse(file.read_bytes(), _library(settings))
    except (PackError, OSError) as error:
        problem = error.strerror if isinstance(error, OSError) else error
        raise SettingsError("RULE_PACK_INVALID", f"{file.name}: {problem}") from None
    message = rule_pack(Entry(pack.rules.id, pack, built_in=False))
    print(json_format.MessageToJson(message, preserving_proto_field_name=True))  # noqa: T201  # the answer
    return 0


def _servicer(settings: Settings, estimator: EstimatorClient) -> RecommenderServicer:
    library = _library(settings)
    return RecommenderServicer(
        Recommender(library, estimator),
        library,
        page_token_key=settings.page_token_key.reveal(),
        limits=limits_of(settings),
    )


def _library(settings: Settings) -> Library:
    flag = f"--rule-pack-dir ({ENV_PREFIX}_RULE_PACK_DIR)"
    try:
        return Library(settings.rule_pack_dir)
    except PackError as error:
        raise SettingsError("RULE_PACK_INVALID", f"{flag}: {error}") from None
    except OSError as error:
        raise SettingsError("SETTING_INVALID", f"{flag}: {error.strerror}; name a folder that can be read") from None


if __name__ == "__main__":
    sys.exit(main())
