# SPDX-License-Identifier: Apache-2.0
"""The request of Recommend from the words that `finetree recommend` takes, such as quality="maximum"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal, TypedDict

from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.trainer.v1 import dataset_pb2
from finetree_api.types.v1 import hardware_pb2, model_pb2, serving_pb2, training_data_pb2
from google.protobuf import duration_pb2
from google.protobuf.message import Message
from google.type import money_pb2

from finetree._shared.requests import RecommendLike, invalid, recommend
from finetree.durations import parse_duration, to_duration
from finetree.money import parse_money, to_money

Quality = Literal["maximum", "critical", "important", "acceptable", "experimental"]
Time = Literal["days", "hours", "minutes"]
Tasks = Literal["single", "similar", "many"]
UseCaseWord = Literal["enterprise", "startup", "research"]
Domain = Literal["style", "classification", "chat", "code", "math", "knowledge"]
Behavior = Literal["minor", "moderate", "significant"]
ExperienceWord = Literal["beginner", "intermediate", "expert"]
Server = Literal["vllm", "ollama", "llama.cpp", "transformers", "finetree", "tgi", "sglang"]
PriorityWord = Literal["quality", "speed", "cost", "memory", "simplicity", "modularity"]
Recipe = Literal["playbook", "evidence"]
ShardingWord = Literal["ddp", "zero-1", "zero-2", "fsdp", "zero-3"]
SHARDING: Mapping[str, hardware_pb2.Sharding.ValueType] = {
    "ddp": hardware_pb2.SHARDING_REPLICATED,
    "zero-1": hardware_pb2.SHARDING_OPTIMIZER,
    "zero-2": hardware_pb2.SHARDING_GRADIENTS,
    "fsdp": hardware_pb2.SHARDING_FULL,
    "zero-3": hardware_pb2.SHARDING_FULL,
}
"""What is divided over several GPUs."""


class RecommendWords(TypedDict, total=False):
    """What is known of a planned fine-tuning, in the words of `finetree recommend`; nothing is required."""

    model: str
    """Catalog name in any spelling ("llama3.1:8b"), or hub id ("org/name", "org/name@revision")."""
    gpu: str
    """Name in any spelling: "rtx-4090", "H100 SXM", "DGX A100"."""
    gpu_memory: float
    """GB as sold; overrides the name's."""
    gpus: int
    sharding: ShardingWord
    nodes: int
    """Machines that the GPUs are spread over."""
    network: float
    """With nodes: rate of each machine's network, one way, in Gbit/s."""
    cpu: bool
    """A machine without a GPU."""
    cores: int
    memory_gb: float
    """With cpu: memory of the machine, in 10^9 bytes."""
    dataset: str | dataset_pb2.Dataset
    """Name, or what `upload_dataset` returns, which has the number and the lengths of the rows too."""
    examples: int
    tokens: int
    """Tokens of all rows together."""
    tokens_per_example: int
    target_fraction: float
    """Share of the tokens that enter the loss, 0 to 1."""
    quality: Quality
    time: Time
    tasks: Tasks
    use_case: UseCaseWord
    task_domain: Domain
    behavior: Behavior
    experience: ExperienceWord
    budget_per_month: str | float | money_pb2.Money
    """"50 USD", or a number of US dollars."""
    budget_per_run: str | float | money_pb2.Money
    runs_per_month: float
    max_duration: str | float | timedelta | duration_pb2.Duration
    """"8h", or seconds."""
    task_count: int
    serve: Sequence[Server]
    priority: Sequence[PriorityWord]
    can_rent: bool
    price: str
    """Rented at this price of `list_prices`, by id; "": the cheapest."""
    price_per_kwh: str | float | money_pb2.Money
    """Owned: price of a kilowatt-hour, "0.30 EUR", or a number of US dollars."""
    watts: float
    """Owned: power of the whole machine under load."""
    recipe: Recipe
    rule_pack: str


_ENUMS: Mapping[str, tuple[str, Any]] = {
    "quality": ("quality", recommendation_pb2.QualityNeed),
    "time": ("time", recommendation_pb2.TimeNeed),
    "tasks": ("tasks", recommendation_pb2.TaskVariety),
    "use_case": ("use_case", recommendation_pb2.UseCase),
    "task_domain": ("task_domain", recommendation_pb2.TaskDomain),
    "behavior": ("behavior_change", recommendation_pb2.BehaviorChange),
    "experience": ("experience", recommendation_pb2.Experience),
    "recipe": ("profile", recommendation_pb2.RecipeProfile),
}
"""Field and enum of each word that stands for one value."""
_LISTS: Mapping[str, tuple[str, Any]] = {
    "serve": ("serving", serving_pb2.ServingTarget),
    "priority": ("priorities", recommendation_pb2.Priority),
}
_SHORT = {"many_different": "many", "llama_cpp": "llama.cpp"}
"""Words that differ from the contract's."""
_AS_THEY_ARE = ("runs_per_month", "task_count", "can_rent", "rule_pack")
_OF_GPUS = ("gpus", "sharding", "nodes", "network")
_OF_CPU = ("cores", "memory_gb")
_OF_ROWS = ("tokens", "tokens_per_example", "target_fraction")


