"""The scores of the convolutions in a weights file, of a network whose code is not at hand."""

from collections.abc import Mapping

from analysis.figures import spearman_by_layer
from analysis.similarity import spearman
from analysis.texts import spearman_text
from runners.process.errors import ConfigError
from runners.results import Results, score_tables
from runners.scoring.score import Ranking, from_weights, score_weights
from runners.storage.convolutions import Convolutions, unknown


def run(*, convolutions: Convolutions, criteria: Mapping[str, Ranking]) -> Results:
    """Score by every criterion that needs weights alone, and correlate.

    Raises:
        ConfigError: there is no such criterion.
    """
    possible = from_weights(criteria)
    without = [name for name in criteria if name not in possible]
    if not possible:
        raise ConfigError(
            f"model=none cannot score by {', '.join(without)}; criteria that need weights alone can be used; try criteria=norms"
        )
    scores = score_weights(convolutions.weights, possible)
    rho = spearman(scores)
    left_out = [f"Left out, for they need a network or images: {', '.join(without)}."] if without else []
    return Results(
        tables=score_tables(scores, rho),
        figures={"spearman": spearman_by_layer(rho, order=convolutions.order)},
        text="\n".join([unknown(convolutions), *left_out, spearman_text(rho)]),
        headline=f"{len(convolutions.weights)} convolutions of a file, {len(possible)} criteria",
    )
