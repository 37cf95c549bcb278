"""The groups of filters of a network: which stay or go together, which may not go, which must stay even in number.

A convolution gives each of its output channels a new id (see `ids` for an example). Data movement runs on the ids as it
is; a sum or a depthwise convolution unites the ids that meet; a channel that is provably zero has id 0. A negative id
marks a channel that is not 0 when its filter is 0 (behind a sigmoid it is 0.5): it must not reach a convolution. At the
end, united ids form groups: filters that stay or go together.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd

from runners.process.errors import ConfigError, first_line
from runners.tracing.evenness import Groups, even_parts
from runners.tracing.ids import IdWalk
from runners.tracing.record import Ids, Record
from runners.tracing.shapes import ShapeWalk
from runners.tracing.sizes import Sizes, network_sizes
from runners.tracing.walk import attribute, modules_by_name

Removed = Mapping[str, Sequence[int]]  # layer -> filters that go
PLACE = "place"  # the key in a node's `meta`: the module it belongs to


@dataclass(frozen=True)
class Channels:
    """The groups of filters of one network.

    Args:
        writes: convolution or linear layer -> group of each of its output channels, in order of execution.
        reads: module -> group of each input channel or feature (convolutions, linear layers, normalisations, PReLU); and
            parameter or buffer with a number for every channel -> group of each.
        fixed: group -> why none of its filters may go. Group 0 is the channels that are provably zero.
        convolutions: the convolutions, in order of execution.
        parts: layer -> part of each filter, where every part must lose equally many because a grouped convolution
            reads or writes them; a layer that need not stay even is not in it.
        norms: convolution -> the first BatchNorm that reads its output and nothing else, where there is one.
        sizes: what the modules cost.
        gates: the layers that write, convolutions aside, whose channels meet no convolution's in a sum: in products (the
            factors of attention), or not at all.
        only_training: those among the layers that write which run in training mode alone (auxiliary heads).
        image: the shape of the image by which the channels were followed.
    """

    writes: Mapping[str, Groups]
    reads: Mapping[str, Groups]
    fixed: Mapping[int, str]
    convolutions: tuple[str, ...]
    parts: Mapping[str, Int64[np.ndarray, " filters"]] = field(default_factory=dict)
    norms: Mapping[str, str] = field(default_factory=dict)
    sizes: Sizes = field(default_factory=Sizes)
    gates: frozenset[str] = frozenset()
    only_training: frozenset[str] = frozenset()
    image: tuple[int, ...] = ()

    @property
    def linear(self) -> tuple[str, ...]:
        """The linear layers, in order of execution."""
        return tuple(layer for layer in self.writes if layer not in self.convolutions and layer not in self.only_training)

    @cached_property
    def partners(self) -> Mapping[str, tuple[str, ...]]:
        """Layer -> the other layers that write one of its groups, in order of execution."""
        names = list(self.writes)
        rows = np.repeat(np.arange(len(names)), [len(groups) for groups in self.writes.values()])
        columns = np.concatenate([*self.writes.values(), [0]])[:-1]  # never empty, and of whole numbers
        shape = (len(names) or 1, int(columns.max(initial=0)) + 1)
        writing = csr_matrix((np.ones(len(rows), dtype=np.int64), (rows, columns)), shape)
        sharing = csr_matrix(writing @ writing.T).sorted_indices()
        return {
            name: tuple(names[other] for other in sharing.indices[start:end] if other != place)
            for place, (name, (start, end)) in enumerate(zip(names, pairwise(sharing.indptr), strict=False))
        }

    @cached_property
    def obstacles(self) -> Mapping[str, str]:
        """Layer -> why its filters cannot be ranked one by one; empty if they can."""
        return {layer: self._obstacle(layer, partners) for layer, partners in self.partners.items()}

    def obstacle(self, layer: str) -> str:
        """The obstacle of one layer; empty if its filters can be ranked one by one."""
        return self.obstacles[layer]

    def reason(self, layer: str) -> str:
        """Reason why the first of the layer's fixed groups may not go; empty if none is fixed."""
        return next((self.fixed[group] for group in self.writes[layer].tolist() if group in self.fixed), "")

    def _obstacle(self, layer: str, partners: Sequence[str]) -> str:
        """A layer that only gives factors goes along with the filters that it weighs, and is no obstacle."""
        if tied := [partner for partner in partners if partner not in self.gates]:
            return f"tied to {tied[0]}" + (f" and {len(tied) - 1} more" if len(tied) > 1 else "")
        alone = len(np.unique(self.writes[layer])) == len(self.writes[layer])
        return self.reason(layer) or ("" if alone else "tied to each other")


def trace_channels(network: nn.Module, example: Float[Tensor, "1 channels h w"]) -> Channels:
    """Follows every channel of `network` from the filter that writes it to the modules that read it.

    Raises:
        ConfigError: the network cannot be traced; the message names the module and the reason.
    """
    tracer, only_training = _Tracer(), frozenset[str]()
    by_name = modules_by_name(network)
    running: ShapeWalk | IdWalk | None = None
    try:
        with mode_of(network, training=False), torch.no_grad():
            # Tracing may leave constants on the network, so it gets one of its own around the same modules.
            around = copy(network)
            graph = tracer.trace(around)
            running = ShapeWalk(around, graph, by_name)
            running.run(example)
            running = IdWalk(around, graph, by_name, Record())
            running.run(example)
            norms = _norms(graph, running)
            if _unreached(by_name, graph):
                only_training = _walk_in_training(network, example, by_name, running.record)
    except Exception as error:  # whatever the forward pass of a foreign network raises when it is traced
        place = running.node.meta[PLACE] if running and running.node else "".join(tracer.inside[-1:])
        where = f"in {place}: " if place else ""
        raise ConfigError(
            f"{type(network).__name__} cannot be traced ({where}{first_line(error)}); torch.fx must be able to follow its "
            "forward pass; keep data-dependent Python out of forward, or choose another model"
        ) from error
    record = running.record
    found = {name: by_name[name] if name in by_name else attribute(around, name) for name in record.reads}
    sizes = network_sizes(network, graph, found, record.reads)
    return replace(_grouped(record, norms, sizes), only_training=only_training, image=tuple(example.shape[1:]))


