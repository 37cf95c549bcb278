"""The meaning of a rule for the layers of a network: names, shares, floors."""

from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runners.process.errors import ConfigError
from runners.selection.rule import Rule, matching
from support import raises_line

LAYERS = ("conv1", "layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1", "layer2.0.conv1", "0")


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("conv1", ["conv1"]),
        ("layer1.*", ["layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1"]),
        ("layer1.[1-9].conv?", ["layer1.1.conv1"]),
        ("*.conv1", ["layer1.0.conv1", "layer1.1.conv1", "layer2.0.conv1"]),
        (2, ["layer1.0.conv1"]),
        ("2", ["layer1.0.conv1"]),
        (6, ["0"]),
        # A name that is a number is a name.
        (0, ["0"]),
    ],
)
def test_names_patterns_and_indices(key: str | int, found: list[str]) -> None:
    assert matching(key, LAYERS, "skip") == found


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("layer1.0.conv3", ["6 convolutions", "conv1 (1) to 0", "did you mean layer1.0.conv"]),
        ("layer3.*", []),
        (7, ["preset"]),
        ("Conv1", ["did you mean"]),
    ],
)
def test_an_unknown_layer_is_one_line(key: str | int, told: list[str]) -> None:
    with raises_line(ConfigError, "skip", f"'{key}'") as caught:
        Rule(ratio=0.5, skip=[key]).skipped(LAYERS)
    assert all(part in str(caught.value) for part in told)


def test_a_network_without_convolutions_has_no_layer() -> None:
    with raises_line(ConfigError, "skip", "'a'", "0 convolutions"):
        matching("a", (), "skip")


def test_what_is_skipped_says_why() -> None:
    found = Rule(ratio=0.5, start_layer=2, skip=["layer1.0.*", 5]).skipped(LAYERS)
    assert found == {
        "conv1": "among the first 2",
        "layer1.0.conv1": "skipped",
        "layer1.0.conv2": "skipped",
        "layer2.0.conv1": "skipped",
    }
    assert Rule(ratio=0.5).skipped(LAYERS) == {}
    # Counted from zero, as in the paper: s=0 leaves nothing out, and s beyond the last everything.
    assert len(Rule(ratio=0.5, start_layer=99).skipped(LAYERS)) == len(LAYERS)


def test_a_name_counts_before_a_pattern_and_a_longer_pattern_before_a_shorter_one() -> None:
    ratio = {"*": 0.0, "layer1.*": 0.1, "layer1.0.conv?": 0.2, "layer1.0.conv2": 0.3, "1": 0.4}
    expected = dict(zip(LAYERS, (0.4, 0.2, 0.3, 0.1, 0.0, 0.0), strict=True))
    assert Rule(ratio=ratio).shares(LAYERS) == expected
    # The order of the keys, which a file's name forgets, does not matter.
    assert Rule(ratio=dict(reversed(ratio.items()))).shares(LAYERS) == expected
    assert Rule(ratio=0.5).shares(LAYERS) == dict.fromkeys(LAYERS, 0.5)
    assert Rule(ratio={"conv1": 0.5}).shares(LAYERS) == {"conv1": 0.5}


@pytest.mark.parametrize("ratio", ({"1": 0.5, "conv1": 0.6}, {"layer1.?.conv1": 0.5, "layer?.0.conv1": 0.6}))
def test_one_layer_has_one_share(ratio: dict[str, float]) -> None:
    with raises_line(ConfigError, "conv1", *ratio, *ratio.values()):
        Rule(ratio=ratio).shares(LAYERS)
    assert Rule(ratio=dict.fromkeys(ratio, 0.5)).shares(LAYERS)


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 999))
def test_a_floor_is_exact_and_never_below_one(n_filters: int, per_mille: int) -> None:
    share = per_mille / 1000
    assert Rule(ratio=0.5, min_keep=share).floor(n_filters) == max(1, ceil(Fraction(n_filters * per_mille, 1000)))
    assert Rule(ratio=0.5, min_keep=per_mille).floor(n_filters) == per_mille


def test_a_floor_is_no_victim_of_floating_point() -> None:
    # 0.07 * 100 is 7.000000000000001 in floating point, whose ceiling is 8.
    assert Rule(ratio=0.5, min_keep=0.07).floor(100) == 7
