"""The lines that the terminal shows, from small tables worked by hand."""

import re

import pandas as pd

from analysis.texts import headline, selection_text, sensitivity_text, spearman_text, spread_text


def numbers(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"\d+(?:\.\d+)?", text)]


def test_the_headline_is_of_the_last_stage() -> None:
    assert headline(pd.DataFrame({"stage": ["trained", "tuned"], "top1_pct": [93.39, 90.464]})) == "top-1 90.46 % (tuned)"


def test_the_most_sensitive_layer_comes_first() -> None:
    # Trained 90 %; at the middle ratio, 0.5, layers lose 1, 30, 2, 4, 3 and 0 points; the least sensitive is not named.
    left = {"a": 89.0, "b": 60.0, "c": 88.0, "d": 86.0, "e": 87.0, "f": 90.0}
    rows = [(layer, ratio, top1 if ratio == 0.5 else 50.0) for layer, top1 in left.items() for ratio in (0.3, 0.5, 0.7)]
    text = sensitivity_text(
        pd.DataFrame(rows, columns=["layer", "ratio", "top1_pct"]),
        pd.DataFrame({"stage": ["trained", "pruned"], "top1_pct": [90.0, 10.0]}),
    )
    assert text.endswith("at ratio 0.5 without fine-tuning: b 30.00, d 4.00, e 3.00, c 2.00, a 1.00.")
    assert "of 6 layers" in text


def test_removed_and_masked_filters_are_counted_of_ranked_layers() -> None:
    selection = pd.DataFrame(
        {
            "before": [16, 16, 1000],
            "after": [8, 12, 1000],
            "note": ["", "", "tied to conv1"],
            "floor_hit": [True, False, False],
            "masked": ["1 5", "", ""],
        }
    )
    # Removed, masked, of how many filters, ranked layers, layers, layers at their floor.
    assert numbers(selection_text(selection)) == [12, 2, 32, 2, 3, 1]


def test_rho_is_shown_as_mean_and_lowest_and_empty_layers_are_counted() -> None:
    rho = pd.DataFrame(
        {"criterion_a": "l1", "criterion_b": ["l2", "l2", "l2", "gm"], "rho": [0.9, 0.5, float("nan"), float("nan")]}
    )
    lines = spearman_text(rho).splitlines()
    assert lines[1:] == ["  l1 - l2: 0.700, 0.500 (3 layers, 1 empty)", "  l1 - gm: none (1 layers, 1 empty)"]


def test_of_many_pairs_the_highest_and_lowest_are_shown() -> None:
    pairs = pd.DataFrame(
        [(f"c{a}", f"c{b}", (a + b) / 20) for a in range(6) for b in range(a)], columns=["criterion_a", "criterion_b", "rho"]
    )
    lines = spearman_text(pairs).splitlines()
    assert numbers(lines[0]) == [6, 3] and "spearman.csv" in lines[0] and len(lines) == 13
    assert lines[1].startswith("  c5 - c4: 0.450") and lines[-1].startswith("  c1 - c0: 0.050")


def test_spread_names_what_varied_and_its_numbers() -> None:
    row = {"vary": "seeds", "n": 20, "min_pct": 89.0, "max_pct": 91.5, "mean_pct": 90.0, "delta_pct": 2.5, "sd_pct": 0.5}
    text = spread_text(pd.DataFrame([row | {"expected_delta_pct": 1.87, "binomial_se_pct": 0.3}]))
    assert "seeds:" in text and numbers(text) == [89, 91.5, 90, 2.5, 0.5, 20, 1.87, 0.3]