def recommend_request(request: RecommendLike | None, words: RecommendWords) -> recommendation_pb2.RecommendRequest:
    """Build the request of Recommend from a message, from words, or from both; a word replaces the message's field.

    Raises:
        InvalidArgument: a word that is not accepted, or that has no effect beside the others.
        InvalidSpec: the dict is no RecommendRequest.
    """
    found = recommendation_pb2.RecommendRequest()
    if request is not None:
        found.CopyFrom(recommend(request))
    given: dict[str, Any] = {name: value for name, value in words.items() if value is not None}
    unknown = next((name for name in given if name not in RecommendWords.__annotations__), "")
    if unknown:
        raise invalid(unknown, f"no such word; known are {', '.join(RecommendWords.__annotations__)}")
    _set_enums(found, given)
    for name in _AS_THEY_ARE:
        if name in given:
            _set(found, name, given[name])
    for name in ("budget_per_month", "budget_per_run"):
        if name in given:
            getattr(found, name).CopyFrom(_money(given[name], name))
    if "max_duration" in given:
        found.max_duration.CopyFrom(_duration(given["max_duration"]))
    if "model" in given:
        found.model.CopyFrom(_model(given["model"]))
    _set_device(found, given)
    _set_shares(found.hardware, given)
    _set_ownership(found, given)
    _set_dataset(found, given.get("dataset"))
    _set_rows(found, given)
    return found


def _set(message: Message, field: str, value: Any, name: str = "") -> None:
    try:
        setattr(message, field, value)
    except (TypeError, ValueError) as error:
        raise invalid(name or field, f"{error}") from error


def _set_enums(found: recommendation_pb2.RecommendRequest, given: Mapping[str, Any]) -> None:
    for name, (field, enum) in _ENUMS.items():
        if name in given:
            setattr(found, field, _number(enum, given[name], name))
    for name, (field, enum) in _LISTS.items():
        if name in given:
            items = [given[name]] if isinstance(given[name], str) else given[name]
            getattr(found, field)[:] = [_number(enum, each, name) for each in items]


def _number(enum: Any, word: Any, name: str) -> int:
    """Number of a word; a word of the contract is accepted too."""
    values = {each.name: each.number for each in enum.DESCRIPTOR.values if each.number}
    prefix = enum.DESCRIPTOR.values_by_number[0].name.removesuffix("UNSPECIFIED")
    known = {_SHORT.get(short := each.removeprefix(prefix).lower(), short): number for each, number in values.items()}
    found = word if isinstance(word, int) and word in values.values() else known.get(word, values.get(word))
    if found is None:
        raise invalid(name, f"expected one of {', '.join(known)}, got {word!r}")
    return int(found)


def _money(amount: Any, name: str) -> money_pb2.Money:
    if isinstance(amount, money_pb2.Money):
        return amount
    if isinstance(amount, int | float) and not isinstance(amount, bool):
        return to_money(amount, "USD")
    try:
        return parse_money(amount)
    except (ValueError, TypeError, AttributeError) as error:
        raise invalid(
            name, f"expected an amount such as '50 USD', or a number of US dollars, got {amount!r}"
        ) from error


def _duration(value: Any) -> duration_pb2.Duration:
    if isinstance(value, duration_pb2.Duration):
        return value
    if isinstance(value, timedelta):
        return to_duration(value.total_seconds())
    if isinstance(value, int | float) and not isinstance(value, bool):
        return to_duration(value)
    try:
        return parse_duration(value)
    except (ValueError, AttributeError) as error:
        text = str(error) if isinstance(value, str) else f"expected '8h' or a number of seconds, got {value!r}"
        raise invalid("max_duration", text) from error


def _model(name: str) -> model_pb2.ModelSource:
    if "/" not in name:
        return model_pb2.ModelSource(name=name)
    hub, _, revision = name.partition("@")
    return model_pb2.ModelSource(hub=model_pb2.HubModel(id=hub, revision=revision))


