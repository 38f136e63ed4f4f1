# SPDX-License-Identifier: Apache-2.0
"""`finetree serving`: which servers will serve a result, before it is trained or after."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetree_cli.errors import BadInput, GateFailed
from finetree_cli.options.command import Command, Settings, pass_settings
from finetree_cli.options.types import Names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from finetree import Client
    from finetree_api.recommender.v1 import serving_pb2
    from finetree_api.trainer.v1 import artifact_pb2, job_pb2

SERVERS = ("vllm", "ollama", "llama.cpp", "transformers", "finetree", "tgi", "sglang")
"""Servers with rules; a test compares them with the contract's."""
ADAPTER_CONFIG = "adapter_config.json"
MAX_CONFIG_BYTES = 1 << 20
_VERSION = re.compile(r"v?[0-9]+([.][0-9]+){0,3}([.-]?(rc|post|dev)[0-9]*)?", re.ASCII)
"""As the contract takes versions."""


class Versions(click.ParamType[tuple[str, str]]):
    """A server and its version: "vllm", "vllm=0.33.0"."""

    name = "server"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Return the name and the version, which may be empty."""
        if isinstance(value, tuple):
            return value
        name, sign, version = str(value).partition("=")
        if name not in SERVERS:
            self.fail(f"{name!r} is not one of {', '.join(SERVERS)}", param, ctx)
        if sign and not _VERSION.fullmatch(version):
            self.fail(f"{version!r} is no version; write numbers, such as {name}=0.33.0", param, ctx)
        return name, version


@click.command(
    cls=Command,
    examples=(
        "finetree serving job.yaml",
        "finetree serving JOB",
        "finetree serving ./adapter --server vllm=0.33.0 --server ollama",
        "finetree serving EXPORT_JOB --server ollama",
        "finetree serving job.yaml --require vllm,sglang",
        "finetree serving job.yaml --json | jq '.checks[].verdict'",
    ),
)
@click.argument("what", metavar="JOB|FILE|FOLDER")
@click.option(
    "--server", "servers", type=Versions(), multiple=True, metavar="NAME[=VERSION]", help="Only this; may be repeated."
)
@click.option(
    "--require",
    type=Names(SERVERS),
    default=(),
    metavar="A,B",
    help="Exit with 3 unless each of these serves it, in every version that is asked about.",
)
@click.option("--local", is_flag=True, help="Use no server of this suite, even if an address is given.")
@pass_settings
def serving(
    settings: Settings,
    /,
    *,
    what: str,
    servers: tuple[tuple[str, str], ...],
    require: tuple[str, ...],
    local: bool,
) -> None:
    """Say which servers serve what a run makes: a job file, a job, or a folder with an adapter, a model or a GGUF file.

    vLLM, SGLang, TGI, Ollama, llama.cpp, transformers with peft, and of bottleneck layers this suite's own loader. The
    answers are rules, each with the file of the server's code in which it was read; no server is asked (`finetree
    verify-serving` asks one that runs). Where it is not served, the answer says what to do in its place. `finetree
    chat` and `finetree serve` answer with what a job has trained, whatever the method.
    """
    from finetree_api.recommender.v1 import serving_pb2 as pb
    from finetree_api.types.v1 import serving_pb2 as types

    from finetree_cli.backends.recommender import open_recommender
    from finetree_cli.output import as_dict
    from finetree_cli.render.recommender.serving import missing, show_checks, without_own_loader

    asked = dict(servers)
    asked |= {name: "" for name in require if asked and name not in asked}
    request = pb.CheckServingRequest(
        servers=[
            pb.ServerVersion(
                server=types.ServingTarget.Value(f"SERVING_TARGET_{name.upper().replace('.', '_')}"), version=version
            )
            for name, version in asked.items()
        ]
    )
    with settings.client() as client:
        _set_subject(request, what, client)
        with open_recommender(settings, client, "CheckServing", local=local) as recommender:
            answer = recommender.check_serving(request)
    lost = missing(answer.checks, require)
    if settings.out.json:
        settings.out.document({**as_dict(answer), "not_served_by": lost})
    else:
        show_checks(settings.out, answer.checks if asked else without_own_loader(answer.checks))
        settings.out.say(f"rules of {answer.rules_date}, read from the servers' code")
    if lost:
        raise GateFailed(f"not served by {', '.join(lost)}", reason="NOT_SERVED", reported=True)


def _set_subject(request: "serving_pb2.CheckServingRequest", what: str, client: "Client") -> None:
    """Set what is asked about: a job file, a folder, or the job of that name."""
    path = Path(what)
    if path.is_dir():
        request.result.CopyFrom(read_adapter(path))
    elif path.suffix == ".gguf" and path.is_file():
        request.result.CopyFrom(read_gguf(path))
    elif what == "-" or path.suffix in (".yaml", ".yml", ".json") or path.is_file():
        from finetree_cli.jobfile.job import read_job

        request.spec.CopyFrom(read_job(what).spec)
    else:
        found = client.get_job(what)
        match found.WhichOneof("task"):
            case "train":
                request.spec.CopyFrom(found.train.spec)
            case "export":
                request.result.CopyFrom(exported(what, found.export, client.job(found.name).artifacts()))
            case _:
                remedy = "name a job that trains or exports, a job file, or a folder"
                raise BadInput(f"{what}: the job makes nothing that is served", remedy=remedy)


def exported(
    what: str, task: "job_pb2.ExportTask", artifacts: "Sequence[artifact_pb2.Artifact]"
) -> "serving_pb2.ServedResult":
    """Return what an export job has made. Raises BadInput where it has made nothing."""
    from finetree_api.recommender.v1 import serving_pb2 as pb
    from finetree_api.trainer.v1 import artifact_pb2

    forms = {
        artifact_pb2.EXPORT_FORMAT_GGUF: pb.SERVED_FORM_GGUF_MODEL,
        artifact_pb2.EXPORT_FORMAT_GGUF_LORA: pb.SERVED_FORM_GGUF_LORA,
    }
    if not artifacts:
        raise BadInput(f"{what}: the job has exported nothing", remedy=f"`finetree jobs watch {what}` shows its state")
    form = forms.get(task.format, pb.SERVED_FORM_MODEL)
    return pb.ServedResult(form=form, family=artifacts[0].base.family)


def read_adapter(folder: Path) -> "serving_pb2.ServedResult":
    """Read what an adapter's adapter_config.json says, or which kind of model a folder has. Raises BadInput."""
    from finetree_api.recommender.v1 import serving_pb2 as pb

    path = folder / ADAPTER_CONFIG
    try:
        with path.open("rb") as stream:
            config = json.loads(stream.read(MAX_CONFIG_BYTES))
    except OSError as error:
        if (folder / "config.json").is_file():
            return pb.ServedResult(form=pb.SERVED_FORM_MODEL, family=_family(folder / "config.json"))
        if gguf := next(iter(sorted(folder.glob("*.gguf"))), None):
            return read_gguf(gguf)
        text = f"{folder}: no {ADAPTER_CONFIG}, no config.json and no GGUF file"
        raise BadInput(text, remedy="name the folder of an adapter or of a model") from error
    except ValueError as error:
        raise BadInput(f"{path}: this is no JSON") from error
    if not isinstance(config, dict):
        raise BadInput(f"{path}: this is no configuration of an adapter")
    if str(config.get("format", "")).startswith("finetree-bottleneck"):
        return pb.ServedResult(form=pb.SERVED_FORM_BOTTLENECK)
    kind = str(config.get("peft_type", ""))
    forms = {"LORA": pb.SERVED_FORM_LORA, "PREFIX_TUNING": pb.SERVED_FORM_PREFIX}
    found = pb.ServedResult(form=forms.get(kind, pb.SERVED_FORM_OTHER_PEFT))
    if kind == "LORA":
        _set_lora(found, config, path)
    return found


def read_gguf(file: Path) -> "serving_pb2.ServedResult":
    """Return what a GGUF file is: an adapter has adapter.type in its metadata, before the tensors. Raises BadInput."""
    from finetree_api.recommender.v1 import serving_pb2 as pb

    try:
        with file.open("rb") as stream:
            head = stream.read(MAX_CONFIG_BYTES)
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror}") from error
    if not head.startswith(b"GGUF"):
        raise BadInput(f"{file}: this is no GGUF file")
    return pb.ServedResult(form=pb.SERVED_FORM_GGUF_LORA if b"adapter.type" in head else pb.SERVED_FORM_GGUF_MODEL)


def _set_lora(found: "serving_pb2.ServedResult", config: dict[str, Any], path: Path) -> None:
    try:
        ranks = [int(config.get("r") or 0), *map(int, (config.get("rank_pattern") or {}).values())]
        found.rank = max(ranks)
        found.alpha = float(config.get("lora_alpha") or 2 * found.rank)
        targets = config.get("target_modules") or []
        found.target_modules.extend([] if isinstance(targets, str) else map(str, targets))
        found.modules_to_save.extend(map(str, config.get("modules_to_save") or []))
        found.use_dora, found.use_rslora = bool(config.get("use_dora")), bool(config.get("use_rslora"))
        found.adapts_experts = bool(config.get("target_parameters"))
        found.trains_bias = config.get("bias", "none") != "none" or bool(config.get("lora_bias"))
    except (TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"{path}: a value is not of its kind: {error}") from error


def _family(path: Path) -> str:
    try:
        config = json.loads(path.read_bytes()[:MAX_CONFIG_BYTES])
    except (OSError, ValueError):
        return ""
    return str(config.get("model_type") or "")[:64] if isinstance(config, dict) else ""
