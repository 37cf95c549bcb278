"""Iterative pruning: some filters go, the network is fine-tuned and scored anew, and so on."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

import pandas as pd
from annotated_types import Ge
from torch import nn

from analysis.figures import learning_curves, spearman_by_layer
from analysis.similarity import spearman
from analysis.texts import accuracy_text, headline, selection_text, spearman_text
from runners.data.splits import Splits
from runners.measuring.accuracy import accuracy
from runners.pruning.proof import prune_proven
from runners.pruning.saved import Pruned
from runners.results import Results, accuracy_table, histories_table, score_tables
from runners.scoring.score import Ranking, check_rankable, score
from runners.selection.draft import with_ratio
from runners.selection.plan import plan
from runners.selection.reasons import remarks
from runners.selection.rounds import Gone, gone_by, in_current_numbers, in_original_numbers, rules_of_rounds
from runners.selection.rule import Rule
from runners.selection.select import choose, removed_filters
from runners.stages import DATASET, SCORES, SELECTION, TRAINED, TUNED
from runners.storage.keys import Stage
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
    rule: Rule,
    rounds: Annotated[int, Ge(1)],
    pace: Literal["linear", "geometric"],
    train: Fit,
    finetune: Fit,
    stages: Stages,
) -> Results:
    """Train; then, round after round, score what is left, prune by the chosen criterion, fine-tune.

    Filters keep the numbers that they have in the trained network. Spearman's rho is that of the first round's scores.

    Source:
        Molchanov et al. 2017, section 2; one round is one-shot pruning.
    """
    rules = rules_of_rounds(rule, rounds, pace)
    channels = trace_channels(model, splits.example)
    last = plan(channels, rule)
    check_rankable(model, channels, criteria, chosen)
    trained, training = stages.network(TRAINED, model, lambda unfinished: train(model, splits, unfinished))
    networks, histories = {"trained": trained}, {"trained": training}
    differences: dict[str, float] = {}
    scored: list[pd.DataFrame] = []
    selected: list[pd.DataFrame] = []

    def prune_some(network: nn.Module, gone: Gone, number: int, before: Stage) -> tuple[nn.Module, Stage]:
        scores, selection, tuned = stages_of_round(before, number, rounds, pace)
        planned = with_ratio(last, rules[number - 1].ratio)
        here = trace_channels(network, splits.example)
        found = stages.table(
            scores,
            lambda: in_original_numbers(score(network, here, criteria, splits.score, batch_size=score_batch_size), gone),
        )
        chosen_now = stages.table(selection, lambda: choose(planned, found, chosen, gone.of))
        pruned, differences[f"pruned_{number}"] = prune_proven(
            network, here, in_current_numbers(chosen_now, gone), splits.score
        )
        smaller, tuning = stages.network(tuned, pruned, lambda unfinished: finetune(pruned, splits, unfinished))
        networks.update({f"pruned_{number}": pruned, f"tuned_{number}": smaller})
        histories[f"tuned_{number}"] = tuning
        scored.append(found.assign(round=number))
        selected.append(chosen_now.assign(round=number))
        return smaller, tuned

    network, gone, before = trained, Gone(), TRAINED
    for number in range(1, rounds + 1):
        network, before = prune_some(network, gone, number, before)
        gone = gone_by(selected[-1])
    with stages.timed("measured"):
        measured = accuracy(networks, splits, histories, differences)
    rho, history = spearman(scored[0]), histories_table(histories)
    return Results(
        tables={
            "accuracy": accuracy_table(measured),
            **score_tables(pd.concat(scored, ignore_index=True), rho),
            "selection": pd.concat(selected, ignore_index=True),
            "history": history,
        },
        figures={"spearman": spearman_by_layer(rho), "history": learning_curves(history)},
        networks={"tuned": Pruned(network, channels, removed_filters(selected[-1]), splits.example)},
        # The counts of the last round are of the original filters.
        text="\n".join(
            [accuracy_text(measured), selection_text(selected[-1]), *remarks(last, selected[-1]), spearman_text(rho)]
        ),
        headline=headline(measured),
    )


def stages_of_round(before: Stage, number: int, rounds: int, pace: str) -> tuple[Stage, Stage, Stage]:
    """Scores, selection and fine-tuning of one round, each made from the one before.

    Args:
        before: the training, or the fine-tuning of the round before.
    """
    round_ = [rounds, pace, number]
    scores = replace(SCORES, after=(before, DATASET), round=round_, place=f"scores_{number}")
    selection = replace(SELECTION, after=(scores, DATASET), round=round_, place=f"selection_{number}")
    return scores, selection, replace(TUNED, after=(selection, DATASET), round=round_, place=f"tuned_{number}")
