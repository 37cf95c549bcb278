"""The Python interface: the names that stay, and README's example."""

import inspect
import re

import pandas as pd
import pytest

import prunescope
from support import ROOT, raises_line

# Promised: the parameters of what may be called from outside, in order.
SIGNATURES = {
    "trace_channels": ["network", "example"],
    "score": ["network", "channels", "criteria", "images", "batch_size", "layers"],
    "select": ["scores", "criterion", "channels", "rule", "gone"],
    "remove": ["network", "channels", "removed"],
    "mask": ["network", "channels", "removed"],
    "prune": ["network", "channels", "selection"],
    "save_pruned": ["folder", "pruned", "model"],
    "load_pruned": ["folder"],
    "spearman": ["scores"],
    "pooled_spearman": ["scores"],
    "applicability": ["scores"],
    "criteria": ["names", "seed"],
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_stay(name: str) -> None:
    assert list(inspect.signature(getattr(prunescope, name)).parameters) == SIGNATURES[name]
    assert name in prunescope.__all__


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
