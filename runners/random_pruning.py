"""Random filters, drawn many times, against the same filters with other fine-tuning seeds: does it matter which go?"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import pandas as pd
from annotated_types import Ge, Le, MaxLen, MinLen
from torch import nn

from analysis.columns import shown
from analysis.figures import learning_curves, random_points, spearman_by_layer
from analysis.similarity import spearman
from analysis.spread import random_spread
from analysis.texts import accuracy_text, headline, selection_text, spearman_text, spread_text
from runners.data.splits import Splits
from runners.measuring.accuracy import accuracy
from runners.measuring.evaluate import evaluate
from runners.process.errors import ConfigError
from runners.pruning.proof import prune_proven
from runners.results import Results, Table, accuracy_table, histories_table, score_tables
from runners.scoring.score import Ranking, check_rankable, score
from runners.selection.draw import check_window, draw
from runners.selection.plan import plan
from runners.selection.reasons import remarks
from runners.selection.rule import Rule
from runners.selection.select import masked_filters, removed_filters
from runners.stages import DATASET, SCORES, TRAINED
from runners.storage.keys import Stage
from runners.storage.stages import Stages
from runners.tasks.classification import CLASSIFICATION
from runners.tracing.channels import Channels, trace_channels
from runners.training.fit import Fit

log = logging.getLogger(__name__)
ALL_FILTERS = [0, 1]
LEADING = CLASSIFICATION.compared[0]
# The filters that are gone and the seed are added for each repeat.
REPEAT = Stage("repeat", 1, after=(TRAINED, DATASET), options=("optimizer", "finetune", "precision"))


@dataclass(frozen=True)
class Repeat:
    """One fine-tuning: of the filters of which draw, with which seed."""

    draw: int
    finetune_seed: int

    @property
    def stage(self) -> str:
        """Its name among the stages."""
        return f"repeat/draw{self.draw}_seed{self.finetune_seed}"


def run(
    *,
    splits: Splits,
    model: nn.Module,
    criteria: Mapping[str, Ranking],
    chosen: str,
    score_batch_size: int,
    rule: Rule,
    seed: int,
    repeats: Annotated[int, Ge(2)],
    window: Annotated[Sequence[Annotated[float, Ge(0), Le(1)]], MinLen(2), MaxLen(2)],
    vary: Annotated[Sequence[Literal["filters", "seeds"]], MinLen(1), MaxLen(2)],
    train: Fit,
    finetune_as: Callable[[str, int], Fit],
    stages: Stages,
) -> Results:
    """Train, score, and again and again remove random filters and fine-tune.

    The table `accuracy` and the learning curves are of the first repeat.

    Source:
        Huang et al. 2021, table 4; it varies the filters alone, and has no control.
    """
    repeated = planned(vary, repeats, seed)
    channels = trace_channels(model, splits.example)
    rule_plan = plan(channels, rule)
    check_window(rule_plan, window, needs_choice="filters" in vary)
    check_rankable(model, channels, criteria, chosen)
    trained, training = stages.network(TRAINED, model, lambda unfinished: train(model, splits, unfinished))
    scores = stages.table(SCORES, lambda: score(trained, channels, criteria, splits.score, batch_size=score_batch_size))
    each = list(dict.fromkeys(repeat for found in repeated.values() for repeat in found))
    draws = {
        number: draw(scores, chosen, rule_plan, window=window, seed=seed, repeat=number)
        for number in dict.fromkeys(repeat.draw for repeat in each)
    }
    first, difference = prune_proven(trained, channels, draws[0], splits.score)
    networks = {"trained": trained, "pruned": first}
    with stages.timed("measured"):
        pruned = {
            number: evaluate(prune_proven(trained, channels, drawn, splits.score)[0], splits.test)
            for number, drawn in draws.items()
        }
    tuned: dict[Repeat, Mapping[str, Any]] = {}
    histories: dict[Repeat, pd.DataFrame] = {}
    for repeat in each:
        network, histories[repeat] = _tuned(repeat, trained, channels, draws[repeat.draw], splits, finetune_as, stages)
        networks.setdefault("tuned", network)
        with stages.timed("measured"):
            tuned[repeat] = evaluate(network, splits.test)
        before, after = (shown(LEADING, found[LEADING]) for found in (pruned[repeat.draw], tuned[repeat]))
        log.info(f"{repeat.stage}: {before} pruned, {after} tuned")
    with stages.timed("measured"):
        measured = accuracy(networks, splits, {"trained": training, "tuned": histories[each[0]]}, {"pruned": difference})
    found = _rows(repeated, pruned, tuned)
    spread, rho = random_spread(found), spearman(scores)
    history = histories_table({"trained": training, **{repeat.stage: part for repeat, part in histories.items()}})
    about = {
        "pruned_by": "random",
        "window": f"{window[0]:g}-{window[1]:g}",
        "window_of": "no criterion" if list(window) == ALL_FILTERS else chosen,
    }
    drawn = pd.concat([rows.assign(repeat=number) for number, rows in draws.items()], ignore_index=True)
    curves = learning_curves(history[history["stage"].isin(["trained", each[0].stage])])
    return Results(
        tables={
            "accuracy": accuracy_table(measured.assign(**about)),
            "random_pruning": found.assign(**about),
            "random_spread": Table(
                spread.assign(**about), by=("vary",), values=("min_pct", "max_pct", "mean_pct", "delta_pct", "sd_pct")
            ),
            "draws": drawn.assign(**about),
            "history": history.assign(**about),
            **score_tables(scores, rho),
        },
        figures={
            "random_pruning": random_points(found, spread, measured),
            "spearman": spearman_by_layer(rho),
            "history": curves,
        },
        text="\n".join(
            [
                accuracy_text(measured),
                selection_text(draws[0]),
                *remarks(rule_plan, draws[0]),
                spread_text(spread),
                spearman_text(rho),
            ]
        ),
        headline=headline(measured),
    )


def planned(vary: Sequence[str], repeats: int, seed: int) -> dict[str, list[Repeat]]:
    """Repeats of each kind of variation; the first of each is the same fine-tuning.

    Raises:
        ConfigError: a kind that is named twice.
    """
    if len(set(vary)) < len(vary):
        raise ConfigError(
            f"runner.vary=[{','.join(vary)}] names something twice; once is allowed; try runner.vary=[filters,seeds]"
        )
    kinds = {
        "filters": [Repeat(number, seed) for number in range(repeats)],
        "seeds": [Repeat(0, seed + number) for number in range(repeats)],
    }
    return {name: kinds[name] for name in vary}


def _tuned(
    repeat: Repeat,
    trained: nn.Module,
    channels: Channels,
    drawn: pd.DataFrame,
    splits: Splits,
    finetune_as: Callable[[str, int], Fit],
    stages: Stages,
) -> tuple[nn.Module, pd.DataFrame]:
    """The network without the filters of a draw, fine-tuned, and its history."""
    pruned, _ = prune_proven(trained, channels, drawn, splits.score)
    gone = [{layer: sorted(numbers) for layer, numbers in part(drawn).items()} for part in (removed_filters, masked_filters)]
    which = {"removed": gone[0], "masked": gone[1], "finetune_seed": repeat.finetune_seed}
    finetune = finetune_as(repeat.stage, repeat.finetune_seed)
    return stages.network(
        replace(REPEAT, which=which, place=repeat.stage), pruned, lambda unfinished: finetune(pruned, splits, unfinished)
    )


def _rows(
    repeated: Mapping[str, Sequence[Repeat]],
    pruned: Mapping[int, Mapping[str, Any]],
    tuned: Mapping[Repeat, Mapping[str, Any]],
) -> pd.DataFrame:
    """One row a repeat of whatever varies."""
    return pd.DataFrame(
        {
            "vary": vary,
            "repeat": number,
            "finetune_seed": repeat.finetune_seed,
            f"pruned_{LEADING}": pruned[repeat.draw][LEADING],
            f"tuned_{LEADING}": tuned[repeat][LEADING],
            **{name: value for name, value in tuned[repeat].items() if name.startswith("n_")},
        }
        for vary, repeats in repeated.items()
        for number, repeat in enumerate(repeats)
    )
