"""The scores of a network as it is, without pruning it."""

from collections.abc import Mapping

from torch import nn

from analysis.figures import learning_curves, spearman_by_layer
from analysis.similarity import spearman
from analysis.texts import accuracy_text, headline, spearman_text
from runners.data.splits import Splits
from runners.measuring.accuracy import accuracy
from runners.results import Results, accuracy_table, histories_table, score_tables
from runners.scoring.score import Ranking, score
from runners.stages import SCORES, TRAINED
from runners.storage.stages import Stages
from runners.tracing.channels import trace_channels
from runners.training.fit import Fit


def run(
    *, splits: Splits, model: nn.Module, criteria: Mapping[str, Ranking], train: Fit, stages: Stages, score_batch_size: int
) -> Results:
    """Train (or take given weights), measure, score by every criterion, correlate."""
    channels = trace_channels(model, splits.example)
    trained, training = stages.network(TRAINED, model, lambda unfinished: train(model, splits, unfinished))
    scores = stages.table(SCORES, lambda: score(trained, channels, criteria, splits.score, batch_size=score_batch_size))
    with stages.timed("measured"):
        measured = accuracy({"trained": trained}, splits, {"trained": training})
    rho, history = spearman(scores), histories_table({"trained": training})
    return Results(
        tables={
            "accuracy": accuracy_table(measured),
            **score_tables(scores, rho),
            "history": history,
        },
        figures={"spearman": spearman_by_layer(rho), "history": learning_curves(history)},
        text=f"{accuracy_text(measured)}\n{spearman_text(rho)}",
        headline=headline(measured),
    )
