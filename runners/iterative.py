"""Iterative pruning: some filters go, the network is fine-tuned and scored anew, and so on."""

from collections.abc import Mapping, Sequence

import pandas as pd
from torch import nn

from analysis.figures import learning_curves, spearman_by_layer
from analysis.similarity import spearman
from runners.data.splits import Splits
from runners.measuring.accuracy import accuracy
from runners.pruning.prune import prune
from runners.pruning.saved import Pruned
from runners.results import Results
from runners.scoring.score import Ranking, check_rankable, score
from runners.selection.draft import Plan, with_ratio
from runners.selection.plan import plan
from runners.selection.rounds import Gone, gone_by, in_current_numbers, in_original_numbers
from runners.selection.rule import Rule
from runners.selection.select import choose, removed_filters
from runners.storage.stages import Stages
from runners.tracing.channels import trace_channels
from runners.training.fit import Fit


def run(
    *,
    splits: Splits,
    model: nn.Module,
    criteria: Mapping[str, Ranking],
    chosen: str,
    score_batch_size: int,
    rounds: Sequence[Rule],
    train: Fit,
    finetune: Fit,
    stages: Stages,
) -> Results:
    """Train; then, round after round, score what is left, prune by the chosen criterion, fine-tune.

    Filters keep the numbers that they have in the trained network. Spearman's rho is that of the first round's scores.

    Source:
        Molchanov et al. 2017, section 2; one round is one-shot pruning.
    """
    channels = trace_channels(model, splits.example)
    last = plan(channels, rounds[-1])
    check_rankable(model, channels, criteria, chosen)
    trained, training = stages.network("trained", model, lambda unfinished: train(model, splits, unfinished))
    networks, histories = {"trained": trained}, {"trained": training}
    scored: list[pd.DataFrame] = []
    selected: list[pd.DataFrame] = []

    def prune_some(network: nn.Module, gone: Gone, number: int, planned: Plan) -> nn.Module:
        here = trace_channels(network, splits.example)
        found = stages.table(
            f"scores_{number}",
            lambda: in_original_numbers(score(network, here, criteria, splits.score, batch_size=score_batch_size), gone),
        )
        selection = stages.table(f"selection_{number}", lambda: choose(planned, found, chosen, gone.of))
        pruned = prune(network, here, in_current_numbers(selection, gone))
        tuned, tuning = stages.network(f"tuned_{number}", pruned, lambda unfinished: finetune(pruned, splits, unfinished))
        networks.update({f"pruned_{number}": pruned, f"tuned_{number}": tuned})
        histories[f"tuned_{number}"] = tuning
        scored.append(found.assign(round=number))
        selected.append(selection.assign(round=number))
        return tuned

    network, gone = trained, Gone()
    for number, rule in enumerate(rounds, 1):
        network = prune_some(network, gone, number, with_ratio(last, rule.ratio))
        gone = gone_by(selected[-1])
    with stages.timed("measured"):
        measured = accuracy(networks, splits, histories)
    rho = spearman(scored[0])
    history = pd.concat([part.assign(stage=stage) for stage, part in histories.items()], ignore_index=True)
    tables = {
        "accuracy": measured,
        "spearman": rho,
        "scores": pd.concat(scored, ignore_index=True),
        "selection": pd.concat(selected, ignore_index=True),
        "history": history,
    }
    figures = {"spearman": spearman_by_layer(rho), "history": learning_curves(history)}
    return Results(tables, figures, {"tuned": Pruned(network, channels, removed_filters(selected[-1]), splits.example)})
