# SPDX-License-Identifier: Apache-2.0
"""The request that creates a job, checked field by field."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from finetree_console.openai.errors import refusal
from finetree_console.openai.ids import dataset_of, tuned_job

OWN = "finetree"
"""Field with what the interface has no word for; clients send it by `extra_body`."""
FIELDS = (
    "model",
    "training_file",
    "validation_file",
    "method",
    "hyperparameters",
    "suffix",
    "seed",
    "metadata",
    "integrations",
    OWN,
)
HYPERPARAMETERS = ("n_epochs", "batch_size", "learning_rate_multiplier")
OWN_BESIDE_SPEC = ("limits", "labels", "recommend")
"""Keys of `finetree` that are no fields of a RunSpec."""
MAX_SUFFIX = 64
MAX_SEED = 2**32 - 1
MAX_METADATA = 16
MAX_METADATA_KEY = 64
MAX_METADATA_VALUE = 512


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """What is asked for; None means that the request leaves it to the suite."""

    model: str
    training: str
    """UUID of the dataset to train on."""
    validation: str | None = None
    suffix: str = ""
    seed: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    n_epochs: int | None = None
    batch_size: int | None = None
    learning_rate_multiplier: float | None = None
    spec: Mapping[str, Any] = field(default_factory=dict)
    """Fields of a RunSpec, as proto JSON."""
    limits: Mapping[str, Any] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    recommend: Mapping[str, Any] = field(default_factory=dict)
    """Words for the recommender, as `finetree recommend` takes them."""


def read_create(body: Any) -> CreateRequest:
    """Check a body.

    Raises:
        RefusedError: INVALID_REQUEST, METHOD_UNSUPPORTED, INTEGRATION_UNSUPPORTED, MODEL_NOT_TRAINABLE, FILE_NOT_FOUND.
    """
    if not isinstance(body, Mapping):
        raise refusal("", "the body must be a JSON object", "MALFORMED_REQUEST")
    for name in body:
        if name not in FIELDS:
            raise refusal(name, f"unknown field {name!r}; known are {', '.join(FIELDS)}")
    if body.get("integrations"):
        text = "integrations: none is supported; a sink that follows the events of the job can feed a tracker"
        raise refusal("integrations", text, "INTEGRATION_UNSUPPORTED")
    validation = _text(body, "validation_file", required=False)
    suffix = _text(body, "suffix", required=False)
    if len(suffix) > MAX_SUFFIX or ":" in suffix:
        raise refusal("suffix", f"suffix: at most {MAX_SUFFIX} characters, and no colon")
    hyperparameters = _hyperparameters(body)
    own = _own(body)
    return CreateRequest(
        model=_model(body),
        training=dataset_of(_text(body, "training_file"), "training_file"),
        validation=dataset_of(validation, "validation_file") if validation else None,
        suffix=suffix,
        seed=_whole(body, "seed", "seed", least=0, most=MAX_SEED),
        metadata=_metadata(body.get("metadata")),
        n_epochs=_whole(hyperparameters, "n_epochs", "hyperparameters.n_epochs", most=10_000),
        batch_size=_whole(hyperparameters, "batch_size", "hyperparameters.batch_size", most=2**20),
        learning_rate_multiplier=_multiplier(hyperparameters),
        spec={name: value for name, value in own.items() if name not in OWN_BESIDE_SPEC},
        limits=_mapping(own, "limits") if own.get("limits") is not None else None,
        labels=_texts(_mapping(own, "labels"), f"{OWN}.labels"),
        recommend=_mapping(own, "recommend"),
    )


def _model(body: Mapping[str, Any]) -> str:
    name = _text(body, "model")
    if tuned_job(name):
        text = f"model: {name!r} is a tuned model; training goes on from base models only, which GET /v1/models lists"
        raise refusal("model", text, "MODEL_NOT_TRAINABLE")
    return name


def _text(body: Mapping[str, Any], name: str, *, required: bool = True) -> str:
    value = body.get(name)
    if value is None and not required:
        return ""
    if not isinstance(value, str) or (required and not value):
        raise refusal(name, f"{name}: expected a text, got {_kind(value)}")
    return value


def _hyperparameters(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Merge the two places of hyperparameters: `method.supervised.hyperparameters`, and the deprecated one."""
    method = _mapping(body, "method")
    kind = method.get("type", "supervised")
    if kind != "supervised":
        text = (
            f"method.type: {kind!r} is not trained here, only 'supervised'; the way of fine-tuning (full, lora, qlora, "
            f'prefix, adapter) is chosen by extra_body={{"{OWN}": {{"lora": {{}}}}}}, or by the recommender'
        )
        raise refusal("method.type", text, "METHOD_UNSUPPORTED")
    for name in method:
        if name not in ("type", "supervised"):
            raise refusal(f"method.{name}", f"method.{name}: does not go with the type 'supervised'")
    inner = _mapping(method, "supervised", "method.supervised")
    for name in set(inner) - {"hyperparameters"}:
        raise refusal(f"method.supervised.{name}", f"method.supervised.{name}: unknown field")
    place = "method.supervised.hyperparameters"
    return _merged(
        ("hyperparameters", _mapping(body, "hyperparameters")), (place, _mapping(inner, "hyperparameters", place))
    )


