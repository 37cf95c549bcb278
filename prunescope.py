"""The Python interface: scores, selection, exact removal and rank correlations for any network of your own.

These names and their signatures stay as they are; everything else in the project may move.
"""

from pathlib import Path

import pandas as pd
import torch
from hydra.utils import instantiate
from jaxtyping import Float
from omegaconf import OmegaConf
from torch import Tensor, nn

from analysis.applicability import applicability
from analysis.similarity import pooled_spearman, spearman
from criteria.criterion import Criterion
from runners.data.resident import Images
from runners.data.source import Source
from runners.pruning import proof as proving
from runners.pruning import prune as pruning
from runners.pruning import remove as removing
from runners.pruning.remove import mask
from runners.pruning.saved import Pruned, load_pruned, save_pruned
from runners.scoring.score import Ranking, score
from runners.selection.rule import Rule
from runners.selection.select import removed_filters, select
from runners.tracing.channels import Channels, Removed, trace_channels

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


def remove(
    network: nn.Module, channels: Channels, removed: Removed, *, images: Source | None = None, prove: bool = True
) -> nn.Module:
    """A smaller copy of `network`, without the filters `removed` (layer -> indices) and all that only served them.

    It computes what `mask` computes, which is tried out unless `prove` is false: on the first of `images`, or on random
    ones, in eval and in training mode. The network, its mode and all random generators stay as they are.

    Raises:
        ConfigError: a filter that may not go, filters tied to it that would stay, or a grouped convolution whose groups
            would no longer be equal.
        RemovalError: the smaller network computes something else; the message names the first layer where they part.
    """
    smaller = removing.remove(network, channels, removed)
    if prove:
        proving.prove(network, smaller, channels, removed, _shown(channels, images))
    return smaller


def prune(
    network: nn.Module, channels: Channels, selection: pd.DataFrame, *, images: Source | None = None, prove: bool = True
) -> nn.Module:
    """A copy of `network` without the filters that `selection` removes, and with those it masks at zero.

    Proven as by `remove`.

    Raises:
        ConfigError: filters that may not go.
        RemovalError: as `remove`.
    """
    smaller = pruning.prune(network, channels, selection)
    if prove:
        whole = pruning.zeroed(network, channels, selection)
        proving.prove(whole, smaller, channels, removed_filters(selection), _shown(channels, images))
    return smaller


def _shown(channels: Channels, images: Source | None) -> Float[Tensor, "images channels h w"]:
    """The first of `images`, or random ones of the shape that was traced."""
    if images is not None:
        return proving.some_of(images)
    return torch.randn(proving.N_IMAGES, *channels.image, generator=torch.Generator().manual_seed(0))
