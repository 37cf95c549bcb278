"""From a selection to the pruned network."""

import pandas as pd
from torch import nn

from runners.pruning.channels import Channels
from runners.pruning.remove import remove
from runners.pruning.select import masked_filters, removed_filters
from runners.pruning.zero import zero


def prune(network: nn.Module, channels: Channels, selection: pd.DataFrame) -> nn.Module:
    """A copy of `network` without the filters that `selection` removes, and with those it masks at zero.

    Raises:
        ConfigError: filters that may not go.
    """
    masked = masked_filters(selection)
    return remove(zero(network, channels, masked) if masked else network, channels, removed_filters(selection))
