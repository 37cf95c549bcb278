"""The accuracy table: what each stage of a network is worth, and what it costs."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from torch import nn

from runners.data.splits import Splits
from runners.measuring.cost import WARM_UP, cost
from runners.measuring.evaluate import evaluate


def accuracy(networks: Mapping[str, nn.Module], splits: Splits, histories: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row a stage, on the test split.

    `top1_pct` is of the last epoch. `best_top1_pct` and `best_epoch` show apart what choosing the epoch on the test
    split would have given; they are empty where nothing was trained. `latency_ms` is measured, and is the one column
    that two runs of the same command do not share; `latency_batch` to `latency_warm_up` (passes) say how. `epochs` are
    all that were trained until then; given weights count for none.
    """
    rows: list[dict[str, Any]] = []
    epochs = 0
    for stage, network in networks.items():
        epochs += len(histories.get(stage, ()))
        quality, price, best = (
            evaluate(network, splits.test),
            cost(network, splits.example),
            _best(histories.get(stage)),
        )
        rows.append(
            {
                "stage": stage,
                "top1_pct": quality.top1_pct,
                "top5_pct": quality.top5_pct,
                "loss_nats": quality.loss_nats,
                "params": price.params,
                "macs": price.macs,
                "latency_ms": round(price.latency_ms, 3),
                "n_correct": quality.n_correct,
                "n_images": quality.n_images,
                "best_top1_pct": best[0],
                "best_epoch": best[1],
                "peak_activation_bytes": price.peak_activation_bytes,
                "latency_batch": price.batch,
                "latency_dtype": price.dtype,
                "latency_device": price.device,
                "latency_threads": price.threads,
                "latency_warm_up": WARM_UP,
                "epochs": epochs,
            }
        )
    return pd.DataFrame(rows).astype({"best_top1_pct": float, "best_epoch": "Int64"})


def _best(history: pd.DataFrame | None) -> tuple[float | None, int | None]:
    if history is None or history.empty:
        return None, None
    best = history.iloc[int(history["test_top1_pct"].to_numpy().argmax())]
    return float(best["test_top1_pct"]), int(best["epoch"])
