"""Tables in a few lines of text, as the terminal shows them at the end of a run."""

import pandas as pd

from analysis.columns import number_text, qualities, shown, words

MOST_PAIRS = 12
COSTS = ["params", "macs", "peak_activation_bytes", "latency_ms"]
LATENCY_NOISE = 0.02  # share by which two medians of the same network differ


def headline(accuracy: pd.DataFrame) -> str:
    """The number that networks are compared by, of the last stage: `top-1 99.44 % (tuned)`."""
    last, leading = accuracy.iloc[-1], qualities(accuracy)[0]
    return f"{shown(leading, last[leading])} ({last['stage']})"


def accuracy_text(accuracy: pd.DataFrame) -> str:
    """One line a stage with its quality and cost, the best epochs, and one line if latency did not fall with the MACs."""
    found = qualities(accuracy)
    columns = [*(name for name in found if accuracy[name].notna().any()), *COSTS]
    formats = {name: number_text(name) for name in columns}
    text = accuracy.to_string(columns=["stage", *columns], index=False, formatters=formats)
    best = [
        f"{row['stage']} {row[f'best_{found[0]}']:.2f} % in epoch {row['best_epoch']:.0f}"
        for row in accuracy[accuracy["best_epoch"].notna()].to_dict("records")
    ]
    note = f"Accuracy on {accuracy['n_images'].iloc[0]:,} test images after the last epoch"
    lines = [text, note + (f" (the best epoch, not used: {'; '.join(best)})." if best else ".")]
    return "\n".join(filter(None, [*lines, slower_than_its_macs(accuracy)]))


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


def selection_text(selection: pd.DataFrame) -> str:
    """Number of filters removed and masked, of how many, and of layers held at their floor."""
    ranked = selection[selection["note"] == ""]
    gone, before = int((ranked["before"] - ranked["after"]).sum()), int(ranked["before"].sum())
    floor = int(selection["floor_hit"].sum())
    held = f"; {floor} layers held at their floor" if floor else ""
    zeroed = sum(len(numbers.split()) for numbers in selection["masked"]) if "masked" in selection else 0
    masked = f", masked {zeroed:,}" if zeroed else ""
    return f"Removed {gone:,}{masked} of {before:,} filters of {len(ranked)} ranked layers (of {len(selection)}){held}."


def sensitivity_text(sensitivity: pd.DataFrame, accuracy: pd.DataFrame) -> str:
    """The five layers that cost most accuracy at the middle one of the ratios, the most sensitive first."""
    leading = qualities(accuracy)[0]
    trained = accuracy[leading].iloc[0]
    ratio = sorted(sensitivity["ratio"].unique())[sensitivity["ratio"].nunique() // 2]
    lost = (trained - sensitivity[sensitivity["ratio"] == ratio].set_index("layer")[leading]).sort_values(ascending=False)
    found = ", ".join(f"{layer} {each:.2f}" for layer, each in lost.head(5).items())
    points = f"points of {words(leading)} lost at ratio {ratio:g} without fine-tuning"
    return f"Most sensitive of {len(lost)} layers, {points}: {found}."


def spread_text(spread: pd.DataFrame) -> str:
    """The spread of repeated fine-tunings, a line for whatever varied."""
    lines = [
        "Accuracy after repeated fine-tunings; which filters go matters if other filters spread it more than other seeds do:"
    ]
    for row in spread.to_dict("records"):
        lines.append(
            f"  other {row['vary']}: {row['min_pct']:.2f} to {row['max_pct']:.2f} %, mean {row['mean_pct']:.2f} %, delta "
            f"{row['delta_pct']:.2f}; sd {row['sd_pct']:.2f} (delta expected of {row['n']} normal draws: "
            f"{row['expected_delta_pct']:.2f}); binomial standard error of one accuracy {row['binomial_se_pct']:.2f}"
        )
    return "\n".join(lines)


def spearman_text(spearman: pd.DataFrame) -> str:
    """Mean and lowest rank correlation over layers, a line a pair of criteria."""
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