def _merged(*places: tuple[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    for place, given in places:
        for name, value in given.items():
            if name not in HYPERPARAMETERS:
                raise refusal(f"{place}.{name}", f"{place}.{name}: unknown; known are {', '.join(HYPERPARAMETERS)}")
            if name in found and found[name] != value:
                raise refusal(f"{place}.{name}", f"{name} is given twice, with different values")
            found[name] = value
    return found


def _whole(body: Mapping[str, Any], name: str, param: str, *, least: int = 1, most: int) -> int | None:
    value = body.get(name)
    if value is None or value == "auto":
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise refusal(param, f"{param}: expected a whole number from {least} to {most}, got {_shown(value)}")
    return value


def _multiplier(hyperparameters: Mapping[str, Any]) -> float | None:
    value, param = hyperparameters.get("learning_rate_multiplier"), "hyperparameters.learning_rate_multiplier"
    if value is None or value == "auto":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
        raise refusal(param, f"{param}: expected a number above 0, got {_shown(value)}")
    return float(value)


def _metadata(value: Any) -> Mapping[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or len(value) > MAX_METADATA:
        raise refusal("metadata", f"metadata: expected an object with at most {MAX_METADATA} pairs")
    for key, text in _texts(value, "metadata").items():
        if not 1 <= len(key) <= MAX_METADATA_KEY or len(text) > MAX_METADATA_VALUE:
            limits = f"keys of 1 to {MAX_METADATA_KEY} characters, values of at most {MAX_METADATA_VALUE}"
            raise refusal(f"metadata.{key}"[:200], f"metadata: {limits}")
    return value


def _own(body: Mapping[str, Any]) -> Mapping[str, Any]:
    own = _mapping(body, OWN)
    if own.get("model") is not None:
        raise refusal(f"{OWN}.model", f"{OWN}.model: the model is named by the field `model` alone")
    for name, param in (("dataset", "training_file"), ("evaluation", "validation_file")):
        source = own.get(name) or {}
        source = source.get("dataset") or {} if name == "evaluation" and isinstance(source, Mapping) else source
        if isinstance(source, Mapping) and set(source) - {"reading"}:
            raise refusal(f"{OWN}.{name}", f"{OWN}.{name}: the file is named by `{param}`; only `reading` goes here")
    return own


def _mapping(body: Mapping[str, Any], name: str, param: str = "") -> Mapping[str, Any]:
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise refusal(param or name, f"{param or name}: expected an object, got {_kind(value)}")
    return value


def _texts(value: Mapping[str, Any], param: str) -> Mapping[str, str]:
    for key, text in value.items():
        if not isinstance(text, str):
            raise refusal(f"{param}.{key}", f"{param}.{key}: expected a text, got {_kind(text)}")
    return value


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, int | float) else _kind(value)


def _kind(value: Any) -> str:
    names = {
        str: "a text",
        int: "a number",
        float: "a number",
        bool: "true or false",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), "nothing" if value is None else type(value).__name__)
