# SPDX-License-Identifier: Apache-2.0
"""Validation rules in words: what a field's protovalidate options ask for, for people who read the API reference."""

from collections.abc import Callable, Iterator
from typing import Any

RULES = "[buf.validate.{}]"
RANGE = ("gt", "gte", "lt", "lte")


def field_rules(options: dict[str, Any]) -> str:
    """Return the rules of a field, "" where there are none; raise on one that no words are known for."""
    said = list(constraints(options.get(RULES.format("field"), {})))
    if options.get("debugRedact"):
        said.append("kept out of logs")
    return "; ".join(said)


def message_rules(options: dict[str, Any]) -> str:
    """Return the rules of a message, "" where there are none."""
    return "; ".join(constraints(options.get(RULES.format("message"), {})))


def oneof_rules(options: dict[str, Any]) -> bool:
    """Whether one of the members must be set."""
    return bool(options.get(RULES.format("oneof"), {}).get("required"))


def constraints(rules: dict[str, Any]) -> Iterator[str]:
    """Yield what a FieldRules or MessageRules in JSON asks for."""
    for name, rule in rules.items():
        match name:
            case "required":
                yield "required"
            case "cel":
                yield from (each["message"] for each in rule)
            case "ignore" if rule == "IGNORE_ALWAYS":
                yield "its own rules are checked where it is used"
            case _ if name in KINDS:
                yield from KINDS[name](dict(rule))
            case _:
                raise NotImplementedError(f"no words for the rule {name}: {rule}")


def text(rule: dict[str, Any], unit: str = "characters") -> Iterator[str]:
    """Yield the rules of a string or of bytes."""
    yield from amount(rule.pop("minLen", None), rule.pop("maxLen", None), unit)
    if "pattern" in rule:
        yield f"matches `{rule.pop('pattern')}`"
    nothing_left(rule)


def octets(rule: dict[str, Any]) -> Iterator[str]:
    """Yield the rules of bytes."""
    return text(rule, "bytes")


def number(rule: dict[str, Any]) -> Iterator[str]:
    """Yield the range of a number, a duration or a timestamp."""
    over, least, under, most = (rule.pop(key, None) for key in RANGE)
    nothing_left(rule)
    if least is not None and most is not None:
        yield f"{least} to {most}"
        return
    words = {"above": over, "at least": least, "below": under, "at most": most}
    found = [f"{word} {value}" for word, value in words.items() if value is not None]
    if found:
        yield " and ".join(found)


def enumeration(rule: dict[str, Any]) -> Iterator[str]:
    """Yield the rules of an enum."""
    if rule.pop("definedOnly", False):
        yield "a defined value"
    if (refused := rule.pop("notIn", None)) is not None:
        yield "not unspecified" if refused == [0] else f"none of {', '.join(map(str, refused))}"
    nothing_left(rule)


def sequence(rule: dict[str, Any]) -> Iterator[str]:
    """Yield the rules of a repeated field and of its items."""
    yield from amount(rule.pop("minItems", None), rule.pop("maxItems", None), "items")
    if rule.pop("unique", False):
        yield "no item twice"
    yield from inside("each", rule.pop("items", {}))
    nothing_left(rule)


def mapping(rule: dict[str, Any]) -> Iterator[str]:
    """Yield the rules of a map, of its keys and of its values."""
    yield from amount(rule.pop("minPairs", None), rule.pop("maxPairs", None), "pairs")
    yield from inside("keys", rule.pop("keys", {}))
    yield from inside("values", rule.pop("values", {}))
    nothing_left(rule)


def inside(whose: str, rules: dict[str, Any]) -> Iterator[str]:
    """Yield the rules of what a field holds, as one."""
    if said := ", ".join(constraints(rules)):
        yield f"{whose}: {said}"


def amount(least: str | int | None, most: str | int | None, unit: str) -> Iterator[str]:
    """Yield how many of something there may be."""
    if least is not None and most is not None:
        yield f"{least} to {most} {unit}"
    elif least is not None:
        yield f"at least {least} {unit}"
    elif most is not None:
        yield f"at most {most} {unit}"


def nothing_left(rule: dict[str, Any]) -> None:
    """Raise where a rule has a part that no words are known for: a page that is silent about it would mislead."""
    if rule:
        raise NotImplementedError(f"no words for the rule {rule}")


KINDS: dict[str, Callable[[dict[str, Any]], Iterator[str]]] = {
    "string": text,
    "bytes": octets,
    **dict.fromkeys(("double", "float", "int32", "int64", "uint32", "uint64", "duration", "timestamp"), number),
    "enum": enumeration,
    "repeated": sequence,
    "map": mapping,
}
