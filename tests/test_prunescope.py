"""The Python interface: the names that stay, and README's example."""

import inspect
import re
from collections.abc import Callable
from dataclasses import fields

import pandas as pd
import pytest

import prunescope
from support import ROOT, raises_line

# Promised: names, kinds and defaults of the parameters of what may be called from outside, in order.
SIGNATURES = {
    "trace_channels": "(network, example)",
    "score": "(network, channels, criteria, images=None, *, batch_size=128, layers=None)",
    "select": "(scores, criterion, channels, rule, gone=<nothing_gone>)",
    "removed_filters": "(selection, column='removed')",
    "remove": "(network, channels, removed, *, images=None, prove=True)",
    "mask": "(network, channels, removed)",
    "prune": "(network, channels, selection, *, images=None, prove=True)",
    "save_pruned": "(folder, pruned, model)",
    "load_pruned": "(folder)",
    "spearman": "(scores)",
    "pooled_spearman": "(scores)",
    "applicability": "(scores)",
    "criteria": "(*names, seed=0)",
    "Images": "(pixels, labels, mean, std, crop_padding=0, flip=False)",
    "Pruned": "(network, channels, removed, example)",
    "Rule": (
        "(ratio, scope='layer', rounding='floor_pruned', min_keep=1, start_layer=0, normalise='none', skip=(), "
        "ratio_of='filters', coupled='skip')"
    ),
}
# Made by other functions of this list, or a type.
UNCALLED = {"Channels", "Criterion"}


def told(function: Callable[..., object]) -> str:
    """A signature without its annotations, a function among the defaults by its name."""
    found = inspect.signature(function)
    plain = [each.replace(annotation=each.empty) for each in found.parameters.values()]
    text = str(found.replace(parameters=plain, return_annotation=found.empty))
    return re.sub(r"<function (\w+) at \w+>", r"<\1>", text)


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_stay(name: str) -> None:
    assert told(getattr(prunescope, name)) == SIGNATURES[name]


@pytest.mark.parametrize("name", ["Images", "Pruned", "Rule"])
def test_fields_are_named_as_the_parameters(name: str) -> None:
    promised = getattr(prunescope, name)
    assert [field.name for field in fields(promised)] == list(inspect.signature(promised).parameters)


def test_every_name_has_a_signature_that_stays() -> None:
    assert SIGNATURES.keys() | UNCALLED == set(prunescope.__all__)


def test_every_name_that_is_promised_is_there() -> None:
    assert all(hasattr(prunescope, name) for name in prunescope.__all__)


def test_criteria_come_by_name() -> None:
    assert list(prunescope.criteria("gm", "random", seed=3)) == ["gm", "random"]
    assert prunescope.criteria("random", seed=3)["random"].keywords == {"seed": 3}  # type: ignore[union-attr]
    assert prunescope.criteria().keys() == {path.stem for path in (ROOT / "conf" / "criterion").glob("*.yaml")}
    with raises_line(ValueError, "'l3'", *prunescope.criteria()):
        prunescope.criteria("l3")


def test_the_example_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    [example] = re.findall(r"```python\n([^`]*import prunescope[^`]*)```", (ROOT / "README.md").read_text())
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    scores, smaller, network = names["scores"], names["smaller"], names["network"]
    assert isinstance(scores, pd.DataFrame) and set(scores["criterion"]) == {"l1", "gm"}
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in network.parameters())  # type: ignore[attr-defined]
    assert "rho" in capsys.readouterr().out
