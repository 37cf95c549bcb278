"""The convolutions of a network: numbers, sizes, what they are tied to, and which of them the run's rule ranks."""

from typing import Any

import pandas as pd
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from runners.process.errors import ConfigError
from runners.results import Results, Table
from runners.scoring.sites import paper_numbers
from runners.selection.reasons import few_ranked, no_layer_ranked
from runners.selection.rule import Rule
from runners.selection.units import Units, units_of, why_not
from runners.tracing.channels import Channels, trace_channels

SHOWN = "index layer paper_number n_filters dim kind params macs ranked obstacle".split()


def run(*, model: nn.Module, example: Float[Tensor, "1 channels h w"], rule: Rule) -> Results:
    """Trace the network, and list its convolutions as `skip` and `ratio` name them.

    Raises:
        ConfigError: a network without convolutions.
    """
    channels = trace_channels(model, example)
    units = units_of(channels, rule)
    none = [] if units.families else [no_layer_ranked(channels, rule)]
    if not channels.convolutions:
        raise ConfigError(none[0])
    rows = layers(model, channels, rule, units)
    return Results(
        tables={"layers": Table(rows, by=("layer", "index"), values=("n_filters", "dim", "params", "macs"))},
        text="\n".join([table_text(rows), totals_text(rows, channels), *none, *few_ranked(channels, rule, units)]),
        headline=f"{rows['ranked'].sum()} of {len(rows)} layers ranked",
    )


def layers(network: nn.Module, channels: Channels, rule: Rule, units: Units) -> pd.DataFrame:
    """One row a convolution, in order of execution.

    `index` counts all of them from 1, `paper_number` as the papers do (empty for the 1x1 convolution of a shortcut). `dim`:
    weights of one filter. `kind`: conv, depthwise or grouped, transposed before it where it is. `batchnorm`: the BatchNorm
    that reads it and nothing else. `tied_to`: the layers that share groups of channels with it, linear layers among them.
    `ranked` and `obstacle`: under `rule`. `params`: weights and bias of the convolution alone; parameters of its BatchNorm do
    not count. `macs`: multiply-adds of one image.
    """
    numbers = paper_numbers(network, channels)
    rows: list[dict[str, Any]] = []
    for index, layer in enumerate(channels.convolutions, 1):
        size, n_inputs, n_filters = channels.sizes.modules[layer], len(channels.reads[layer]), len(channels.writes[layer])
        ranked = layer in units.ranked
        rows.append(
            {
                "layer": layer,
                "index": index,
                "paper_number": numbers.get(layer),
                "n_filters": n_filters,
                "dim": size.weights(n_inputs, 1),
                "kind": kind(network.get_submodule(layer)),
                "batchnorm": channels.norms.get(layer, ""),
                "tied_to": " ".join(channels.partners[layer]),
                "ranked": ranked,
                "obstacle": "" if ranked else why_not(channels, rule, layer),
                "params": size.weights(n_inputs, n_filters) + size.per_channel * n_filters,
                "macs": size.macs(n_inputs, n_filters),
            }
        )
    return pd.DataFrame(rows).astype({"paper_number": "Int64"})


def kind(convolution: nn.Module) -> str:
    """`conv`, `depthwise` (a group for each of several input channels), `grouped`, `transposed`, `transposed grouped`, ..."""
    assert isinstance(convolution, _ConvNd)
    groups = convolution.groups
    parted = "" if groups == 1 else "depthwise" if groups == convolution.in_channels else "grouped"
    return " ".join(filter(None, ["transposed" if convolution.transposed else "", parted])) or "conv"


def table_text(rows: pd.DataFrame) -> str:
    """The columns that people choose layers by, obstacles in full; `batchnorm` and `tied_to` are in the file alone."""
    shown = rows[SHOWN].assign(
        paper_number=rows["paper_number"].map(str).replace("<NA>", ""),
        ranked=rows["ranked"].map({True: "yes", False: "no"}),
        params=rows["params"].map("{:,}".format),
        macs=rows["macs"].map("{:,}".format),
    )
    left = {name: f"{{:<{max(map(len, [name, *shown[name]]))}}}".format for name in ("layer", "kind", "obstacle")}
    text = shown.rename(columns={name: left[name](name) for name in left})
    lines = text.to_string(index=False, formatters={left[name](name): left[name] for name in left}).splitlines()
    return "\n".join(line.rstrip() for line in lines)


def totals_text(rows: pd.DataFrame, channels: Channels) -> str:
    """The sums of the columns, and the whole network."""
    ranked, params, macs = rows[rows["ranked"]], int(rows["params"].sum()), int(rows["macs"].sum())
    return (
        f"{len(rows)} convolutions: {rows['n_filters'].sum():,} filters, {params:,} parameters, {macs:,} multiply-adds; "
        f"{len(ranked)} are ranked: {ranked['n_filters'].sum():,} filters.\n"
        f"The whole network, with its BatchNorms and linear layers: {channels.sizes.params:,} parameters, "
        f"{channels.sizes.macs:,} multiply-adds."
    )
