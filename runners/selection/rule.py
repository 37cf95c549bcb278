"""A user's rule for what is removed, and its meaning for the layers of one network."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Decimal
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from runners.process.errors import ConfigError

ROUNDINGS = {"floor_pruned": ROUND_FLOOR, "floor_kept": ROUND_CEILING, "nearest": ROUND_HALF_UP}


@dataclass(frozen=True)
class Rule:
    """The number of filters that go, and the layers that they are taken from.

    Layers are named by their module, a pattern (`layer1.*.conv1`), or their index in order of execution, from 1 on.

    Args:
        ratio: share to remove, in [0, 1), of what `ratio_of` says; or layer -> share of its filters. An exact name or
            index counts before a pattern, a longer pattern before a shorter one; every ranked layer must have a share.
        scope: `layer` (every ranked layer loses that share) or `global` (the lowest scores of all ranked layers go).
        rounding: of what is removed: `floor_pruned` down, `floor_kept` up (what is kept down), `nearest` halves up.
            Exact in decimals: 0.29 of 100 is 29.
        min_keep: filters that stay in every layer, or (below 1) the share of them, rounded up; never fewer than one.
        start_layer: so many first convolutions are not ranked.
        normalise: of scores, before those of different layers meet: see `normalised`.
        skip: layers that are not ranked.
        ratio_of: what `ratio` is a share of: the ranked `filters`, or the `params` or `macs` of the whole network.
        coupled: filters tied to others are not ranked (`skip`), ranked with them by the sum of their scores (`group`),
            or ranked alone and zeroed in place (`mask`).

    Source:
        `start_layer`: Huang et al. 2021, figure 18. `floor_kept` and skipped layers: the scripts of Liu et al. 2019.
    """

    ratio: float | Mapping[str, float]
    scope: Literal["layer", "global"] = "layer"
    rounding: Literal["floor_pruned", "floor_kept", "nearest"] = "floor_pruned"
    min_keep: Annotated[float, Gt(0)] = 1
    start_layer: Annotated[int, Ge(0)] = 0
    normalise: Literal["none", "mean", "l2", "max", "sqrt_dim", "zscore", "rank"] = "none"
    skip: Sequence[str | int] = ()
    ratio_of: Literal["filters", "params", "macs"] = "filters"
    coupled: Literal["skip", "group", "mask"] = "skip"

    def floor(self, n_filters: int) -> int:
        """Filters that stay in a layer of `n_filters`."""
        if self.min_keep >= 1:
            return int(self.min_keep)
        return max(1, int((n_filters * exact(self.min_keep)).to_integral_value(ROUND_CEILING)))

    def skipped(self, convolutions: Sequence[str]) -> dict[str, str]:
        """Layer -> why the user wants it left alone.

        Raises:
            ConfigError: `skip` names a layer that is not there.
        """
        found = {layer: f"among the first {self.start_layer}" for layer in convolutions[: self.start_layer]}
        return found | {layer: "skipped" for key in self.skip for layer in matching(key, convolutions, "skip")}

    def shares(self, convolutions: Sequence[str]) -> dict[str, float]:
        """Layer -> share of its filters to remove, where the rule gives one.

        Raises:
            ConfigError: `ratio` names a layer that is not there, or gives one layer two shares.
        """
        if not isinstance(self.ratio, Mapping):
            return dict.fromkeys(convolutions, self.ratio)
        claims: dict[str, list[tuple[int, str, float]]] = {layer: [] for layer in convolutions}
        for key, share in self.ratio.items():
            for layer in matching(key, convolutions, "ratio"):
                claims[layer].append((len(key) if is_pattern(key) else PLAIN, key, share))
        return {layer: _share(layer, found) for layer, found in claims.items() if found}


PLAIN = 10**6  # longer than any pattern


def exact(share: float) -> Decimal:
    """A share as it was written: 0.29, not 0.28999999999999998."""
    return Decimal(f"{share:.12g}")


def num_removed(n_filters: int, ratio: float, rounding: str) -> int:
    """The part of `n_filters` that a ratio means, in exact decimal arithmetic."""
    return int((n_filters * exact(ratio)).to_integral_value(ROUNDINGS[rounding]))


def is_pattern(key: str) -> bool:
    """True for a layer's name that several layers can match."""
    return any(character in key for character in "*?[")


def matching(key: str | int, convolutions: Sequence[str], option: str) -> list[str]:
    """The layers that a name, pattern or index means; a layer whose name is a number goes by its name.

    Raises:
        ConfigError: no layer is meant; the message names the one whose name is nearest.
    """
    name = str(key)
    found = [layer for layer in convolutions if (fnmatchcase(layer, name) if is_pattern(name) else layer == name)]
    if not found and name.isdigit() and 1 <= int(name) <= len(convolutions):
        found = [convolutions[int(name) - 1]]
    if not found:
        near = difflib.get_close_matches(name, convolutions, n=1, cutoff=0.5)
        raise ConfigError(
            f"{option} names layer {name!r}, which this network has not; it has {len(convolutions)} convolutions"
            f"{f', {convolutions[0]} (1) to {convolutions[-1]}' if convolutions else ''}; "
            + (f"did you mean {near[0]}?" if near else "a preset fits one network only; runner=layers lists them")
        )
    return found


def _share(layer: str, claims: Sequence[tuple[int, str, float]]) -> float:
    """The share with the strongest claim on a layer."""
    strength, key, share = max(claims)
    for other_strength, other, other_share in claims:
        if other_strength == strength and other_share != share:
            raise ConfigError(
                f"ratio gives {layer} the share {share} by {key!r}, {other_share} by {other!r}; one is allowed; name the layer"
            )
    return share
