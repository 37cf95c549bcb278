"""What the terminal shows at the end of a run, read back from the run folder."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from runners.storage.folder import FACTS
from runners.storage.tables import read_table

MOST_PAIRS = 12
NETWORK_COLUMNS = ["stage", "top1_pct", "loss_nats", "params", "macs", "peak_activation_bytes", "latency_ms"]
LATENCY_NOISE = 0.02  # share by which two medians of the same network differ


def summary(folder: Path) -> str:
    """Accuracy a stage, what was removed, how far criteria agree, and where the time went."""
    accuracy = read_table(folder / "accuracy.csv")
    parts = [_accuracy(accuracy)]
    if slower := slower_than_its_macs(accuracy):
        parts.append(slower)
    if (folder / "selection.csv").is_file():
        parts.append(_selection(read_table(folder / "selection.csv")))
    if (folder / "sensitivity.csv").is_file():
        parts.append(_sensitivity(read_table(folder / "sensitivity.csv"), accuracy["top1_pct"].iloc[0]))
    if (folder / "random_spread.csv").is_file():
        draws = read_table(folder / "draws.csv")
        parts += [_selection(draws[draws["repeat"] == 0]), _random(read_table(folder / "random_spread.csv"))]
    parts += [_spearman(read_table(folder / "spearman.csv")), _facts(json.loads((folder / FACTS).read_text()))]
    return "\n".join(["", *parts])


def _accuracy(accuracy: pd.DataFrame) -> str:
    columns = [
        *NETWORK_COLUMNS[:2],
        *(["top5_pct"] if accuracy["top5_pct"].notna().any() else []),
        *NETWORK_COLUMNS[2:],
    ]
    formats = {
        "top1_pct": "{:.2f}".format,
        "top5_pct": "{:.2f}".format,
        "loss_nats": "{:.4f}".format,
        "params": "{:,}".format,
        "macs": "{:,}".format,
        "peak_activation_bytes": "{:,}".format,
        "latency_ms": "{:.2f}".format,
    }
    text = accuracy.to_string(columns=columns, index=False, formatters=formats)
    best = [
        f"{row['stage']} {row['best_top1_pct']:.2f} % in epoch {row['best_epoch']:.0f}"
        for row in accuracy[accuracy["best_epoch"].notna()].to_dict("records")
    ]
    note = f"Accuracy on {accuracy['n_images'].iloc[0]:,} test images after the last epoch"
    return text + f"\n{note}" + (f" (the best epoch, not used: {'; '.join(best)})." if best else ".")


def slower_than_its_macs(accuracy: pd.DataFrame) -> str:
    """One line if the last stage has fewer MACs than the first and is not faster by more than noise; else empty."""
    first, last = accuracy.iloc[0], accuracy.iloc[-1]
    if last["macs"] >= first["macs"] or last["latency_ms"] < (1 - LATENCY_NOISE) * first["latency_ms"]:
        return ""
    return (
        f"MACs fell by {100 * (1 - last['macs'] / first['macs']):.0f} %, latency did not: {first['stage']} "
        f"{first['latency_ms']:.2f} ms, {last['stage']} {last['latency_ms']:.2f} ms (batch {last['latency_batch']}, "
        f"{last['latency_dtype']}, {last['latency_device']}, {last['latency_threads']} threads)."
    )


def _selection(selection: pd.DataFrame) -> str:
    if "round" in selection:  # the last one's counts are of the original filters
        selection = selection[selection["round"] == selection["round"].max()]
    ranked = selection[selection["note"] == ""]
    gone, before = int((ranked["before"] - ranked["after"]).sum()), int(ranked["before"].sum())
    floor = int(selection["floor_hit"].sum())
    held = f"; {floor} layers held at their floor" if floor else ""
    zeroed = sum(len(numbers.split()) for numbers in selection["masked"]) if "masked" in selection else 0
    masked = f", masked {zeroed:,}" if zeroed else ""
    return f"Removed {gone:,}{masked} of {before:,} filters of {len(ranked)} ranked layers (of {len(selection)}){held}."


def _sensitivity(sensitivity: pd.DataFrame, trained: float) -> str:
    ratio = sorted(sensitivity["ratio"].unique())[sensitivity["ratio"].nunique() // 2]
    lost = (trained - sensitivity[sensitivity["ratio"] == ratio].set_index("layer")["top1_pct"]).sort_values(ascending=False)
    found = ", ".join(f"{layer} {points:.2f}" for layer, points in lost.head(5).items())
    return f"Most sensitive of {len(lost)} layers, points of top-1 lost at ratio {ratio:g} without fine-tuning: {found}."


def _random(spread: pd.DataFrame) -> str:
    lines = ["Top-1 of repeated fine-tunings; which filters go matters if other filters spread it more than other seeds do:"]
    for row in spread.to_dict("records"):
        lines.append(
            f"  other {row['vary']}: {row['min_pct']:.2f} to {row['max_pct']:.2f} %, mean {row['mean_pct']:.2f} %, delta "
            f"{row['delta_pct']:.2f}; sd {row['sd_pct']:.2f} (delta expected of {row['n']} normal draws: "
            f"{row['expected_delta_pct']:.2f}); binomial standard error of one accuracy {row['binomial_se_pct']:.2f}"
        )
    return "\n".join(lines)


def _spearman(spearman: pd.DataFrame) -> str:
    lines = ["Spearman's rho between criteria, mean and lowest over layers:"]
    pairs = list(spearman.groupby(["criterion_a", "criterion_b"], sort=False))
    if left_out := max(0, len(pairs) - MOST_PAIRS):
        pairs.sort(key=lambda pair: -pair[1]["rho"].fillna(0).mean())
        pairs = pairs[: MOST_PAIRS // 2] + pairs[-MOST_PAIRS // 2 :]
        lines = [f"{lines[0][:-1]} (the {MOST_PAIRS // 2} highest and lowest; {left_out} more pairs in spearman.csv):"]
    for (a, b), part in pairs:
        rho = part["rho"].dropna()
        empty = f", {len(part) - len(rho)} empty" if len(rho) < len(part) else ""
        values = f"{rho.mean():.3f}, {rho.min():.3f}" if len(rho) else "none"
        lines.append(f"  {a} - {b}: {values} ({len(part)} layers{empty})")
    return "\n".join(lines)


def _facts(facts: dict[str, Any]) -> str:
    seconds = ", ".join(f"{stage} {value:.1f}" for stage, value in facts["seconds"].items())
    kinds = dict.fromkeys(stage.partition("/")[0] for stage in facts["reused"])
    reused = f"; from the store: {', '.join(kinds)}" if kinds else ""
    return f"Seconds: {seconds}{reused}."
