"""One-shot pruning, as the papers do it."""

from collections.abc import Mapping

from torch import nn

from analysis.figures import learning_curves, spearman_by_layer
from analysis.similarity import spearman
from analysis.texts import accuracy_text, headline, selection_text, spearman_text
from runners.data.splits import Splits
from runners.measuring.accuracy import accuracy
from runners.measuring.recalibrate import recalibrate
from runners.pruning.proof import prune_proven
from runners.pruning.saved import Pruned
from runners.results import Results, accuracy_table, histories_table, score_tables
from runners.scoring.score import Ranking, check_rankable, score
from runners.selection.plan import plan
from runners.selection.reasons import remarks
from runners.selection.rule import Rule
from runners.selection.select import choose, removed_filters
from runners.stages import SCORES, SELECTION, TRAINED, TUNED
from runners.storage.stages import Stages
from runners.tracing.channels import trace_channels
from runners.training.fit import Fit


def run(
    *,
    splits: Splits,
    model: nn.Module,
    criteria: Mapping[str, Ranking],
    chosen: str,
    rule: Rule,
    train: Fit,
    finetune: Fit,
    fresh: nn.Module | None,
    stages: Stages,
    score_batch_size: int,
) -> Results:
    """Train, score by every criterion, prune once by the chosen one, fine-tune (NeurIPS'21, section 1).

    Or train what is left from `fresh` weights, the control of Liu et al. 2019.
    """
    channels = trace_channels(model, splits.example)
    planned = plan(channels, rule)
    check_rankable(model, channels, criteria, chosen)
    trained, training = stages.network(TRAINED, model, lambda unfinished: train(model, splits, unfinished))
    scores = stages.table(SCORES, lambda: score(trained, channels, criteria, splits.score, batch_size=score_batch_size))
    selection = stages.table(SELECTION, lambda: choose(planned, scores, chosen))
    pruned, difference = prune_proven(trained, channels, selection, splits.score)
    with stages.timed("recalibrated"):
        recalibrated = recalibrate(pruned, splits.score)
    start = pruned if fresh is None else prune_proven(fresh, channels, selection, splits.score)[0]
    tuned, tuning = stages.network(TUNED, pruned, lambda unfinished: finetune(start, splits, unfinished))
    histories = {"trained": training, "tuned": tuning}
    with stages.timed("measured"):
        networks = {"trained": trained, "pruned": pruned, "recalibrated": recalibrated, "tuned": tuned}
        measured = accuracy(networks, splits, histories, {"pruned": difference})
    rho, history = spearman(scores), histories_table(histories)
    return Results(
        tables={
            "accuracy": accuracy_table(measured),
            **score_tables(scores, rho),
            "selection": selection,
            "history": history,
        },
        figures={"spearman": spearman_by_layer(rho), "history": learning_curves(history)},
        networks={"tuned": Pruned(tuned, channels, removed_filters(selection), splits.example)},
        text="\n".join([accuracy_text(measured), selection_text(selection), *remarks(planned, selection), spearman_text(rho)]),
        headline=headline(measured),
    )
