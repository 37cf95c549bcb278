"""Which filter every channel of every tensor carries: one tensor of ids, pushed through the traced network.

A convolution gives each of its output channels a new id. Data movement runs on the ids as it is; a sum or a depthwise
convolution unites the ids that meet; a channel that is provably zero has id 0. A minus sign marks a channel that would
not stay zero if its filter were zeroed (a sigmoid makes 0.5 of it): it must not reach a convolution. At the end, united
ids form groups: filters that stay or go together.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.utils.flop_counter import FlopCounterMode

from runners.errors import ConfigError
from runners.pruning.ids import IdInterpreter
from runners.pruning.sizes import Sizes, network_sizes

Groups = Int64[np.ndarray, " channels"]


@dataclass(frozen=True)
class Channels:
    """The groups of filters of one network.

    Args:
        writes: convolution or linear layer -> group of each of its output channels, in order of execution.
        reads: module -> group of each input channel or feature (convolutions, linear layers, BatchNorm, PReLU).
        fixed: group -> why none of its filters may go. Group 0 is the channels that are provably zero.
        convolutions: the convolutions, in order of execution.
        parts: layer -> the part of each filter, where its filters fall into parts that must keep equal counts.
        norms: convolution -> the first BatchNorm that reads its output and nothing else, where there is one.
        sizes: what the modules cost.
    """

    writes: Mapping[str, Groups]
    reads: Mapping[str, Groups]
    fixed: Mapping[int, str]
    convolutions: tuple[str, ...]
    parts: Mapping[str, Int64[np.ndarray, " filters"]] = field(default_factory=dict)
    norms: Mapping[str, str] = field(default_factory=dict)
    sizes: Sizes = field(default_factory=Sizes)

    @property
    def linear(self) -> tuple[str, ...]:
        """The linear layers, in order of execution."""
        return tuple(layer for layer in self.writes if layer not in self.convolutions)

    def obstacle(self, layer: str) -> str:
        """Why the filters of `layer` cannot be ranked one by one; empty if they can."""
        groups = self.writes[layer]
        own = set(groups.tolist())
        tied = [other for other, theirs in self.writes.items() if other != layer and not own.isdisjoint(theirs.tolist())]
        if tied:
            return f"tied to {tied[0]}" + (f" and {len(tied) - 1} more" if len(tied) > 1 else "")
        if reasons := [self.fixed[group] for group in groups.tolist() if group in self.fixed]:
            return reasons[0]
        return "" if len(set(groups.tolist())) == len(groups) else "tied to each other"


def trace_channels(network: nn.Module, example: Float[Tensor, "1 channels h w"]) -> Channels:
    """Follows every channel of `network` from the filter that writes it to the modules that read it.

    Raises:
        ConfigError: the network cannot be traced; the message names the reason.
    """
    network = deepcopy(network).eval()
    try:
        traced = follow(network)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            ShapeProp(traced).propagate(example)
        interpreter = IdInterpreter(traced)
        interpreter.run(example)
    except Exception as error:  # whatever the forward pass of a foreign network raises when it is traced
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"{type(network).__name__} cannot be traced ({reason}); torch.fx must be able to follow its forward pass; "
            "keep data-dependent Python out of forward, or choose another model"
        ) from error
    sizes = network_sizes(traced, interpreter.reads, counter.get_total_flops() // 2)
    return _grouped(interpreter, _norms(traced, interpreter), sizes)


def follow(network: nn.Module) -> fx.GraphModule:
    """The graph of the network's forward pass in the mode it is in, on its own parameters."""
    return fx.GraphModule(network, _Tracer().trace(network))


def _grouped(interpreter: IdInterpreter, norms: Mapping[str, str], sizes: Sizes) -> Channels:
    """All that was united, as groups."""
    a, b = torch.cat([torch.zeros(2, 0, dtype=torch.int64), *interpreter.united], dim=1).numpy()
    graph = coo_matrix((np.ones(len(a)), (a, b)), shape=(interpreter.n_ids, interpreter.n_ids))
    groups = connected_components(graph, directed=False)[1].astype(np.int64)
    fixed: dict[int, str] = {}
    for number, reason in interpreter.fixed.items():
        fixed.setdefault(int(groups[number]), reason)
    return Channels(
        writes={name: groups[ids.numpy()] for name, ids in interpreter.writes.items()},
        reads={name: groups[ids.numpy()] for name, ids in interpreter.reads.items()},
        fixed=fixed,
        convolutions=tuple(interpreter.convolutions),
        norms=norms,
        sizes=sizes,
    )


def _norms(traced: fx.GraphModule, interpreter: IdInterpreter) -> dict[str, str]:
    """The BatchNorm of each convolution: nothing else flows into it, and its channels are that layer's filters in order."""
    found: dict[str, str] = {}
    for node in traced.graph.nodes:
        if node.op != "call_module" or not isinstance(traced.get_submodule(node.target), _BatchNorm):
            continue
        source = node.all_input_nodes[0]
        while len(source.all_input_nodes) == 1 and source.target not in interpreter.writes:
            source = source.all_input_nodes[0]
        if source.target in interpreter.convolutions and torch.equal(
            interpreter.reads[node.target], interpreter.writes[source.target]
        ):
            found.setdefault(source.target, node.target)
    return found


class _Tracer(fx.Tracer):
    """Keeps subclasses of PyTorch's layers (timm's BatchNorm with activation, for one) whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _ConvNd | nn.Linear | _BatchNorm) or super().is_leaf_module(m, module_qualified_name)
