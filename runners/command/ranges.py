"""Ranges of plain values, each with the words that say it; imports no torch."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """The values that an option may have.

    Args:
        right: tells them from others.
        words: complete the sentence "it is ...".
    """

    right: Callable[[Any], bool]
    words: str


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


PLAIN: Mapping[str, Range] = {
    "bool": Range(lambda value: isinstance(value, bool), "true or false"),
    "int": Range(lambda value: isinstance(value, int) and not isinstance(value, bool), "a whole number"),
    "float": Range(_number, "a number"),
    "str": Range(lambda value: isinstance(value, str) and value.strip() != "", "text"),
}
NULL = Range(lambda value: value is None, "null")
LIST = Range(lambda value: isinstance(value, list | tuple), "a list")
MAPPING = Range(lambda value: isinstance(value, Mapping), "names with their values")
FUNCTION = Range(lambda value: isinstance(value, Mapping) and "_target_" in value, "a function, chosen by its group")

# Limits of annotated-types, and what they allow of a value.
LIMITS: Mapping[str, Callable[[Any, Any], bool]] = {
    "Ge": lambda value, limit: value >= limit,
    "Gt": lambda value, limit: value > limit,
    "Le": lambda value, limit: value <= limit,
    "Lt": lambda value, limit: value < limit,
    "MinLen": lambda value, limit: len(value) >= limit,
    "MaxLen": lambda value, limit: len(value) <= limit,
}
BOUNDS: Mapping[tuple[str, str], str] = {
    ("", ""): "",
    ("Ge", ""): " from {0} on",
    ("Gt", ""): " above {0}",
    ("", "Le"): " up to {1}",
    ("", "Lt"): " below {1}",
    ("Ge", "Le"): " from {0} to {1}",
    ("Ge", "Lt"): " from {0} up to but not {1}",
    ("Gt", "Le"): " above {0} up to {1}",
    ("Gt", "Lt"): " above {0} and below {1}",
}


def one_of(choices: Sequence[Any]) -> Range:
    """One of the choices, of its own type: 1 is not true."""
    return Range(
        lambda value: any(value == each and type(value) is type(each) for each in choices), _or(map(written_as, choices))
    )


def either(ranges: Sequence[Range]) -> Range:
    """Values that are in one of the ranges."""
    return Range(lambda value: any(each.right(value) for each in ranges), ", or ".join(each.words for each in ranges))


def list_of(element: Range) -> Range:
    """A list of such values."""
    return Range(
        lambda value: LIST.right(value) and all(map(element.right, value)), f"a list, each of its values {element.words}"
    )


def mapping_of(key: Range, value: Range) -> Range:
    """Such names with such values."""
    return Range(
        lambda given: MAPPING.right(given) and all(key.right(k) and value.right(v) for k, v in given.items()),
        f"names with their values, each {value.words}",
    )


def limited(base: Range, limits: Mapping[str, Any]) -> Range:
    """`base` within limits, by their names in annotated-types."""
    return Range(
        lambda value: base.right(value) and all(LIMITS[name](value, limit) for name, limit in limits.items()),
        f"{base.words}{_limits(limits)}",
    )


def of_form(base: Range, pattern: str) -> Range:
    """`base` that a regular expression matches as a whole, in ASCII."""
    form = re.compile(pattern, re.ASCII)
    return Range(lambda value: base.right(value) and form.fullmatch(value) is not None, f"{base.words} of the form {pattern}")


def like(default: Any) -> Range | None:
    """The type of a default: an int is fine for a float, a bool is no int, null allows everything (None)."""
    if isinstance(default, list) and default and len({type(each) for each in default}) == 1:
        element = like(default[0])
        return list_of(element) if element else LIST
    if isinstance(default, list):
        return LIST
    return MAPPING if isinstance(default, Mapping) else PLAIN.get(type(default).__name__)


def _limits(limits: Mapping[str, Any]) -> str:
    """Limits in words: ` from 0 up to but not 1`."""
    low, high = (next((name for name in pair if name in limits), "") for pair in (("Ge", "Gt"), ("Le", "Lt")))
    lengths = [
        f", {word} {limits[name]} of them" for name, word in (("MinLen", "at least"), ("MaxLen", "at most")) if name in limits
    ]
    return BOUNDS[low, high].format(limits.get(low), limits.get(high)) + "".join(lengths)


def written_as(value: Any) -> str:
    """A value as YAML has it: `true`, not `True`."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _or(words: Any) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last
