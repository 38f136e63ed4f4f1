# SPDX-License-Identifier: Apache-2.0
"""Options of `finetree sweep`: `--set`, a setting with its values or its range, and refusals of what options say."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from google.protobuf.descriptor import EnumDescriptor

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_TRUTH = {"true": True, "false": False}
_PARAMETER = re.compile(r"sweep\.parameters\[(\d+)\]")
_OPTIONS = {
    "parameters": "--set",
    "search": "--search",
    "trials": "--trials",
    "seed": "--seed",
    "metric": "--metric",
    "halving": "--halving",
    "max_cost": "--max-cost",
    "max_parallel": "--parallel",
}
"""Fields of a SweepTemplate and the options that set them."""


class SweepSetting(click.ParamType[tuple[str, Any]]):
    """A setting of a sweep: "lora.rank=4,8,16" or "training.learning_rate=1e-4..5e-4"."""

    name = "setting"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """Return the path, and a list of values or a range as {"low", "high"}."""
        if isinstance(value, tuple):
            return value
        path, separator, text = str(value).partition("=")
        path, text = path.strip(), text.strip()
        if not separator or not path or not text:
            self.fail(
                f"{value!r} is no setting; write lora.rank=4,8,16 or training.learning_rate=1e-4..5e-4", param, ctx
            )
        low, dots, high = text.partition("..")
        if dots:
            if not (_NUMBER.fullmatch(low) and _NUMBER.fullmatch(high)):
                self.fail(f"{text!r} is no range; write its ends as numbers, such as 1e-4..5e-4", param, ctx)
            return path, {"low": float(low), "high": float(high)}
        return path, [_value(path, part.strip()) for part in text.split(",")]


def _value(path: str, text: str) -> Any:
    """Read one value: a number, true or false, or a name, which for an enum may be short ("adamw_8bit")."""
    if _NUMBER.fullmatch(text):
        number = float(text)
        return int(number) if number.is_integer() else number
    if text.lower() in _TRUTH:
        return _TRUTH[text.lower()]
    return _enum_name(_enum_at(path), text) or text


def _enum_at(path: str) -> "EnumDescriptor | None":
    from finetree_api.types.v1 import run_spec_pb2

    descriptor: Any = run_spec_pb2.RunSpec.DESCRIPTOR
    field = None
    for name in path.split("."):
        field = descriptor.fields_by_name.get(name) if descriptor is not None else None
        if field is None:
            return None
        descriptor = field.message_type
    return field.enum_type if field is not None else None


def _enum_name(enum: "EnumDescriptor | None", text: str) -> str:
    """Return the full name of an enum's value that ends in a short one; "" where none or several do."""
    if enum is None:
        return ""
    wanted = text.upper().replace("-", "_")
    if wanted in enum.values_by_name:
        return wanted
    prefix = enum.values[0].name.removesuffix("UNSPECIFIED")
    return prefix + wanted if prefix + wanted in enum.values_by_name else ""


@contextlib.contextmanager
def refusals_by_option(paths: Sequence[str]) -> Iterator[None]:
    """Replace a service's refusal of what an option says by a BadInput that names the option.

    Args:
        paths: The settings of `--set`, in their order.

    Other errors pass unchanged, and so does a refusal that concerns the job file too.
    """
    from finetree import FinetreeError

    from finetree_cli.errors import BadInput, of_service_error

    try:
        yield
    except FinetreeError as error:
        said = [(option_of(item.field, paths), item.description) for item in error.violations]
        if not said or not all(option for option, _ in said):
            raise
        failure = of_service_error(error)
        text = "; ".join(f"{option}: {description}" for option, description in said)
        raise BadInput(text, remedy=failure.remedy, reason=failure.reason) from error


def option_of(field: str, paths: Sequence[str]) -> str:
    """Return the option that a field path of a request was set by; "" for one of the job file."""
    parameter = _PARAMETER.match(field)
    if parameter and int(parameter[1]) < len(paths):
        return f"--set {paths[int(parameter[1])]}"
    if field.startswith("job.train.spec."):
        path = field.removeprefix("job.train.spec.")
        return f"--set {path}" if path in paths else ""
    first = re.split(r"[.\[]", field.removeprefix("sweep."))[0] if field.startswith("sweep.") else ""
    return _OPTIONS.get(first, "")
