"""The scores of a network as it is, without pruning it."""

from collections.abc import Mapping

from torch import nn

from analysis.figures import learning_curves, spearman_by_layer
from analysis.similarity import spearman
from runners.data.splits import Splits
from runners.measuring.accuracy import accuracy
from runners.results import Results
from runners.scoring.score import Ranking, score
from runners.storage.stages import Stages
from runners.tracing.channels import trace_channels
from runners.training.fit import Fit


def run(
    *, splits: Splits, model: nn.Module, criteria: Mapping[str, Ranking], train: Fit, stages: Stages, score_batch_size: int
) -> Results:
    """Train (or take given weights), measure, score by every criterion, correlate."""
    channels = trace_channels(model, splits.example)
    trained, training = stages.network("trained", model, lambda unfinished: train(model, splits, unfinished))
    scores = stages.table("scores", lambda: score(trained, channels, criteria, splits.score, batch_size=score_batch_size))
    with stages.timed("measured"):
        measured = accuracy({"trained": trained}, splits, {"trained": training})
    rho = spearman(scores)
    history = training.assign(stage="trained")
    tables = {"accuracy": measured, "spearman": rho, "scores": scores, "history": history}
    return Results(tables, {"spearman": spearman_by_layer(rho), "history": learning_curves(history)})