def _set_device(found: recommendation_pb2.RecommendRequest, given: Mapping[str, Any]) -> None:
    name, memory = given.get("gpu"), given.get("gpu_memory")
    if given.get("cpu"):
        if name is not None or memory is not None:
            raise invalid("cpu", "gpu and cpu exclude each other; keep one of them")
        found.hardware.CopyFrom(hardware_pb2.Hardware(cpu=hardware_pb2.CpuDevice()))
    elif memory is not None:
        unknown = hardware_pb2.UnknownAccelerator(name=name or "")
        _set(unknown, "marketed_memory_gb", memory, "gpu_memory")
        found.hardware.CopyFrom(hardware_pb2.Hardware(unknown_accelerator=unknown))
    elif name is not None:
        found.hardware.CopyFrom(hardware_pb2.Hardware(accelerator=name))


def _set_shares(hardware: hardware_pb2.Hardware, given: Mapping[str, Any]) -> None:
    """Set what only a GPU or only a CPU has."""
    on_cpu, known = hardware.WhichOneof("device") == "cpu", hardware.WhichOneof("device") is not None
    for names, possible, needed in ((_OF_GPUS, known and not on_cpu, "a GPU"), (_OF_CPU, on_cpu, "cpu=True")):
        stray = next((name for name in names if name in given), "")
        if stray and not possible:
            raise invalid(stray, f"has no effect without {needed}")
    if "gpus" in given:
        _set(hardware, "count", given["gpus"], "gpus")
    if "sharding" in given:
        if given["sharding"] not in SHARDING:
            raise invalid("sharding", f"expected one of {', '.join(SHARDING)}, got {given['sharding']!r}")
        hardware.sharding = SHARDING[given["sharding"]]
    if "nodes" in given:
        _set(hardware, "nodes", given["nodes"])
    if "network" in given:
        _set(hardware, "network_gbits_per_second", given["network"], "network")
    if "cores" in given:
        _set(hardware.cpu, "cores", given["cores"])
    if "memory_gb" in given:
        hardware.cpu.memory_bytes = round(given["memory_gb"] * 1e9)


def _set_ownership(found: recommendation_pb2.RecommendRequest, given: Mapping[str, Any]) -> None:
    owned = next((name for name in ("price_per_kwh", "watts") if name in given), "")
    if "price" in given and owned:
        raise invalid("price", f"price is for rented hardware, {owned} for owned: they exclude each other")
    if "price" in given:
        rented = hardware_pb2.RentedHardware()
        _set(rented, "price_id", given["price"], "price")
        found.ownership.CopyFrom(hardware_pb2.Ownership(rented=rented))
    if owned:
        machine = hardware_pb2.OwnedHardware()
        if "price_per_kwh" in given:
            machine.price_per_kwh.CopyFrom(_money(given["price_per_kwh"], "price_per_kwh"))
        if "watts" in given:
            _set(machine, "watts", given["watts"])
        found.ownership.CopyFrom(hardware_pb2.Ownership(owned=machine))


def _set_dataset(found: recommendation_pb2.RecommendRequest, dataset: str | dataset_pb2.Dataset | None) -> None:
    if isinstance(dataset, dataset_pb2.Dataset):
        reading = dataset.reading if dataset.HasField("reading") else None
        found.dataset.CopyFrom(training_data_pb2.DatasetSource(name=dataset.name, reading=reading))
        found.dataset_profile.CopyFrom(dataset.profile)
    elif dataset is not None:
        found.dataset.CopyFrom(training_data_pb2.DatasetSource(name=dataset))


def _set_rows(found: recommendation_pb2.RecommendRequest, given: Mapping[str, Any]) -> None:
    if "examples" not in given:
        stray = next((name for name in _OF_ROWS if name in given), "")
        if stray:
            raise invalid(stray, "needs examples, the number of rows")
        return
    examples, tokens = given["examples"], given.get("tokens")
    if tokens is not None and "tokens_per_example" in given:
        raise invalid("tokens", "tokens and tokens_per_example exclude each other; keep one of them")
    if tokens is not None and tokens < examples:
        text = f"{tokens} is less than one for each of {examples} rows: it counts all rows together"
        raise invalid("tokens", f"{text}; for rows of {tokens} tokens give tokens_per_example={tokens}")
    if "tokens_per_example" in given:
        tokens = given["tokens_per_example"] * examples
    found.dataset_profile.CopyFrom(
        training_data_pb2.DatasetProfile(
            examples=examples, total_tokens=tokens, target_fraction=given.get("target_fraction")
        )
    )