def _unreached(by_name: Mapping[str, nn.Module], graph: fx.Graph) -> bool:
    """True if some module with parameters takes no part in the forward pass."""
    used = [str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")]
    reached = set(used) | {name.rpartition(".")[0] for name in used}
    inside = tuple(f"{name}." for name in used)
    return any(module._parameters and not (name in reached or name.startswith(inside)) for name, module in by_name.items())


def _walk_in_training(network: nn.Module, example: Tensor, by_name: Mapping[str, nn.Module], record: Record) -> frozenset[str]:
    """Follows the channels into what runs in training mode alone; the layers found there, of which no filter may go.

    Only Python's branches are taken as in training mode: all modules are run in eval mode, so that nothing changes them.
    """
    before, n_convolutions = set(record.writes), len(record.convolutions)
    with suppress(Exception):  # a branch that cannot be followed: the proof of every removal runs it
        with mode_of(network, training=True):
            around = copy(network)
            graph = _Tracer().trace(around)
        with torch.random.fork_rng(devices=[]):
            ShapeWalk(around, graph, by_name).run(example)
        IdWalk(around, graph, by_name, record).run(example)
    found = frozenset(record.writes) - before
    for layer in found:
        record.fix(record.writes[layer], reason="runs in training mode only")
    del record.convolutions[n_convolutions:]
    return found


def follow(network: nn.Module) -> fx.GraphModule:
    """The graph of the network's forward pass in the mode it is in, on its own parameters."""
    return fx.GraphModule(network, _Tracer().trace(network))


def _grouped(record: Record, norms: Mapping[str, str], sizes: Sizes) -> Channels:
    """All that was united, as groups."""
    groups, added = _united(record, [*record.united, *record.scaled]), _united(record, record.united)
    fixed: dict[int, str] = {}
    for number, reason in record.fixed.items():
        fixed.setdefault(int(groups[number]), reason)
    writes = {name: groups[ids.numpy()] for name, ids in record.writes.items()}
    reads = {name: groups[ids.numpy()] for name, ids in record.reads.items()}
    parts, uneven = even_parts(writes, reads, record.grouped)
    convolved = np.concatenate([added[:0], *(added[record.writes[name].numpy()] for name in record.convolutions)])
    others = [name for name in writes if name not in record.convolutions]
    gates = frozenset(name for name in others if not np.isin(added[record.writes[name].numpy()], convolved).any())
    return Channels(writes, reads, uneven | fixed, tuple(record.convolutions), parts, norms, sizes, gates)


def _united(record: Record, pairs: Sequence[Ids]) -> Groups:
    """Id -> its group."""
    a, b = torch.cat([torch.zeros(2, 0, dtype=torch.int64), *pairs], dim=1).numpy()
    graph = coo_matrix((np.ones(len(a)), (a, b)), shape=(record.n_ids, record.n_ids))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _norms(graph: fx.Graph, walk: IdWalk) -> dict[str, str]:
    """The BatchNorm of each convolution: nothing else flows into it, and its channels are that layer's filters in order."""
    found: dict[str, str] = {}
    reads, writes = walk.record.reads, walk.record.writes
    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(walk.by_name[node.target], _BatchNorm):
            continue
        source = node.all_input_nodes[0]
        while len(source.all_input_nodes) == 1 and source.target not in writes:
            source = source.all_input_nodes[0]
        if source.target in walk.record.convolutions and torch.equal(reads[node.target], writes[source.target]):
            found.setdefault(source.target, node.target)
    return found


class _Tracer(fx.Tracer):
    """Keeps subclasses of PyTorch's layers (timm's BatchNorm with activation, for one) whole; knows where it is.

    Args:
        inside: the modules whose forward pass is being followed; after a failure, those that it was in.
    """

    proxy_buffer_attributes = True

    def __init__(self) -> None:
        super().__init__()
        self.inside: list[str] = []

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _ConvNd | nn.Linear | _NormBase) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        path = self.path_of_module(m)
        if self.is_leaf_module(m, path):
            return self.create_proxy("call_module", path, args, kwargs)
        self.inside.append(path)
        result = forward(*args, **kwargs)
        self.inside.pop()
        return result

    def create_node(
        self,
        kind: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str | None = None,
        type_expr: Any | None = None,
    ) -> fx.Node:
        node = super().create_node(kind, target, args, kwargs, name, type_expr)
        node.meta[PLACE] = target if kind == "call_module" else "".join(self.inside[-1:])
        return node


@contextmanager
def mode_of(network: nn.Module, *, training: bool) -> Iterator[None]:
    """The network in training or eval mode, and afterwards every module in the mode it was in."""
    modes = {module: module.training for module in modules_by_name(network).values()}
    if all(mode == training for mode in modes.values()):
        yield
        return
    try:
        network.train(training)
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
