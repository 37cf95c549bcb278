"""What the terminal shows at the end of a run, read back from the run folder."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from runners.storage.folder import FACTS
from runners.storage.stages import read_table

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
    ranked = selection[selection["note"] == ""]
    gone, before = int((ranked["before"] - ranked["after"]).sum()), int(ranked["before"].sum())
    floor = int(selection["floor_hit"].sum())
    held = f"; {floor} layers held at their floor" if floor else ""
    return f"Removed {gone:,} of {before:,} filters of {len(ranked)} ranked layers (of {len(selection)}){held}."


def _spearman(spearman: pd.DataFrame) -> str:
    lines = ["Spearman's rho between criteria, mean and lowest over layers:"]
    for (a, b), part in spearman.groupby(["criterion_a", "criterion_b"], sort=False):
        rho = part["rho"].dropna()
        empty = f", {len(part) - len(rho)} empty" if len(rho) < len(part) else ""
        values = f"{rho.mean():.3f}, {rho.min():.3f}" if len(rho) else "none"
        lines.append(f"  {a} - {b}: {values} ({len(part)} layers{empty})")
    return "\n".join(lines)


def _facts(facts: dict[str, Any]) -> str:
    seconds = ", ".join(f"{stage} {value:.1f}" for stage, value in facts["seconds"].items())
    reused = f"; from the store: {', '.join(facts['reused'])}" if facts["reused"] else ""
    return f"Seconds: {seconds}{reused}."
