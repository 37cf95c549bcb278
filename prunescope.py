"""The Python interface: scores, selection, exact removal and rank correlations for any network of your own.

These names and their signatures stay as they are; everything else in the project may move.
"""

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import OmegaConf

from analysis.applicability import applicability
from analysis.similarity import pooled_spearman, spearman
from criteria.criterion import Criterion
from runners.data.resident import Images
from runners.pruning.prune import prune
from runners.pruning.remove import mask, remove
from runners.pruning.saved import Pruned, load_pruned, save_pruned
from runners.scoring.score import Ranking, score
from runners.selection.rule import Rule
from runners.selection.select import removed_filters, select
from runners.tracing.channels import Channels, trace_channels

__all__ = [
    "Channels",
    "Criterion",
    "Images",
    "Pruned",
    "Rule",
    "applicability",
    "criteria",
    "load_pruned",
    "mask",
    "pooled_spearman",
    "prune",
    "remove",
    "removed_filters",
    "save_pruned",
    "score",
    "select",
    "spearman",
    "trace_channels",
]

CRITERIA = Path(__file__).resolve().parent / "conf" / "criterion"


def criteria(*names: str, seed: int = 0) -> dict[str, Ranking]:
    """Criteria by the names that `criterion=` takes, with the options of their YAML; all of them without a name.

    Args:
        seed: of `random`.

    Raises:
        ValueError: a name that there is not.
    """
    known = sorted(path.stem for path in CRITERIA.glob("*.yaml"))
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"criterion {unknown[0]!r} is unknown; there are {', '.join(known)}")
    files = {name: OmegaConf.load(CRITERIA / f"{name}.yaml") for name in names or known}
    whole = OmegaConf.create({"seed": seed, **files})
    return {name: instantiate(whole[name], _convert_="object") for name in files}
