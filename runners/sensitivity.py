"""Sensitivity of layers: accuracy against the ratio of one layer at a time."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import pandas as pd
from annotated_types import Ge, Lt, MinLen
from torch import nn

from analysis.columns import label, number_text
from analysis.figures import sensitivity_curves, spearman_by_layer
from analysis.similarity import spearman
from analysis.texts import accuracy_text, headline, sensitivity_text, spearman_text
from runners.data.splits import Splits
from runners.measuring.accuracy import accuracy
from runners.measuring.evaluate import evaluate
from runners.pruning.proof import prune_proven
from runners.results import Results, Table, accuracy_table, histories_table, score_tables
from runners.scoring.score import Ranking, check_rankable, score
from runners.selection.draft import Plan
from runners.selection.plan import alone, plan
from runners.selection.reasons import few_ranked
from runners.selection.rule import Rule
from runners.selection.select import choose
from runners.stages import DATASET, SCORES, TRAINED
from runners.storage.keys import RULE, Stage
from runners.storage.stages import Stages
from runners.tasks.classification import CLASSIFICATION
from runners.tracing.channels import Channels, trace_channels
from runners.training.fit import Fit

log = logging.getLogger(__name__)
COMPARED = tuple(CLASSIFICATION.compared)
SENSITIVITY = Stage(
    "sensitivity", 1, after=(SCORES, DATASET), options=("chosen", "ratios", *(option for option in RULE if option != "ratio"))
)


def run(
    *,
    splits: Splits,
    model: nn.Module,
    criteria: Mapping[str, Ranking],
    chosen: str,
    score_batch_size: int,
    rule: Rule,
    ratios: Annotated[Sequence[Annotated[float, Ge(0), Lt(1)]], MinLen(1)],
    train: Fit,
    stages: Stages,
) -> Results:
    """Train (or take given weights), score, and prune every layer alone by every ratio, without fine-tuning.

    Source:
        Li et al. 2017, figure 2(b). Measured on the test split, as theirs is: layers that are skipped because of it
        were chosen on test images.
    """
    channels = trace_channels(model, splits.example)
    planned = plan(channels, replace(rule, ratio=0))
    plans = alone(planned, ratios)
    check_rankable(model, channels, criteria, chosen)
    trained, training = stages.network(TRAINED, model, lambda unfinished: train(model, splits, unfinished))
    scores = stages.table(SCORES, lambda: score(trained, channels, criteria, splits.score, batch_size=score_batch_size))
    found = stages.table(SENSITIVITY, lambda: _measured(trained, channels, scores, chosen, plans, splits))
    with stages.timed("measured"):
        measured = accuracy({"trained": trained}, splits, {"trained": training})
    rho = spearman(scores)
    return Results(
        tables={
            "accuracy": accuracy_table(measured),
            "sensitivity": Table(found, by=("layer", "index", "ratio"), values=COMPARED),
            **score_tables(scores, rho),
            "history": histories_table({"trained": training}),
        },
        figures={"sensitivity": sensitivity_curves(found, measured), "spearman": spearman_by_layer(rho)},
        text="\n".join(
            [
                accuracy_text(measured),
                sensitivity_text(found, measured),
                *few_ranked(channels, rule, planned.units),
                spearman_text(rho),
            ]
        ),
        headline=headline(measured),
    )


def _measured(
    trained: nn.Module,
    channels: Channels,
    scores: pd.DataFrame,
    chosen: str,
    plans: Mapping[tuple[str, ...], Mapping[float, Plan]],
    splits: Splits,
) -> pd.DataFrame:
    """One row a layer (or family of tied layers, by its first) and ratio."""
    rows: list[dict[str, Any]] = []
    for number, (layers, by_ratio) in enumerate(plans.items(), 1):
        for ratio, planned in by_ratio.items():
            selection = choose(planned, scores, chosen)
            pruned, _ = prune_proven(trained, channels, selection, splits.score)
            quality = evaluate(pruned, splits.test)
            row = selection.set_index("layer").loc[layers[0]]
            rows.append(
                {
                    "layer": layers[0],
                    "index": row["index"],
                    "n_layers": len(layers),
                    "ratio": ratio,
                    "before": row["before"],
                    "n_removed": len(f"{row['removed']} {row['masked']}".split()),
                    **{name: value for name, value in quality.items() if name in COMPARED or name.startswith("n_")},
                }
            )
        written = number_text(COMPARED[0])
        curve = ", ".join(f"{row['ratio']:g} {written(row[COMPARED[0]])}" for row in rows[-len(by_ratio) :])
        log.info(f"sensitivity: {layers[0]} ({number}/{len(plans)}): {label(COMPARED[0])} {curve}")
    return pd.DataFrame(rows)
