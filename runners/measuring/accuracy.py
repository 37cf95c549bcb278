"""The accuracy table: quality and cost of each stage of a network."""

from collections.abc import Mapping
from math import nan
from typing import Any

import pandas as pd
from torch import nn

from runners.data.splits import Splits
from runners.measuring.cost import WARM_UP, cost
from runners.measuring.evaluate import evaluate
from runners.tasks.classification import CLASSIFICATION
from runners.tasks.task import Task


def accuracy(
    networks: Mapping[str, nn.Module],
    splits: Splits,
    histories: Mapping[str, pd.DataFrame],
    differences: Mapping[str, float] | None = None,
    *,
    task: Task = CLASSIFICATION,
) -> pd.DataFrame:
    """One row a stage, on the test split.

    The task's numbers are of the last epoch. `best_epoch` and the column before it show apart what choosing the epoch on
    the test split would have given; they are empty where nothing was trained. `latency_ms` is measured, and is the one column
    that two runs of the same command do not share; `latency_batch` to `latency_warm_up` (passes) say how. `epochs` are
    all that were trained until then; given weights count for none. `removal_difference` is empty where none were removed.

    Args:
        differences: stage -> how far the removal of filters was from exact, as `pruning.proof` found it.
    """
    rows: list[dict[str, Any]] = []
    epochs = 0
    for stage, network in networks.items():
        history = histories.get(stage, pd.DataFrame())
        epochs += len(history)
        quality, price = evaluate(network, splits.test, task), cost(network, splits.example)
        counts = {name: value for name, value in quality.items() if name.startswith("n_")}
        rows.append(
            {
                "stage": stage,
                **{name: value for name, value in quality.items() if name not in counts},
                "params": price.params,
                "macs": price.macs,
                "latency_ms": round(price.latency_ms, 3),
                **counts,
                **task.best(history),
                "peak_activation_bytes": price.peak_activation_bytes,
                "latency_batch": price.batch,
                "latency_dtype": price.dtype,
                "latency_device": price.device,
                "latency_threads": price.threads,
                "latency_warm_up": WARM_UP,
                "epochs": epochs,
                "removal_difference": (differences or {}).get(stage, nan),
            }
        )
    table = pd.DataFrame(rows)
    return table.astype({name: "Int64" for name in table if str(name).endswith("_epoch")})
