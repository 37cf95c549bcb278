"""Arguments by name: a function's parameters say what it is given."""

from collections.abc import Callable, Mapping
from functools import partial
from inspect import Parameter, signature
from typing import Any, TypeVar

Made = TypeVar("Made")


def call(function: Callable[..., Made], *sources: Mapping[str, Any]) -> Made:
    """The result of `function`, each parameter taken by its name from the first source that has it.

    A parameter that no source has keeps its default; arguments that a `partial` has set stay as they are.

    Raises:
        LookupError: a parameter without default is in no source.
    """
    fixed = function.keywords if isinstance(function, partial) else {}
    given: dict[str, Any] = {}
    for name, parameter in signature(function).parameters.items():
        source = next((source for source in sources if name in source), None)
        if name in fixed:
            continue
        if source is not None:
            given[name] = source[name]
        elif parameter.default is Parameter.empty:
            there = ", ".join(dict.fromkeys(each for source in sources for each in source))
            raise LookupError(f"{name!r} is asked for; there is {there or 'nothing'}")
    return function(**given)
