"""Arguments by name: a function says in its signature what it wants, and gets that from the first supply that has it."""

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol, TypeVar

Made = TypeVar("Made")


class Supply(Protocol):
    """Values by name; one that makes a value when it is asked for makes only what is asked for."""

    def __contains__(self, name: object, /) -> bool:
        """True if there is a value of that name."""
        ...

    def __getitem__(self, name: str, /) -> Any:
        """The value."""
        ...

    def __iter__(self) -> Iterator[str]:
        """All names."""
        ...


class Missing(LookupError):
    """A parameter without a default that no supply has."""

    def __init__(self, parameter: str, there: list[str]) -> None:
        super().__init__(f"{parameter!r} is asked for; there is {', '.join(there) or 'nothing'}")
        self.parameter = parameter


def arguments(function: Callable[..., Any], *supplies: Supply) -> dict[str, Any]:
    """The keyword arguments of `function`, each from the first of `supplies` that has its name.

    Arguments that a partial function has set stay; a parameter that nobody supplies keeps its default.

    Raises:
        Missing: a parameter without a default is in no supply.
    """
    fixed = function.keywords if isinstance(function, partial) else {}
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        supply = next((each for each in supplies if name in each), None)
        if name in fixed:
            continue
        if supply is not None:
            found[name] = supply[name]
        elif parameter.default is parameter.empty:
            raise Missing(name, list(dict.fromkeys(each for some in supplies for each in some)))
    return found


def call(function: Callable[..., Made], *supplies: Supply) -> Made:
    """The result of `function` with `arguments`.

    Raises:
        Missing: as `arguments`.
    """
    return function(**arguments(function, *supplies))
