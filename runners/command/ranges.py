"""Ranges of values and how to say them: what the checks of options are made of; imports no torch."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from runners.process.errors import ConfigError

# config key, what is right, how to say so, an example
Check = tuple[str, Callable[[Any], bool], str, str]


def number(value: Any) -> bool:
    """A finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def whole(least: int, most: float = math.inf) -> Callable[[Any], bool]:
    """A whole number between two bounds, which are allowed."""
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def one_of(*choices: Any) -> Callable[[Any], bool]:
    """One of the choices, of its own type: 1 is not true."""
    return lambda value: value in choices and type(value) in {type(choice) for choice in choices}


def numbers(least: float) -> Callable[[Any], bool]:
    """A list of finite numbers above `least`."""
    return lambda value: isinstance(value, list) and len(value) > 0 and all(number(v) and v > least for v in value)


def text(value: Any) -> bool:
    """Text that is more than spaces."""
    return isinstance(value, str) and value.strip() != ""


def text_or_null(value: Any) -> bool:
    """Such text, or null."""
    return value is None or text(value)


def whole_or_null(value: Any) -> bool:
    """A whole number from 1 on, or null."""
    return value is None or whole(1)(value)


def share(value: Any) -> bool:
    """A part of something, neither none nor all of it."""
    return number(value) and 0 < value < 1


def check(config: Mapping[str, Any], checks: Iterable[Check]) -> None:
    """Checks what the config has of the options in `checks`.

    Raises:
        ConfigError: the first value outside its range.
    """
    for key, right, allowed, example in checks:
        *sections, rest = key.split(".")
        section = ".".join(sections)
        place: Any = config
        for part in sections:
            place = place[part]
        if not isinstance(place, Mapping):
            group = f"recipe@{section}" if section == "finetune" else section
            raise ConfigError(f"{section}={place} is a value where a group is needed; options are files; try {group}={place}")
        if rest in place and not right(value := place[rest]):
            raise ConfigError(f"{key}={'' if value is None else value} cannot be used; it is {allowed}; try {example}")
