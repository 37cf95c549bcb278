"""From a selection to the pruned network."""

import pandas as pd
from torch import nn

from runners.pruning.remove import remove
from runners.pruning.zero import zero
from runners.selection.select import masked_filters, removed_filters
from runners.tracing.channels import Channels


def prune(network: nn.Module, channels: Channels, selection: pd.DataFrame) -> nn.Module:
    """A copy of `network` without the filters that `selection` removes, and with those it masks at zero.

    Raises:
        ConfigError: filters that may not go.
    """
    return remove(zeroed(network, channels, selection), channels, removed_filters(selection))


def zeroed(network: nn.Module, channels: Channels, selection: pd.DataFrame) -> nn.Module:
    """A copy of `network` with the filters at zero that `selection` masks; the network itself where it masks none."""
    masked = masked_filters(selection)
    return zero(network, channels, masked) if masked else network
