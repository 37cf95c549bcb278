"""Annotations read from source, against the values that they allow, worked out by hand."""

from pathlib import Path
from typing import Any

import pytest

from runners.command import signatures
from runners.command.ranges import like
from runners.command.signatures import signature, uses
from support import names

SOURCE = """
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import annotated_types as limits
import torch
from annotated_types import Ge, Gt, Le, Len, Lt, MinLen, doc

from .other import Share

Site = Literal["post_act", "conv_out"]


def function(
    layer: torch.Tensor,
    *,
    site: Site,
    share: Share,
    big: Annotated[int, limits.Ge(1), Le(2**63)] = 1,
    maybe: Annotated[float, Gt(0)] | None = None,
    many: Annotated[Sequence[Annotated[float, Ge(0), Lt(1)]], MinLen(1)] = (),
    two: Annotated[list[int], Len(2, 2)] = (),
    shares: Mapping[str, Share] = {},
    flag: bool = True,
    word: Annotated[str, re.compile("a+|b"), doc("as or b")] = "b",
    step: Callable[[float], float],
    foreign: torch.Tensor | None = None,
) -> None: ...


@dataclass
class Base:
    joins: ClassVar[bool] = True
    bins: Annotated[int, Ge(2)] = 100


@dataclass
class Derived(Base):
    site: Site = "post_act"


class Open(torch.nn.Missing):
    a: int


class Built(Base):
    def __init__(self, tensor: torch.Tensor, a: int, **rest: int) -> None: ...


async def later() -> None: ...
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "criteria").mkdir()
    (tmp_path / "criteria" / "made.py").write_text(SOURCE)
    (tmp_path / "criteria" / "other.py").write_text(
        "from typing import Annotated\nfrom annotated_types import Ge, Lt\nShare = Annotated[float, Ge(0), Lt(1)]\n"
    )
    monkeypatch.setattr(signatures, "ROOT", tmp_path)
    for cached in (signatures.signature, signatures._names):
        cached.cache_clear()
    return "criteria.made"


@pytest.mark.parametrize(
    ("option", "right", "wrong", "told"),
    [
        ("site", ["post_act"], ["post", 1, None], ["post_act", "conv_out"]),
        ("share", [0, 0.99], [1, -0.1, True, float("nan"), "0"], [0, 1]),
        ("big", [1, 2**63], [0, 1.0, True, 2**63 + 1], [1, 2**63]),
        ("maybe", [None, 0.1, 1], [0, "x"], [0, "null"]),
        ("many", [[0, 0.5]], [[], [1], 0.5, ["x"]], [0, 1]),
        ("two", [[1, 2]], [[1], [1, 2, 3], [1, 2.5]], [2]),
        ("shares", [{"a": 0.5}, {}], [{"a": 1}, {1: 0.5}, 0.5], [0, 1]),
        ("flag", [True, False], [1, "true", None], ["true", "false"]),
        ("word", ["aa", "b"], ["ab", "", 1], ["as or b"]),
        ("step", [{"_target_": "a.b"}], [{}, 3], []),
    ],
)
def test_a_range_allows(option: str, right: list[Any], wrong: list[Any], told: list[Any], module: str) -> None:
    found = signature(f"{module}.function")
    assert found is not None
    allowed = found.options[option]
    assert allowed is not None and [token for token in told if not names(allowed.words, token)] == []
    assert [value for value in right if not allowed.right(value)] == []
    assert [value for value in wrong if allowed.right(value)] == []


def test_tensors_are_no_options_unless_they_may_be_left_out(module: str) -> None:
    found = signature(f"{module}.function")
    assert found is not None and not found.takes_any
    assert "layer" not in found.options and found.options["foreign"] is None


def test_classes_take_their_fields_and_those_they_inherit_or_what_init_takes(module: str) -> None:
    derived, built, unknown = (signature(f"{module}.{name}") for name in ("Derived", "Built", "Open"))
    assert derived and built and unknown
    assert (set(derived.options), derived.takes_any) == ({"bins", "site"}, False)
    assert (set(built.options), built.takes_any) == ({"a"}, True)
    assert unknown.takes_any, "nobody knows what its base takes"


@pytest.mark.parametrize("target", ["criteria.made.nothing", "criteria.nothing.function", "no_such_package.f", "function", ""])
def test_what_is_not_there_has_no_signature(target: str, module: str) -> None:
    assert signature(target) is None


def test_other_packages_are_read_too() -> None:
    found = signature("torch.optim.SGD")
    assert found is not None and {"momentum", "nesterov", "fused"} <= set(found.options) and not found.takes_any
    assert (fused := found.options["fused"]) and fused.right(None) and fused.right(True) and not fused.right("hello")


@pytest.mark.parametrize(
    ("default", "right", "wrong"),
    [
        (True, [False], [1, "x"]),
        (3, [-1], [1.5, True, "3"]),
        (0.5, [1, -2.5], [True, "x", float("inf")]),
        ("text", ["x"], [1, ""]),
        ([1, 2], [[], [3]], [3, ["x"]]),
        ({"a": 1}, [{}], [1]),
    ],
)
def test_without_an_annotation_the_type_of_the_default_counts(default: Any, right: list[Any], wrong: list[Any]) -> None:
    allowed = like(default)
    assert allowed is not None and all(map(allowed.right, right)) and not any(map(allowed.right, wrong))
    assert like(None) is None


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("models.cifar_resnet.cifar_resnet", True),
        ("models.cifar_resnext.cifar_resnext", True),  # whose blocks are of another file
        ("models.cifar_alexnet.cifar_alexnet", False),
        ("timm.create_model", False),
        ("models.nothing.at_all", False),
    ],
)
def test_a_file_uses_what_it_imports_and_what_that_imports(target: str, expected: bool) -> None:
    assert uses(target, "models.host") is expected
