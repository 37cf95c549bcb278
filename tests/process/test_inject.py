"""Arguments by name."""

from functools import partial

import pytest

from runners.process.inject import Missing, call
from support import check_line


def listed(a: int, *, b: int = 2, c: int = 3) -> list[int]:
    return [a, b, c]


def test_the_first_source_counts_and_defaults_fill_the_rest() -> None:
    assert call(listed, {"a": 1}) == [1, 2, 3]
    assert call(listed, {"b": 5}, {"a": 1, "b": 6, "unused": 0}) == [1, 5, 3]
    assert call(listed, {"a": None, "c": None}) == [None, 2, None], "a value that is None is a value"


def test_what_a_partial_sets_stays() -> None:
    assert call(partial(listed, b=7), {"a": 1, "b": 8}) == [1, 7, 3]
    assert call(partial(listed, 4), {"a": 1}) == [4, 2, 3]


def test_only_what_is_named_is_made() -> None:
    class Made(dict[str, int]):
        def __getitem__(self, name: str) -> int:
            seen.append(name)
            return super().__getitem__(name)

    seen: list[str] = []
    assert call(listed, Made(a=1, dear=2)) == [1, 2, 3] and seen == ["a"]


def test_a_parameter_that_nothing_has_is_named() -> None:
    with pytest.raises(Missing) as caught:
        call(listed, {"b": 1}, {"x": 1, "b": 2})
    assert caught.value.parameter == "a"
    check_line(str(caught.value), "a", "b, x")
