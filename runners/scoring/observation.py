"""One pass over the scoring images, for all criteria together."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from criteria.criterion import DataCriterion, needs
from criteria.layer import Activations, BatchGradients, Gates, Inputs, Labelled
from runners.data.source import Source
from runners.process.errors import NumericalError
from runners.process.interruption import stop_if_requested
from runners.scoring.sites import changed_in_place, filters, find_sites
from runners.tasks.classification import summed_loss
from runners.tracing.channels import follow, mode_of

Weight = Float[Tensor, "out *kernel"]


@dataclass(frozen=True)
class Watcher:
    """A criterion that looks at one layer."""

    layer: str
    name: str
    criterion: DataCriterion


@dataclass
class Observations:
    """Sums over the batches so far; their size does not grow with the batches, but for states that join."""

    n_images: int = 0
    gradients: dict[str, Weight] = field(default_factory=dict)
    states: dict[tuple[str, str], list[Tensor]] = field(default_factory=dict)

    def keep(self, watcher: Watcher, batch: Any) -> None:
        """Adds the state of one batch to those before, or joins it to them."""
        state = watcher.criterion.reduce(batch)
        kept = self.states.setdefault((watcher.layer, watcher.name), [])
        if watcher.criterion.joins:
            kept.append(state)
        elif kept:
            kept[0] += state
        else:
            kept.append(state.double())

    def state(self, layer: str, name: str) -> Tensor | None:
        """The state of all batches; None where a layer's output was never seen."""
        kept = self.states.get((layer, name))
        return torch.cat(kept) if kept else None

    def gradient(self, layer: str) -> Weight:
        """Gradient of the mean loss over all images, one filter a row."""
        return self.gradients[layer] / self.n_images


def observe(
    network: nn.Module,
    layers: Sequence[str],
    criteria: Mapping[str, DataCriterion],
    images: Source,
    *,
    gradients: bool,
    batch_size: int,
    loss_of: Callable[[Tensor, Tensor], Tensor] = summed_loss,
) -> Observations:
    """Shows `images` once: forwards in eval mode and fp32, and backwards if a criterion needs it.

    Feature maps are reduced as they pass. The network stays as it is.

    Args:
        layers: those to look at.
        gradients: true if a criterion needs the mean gradient of their weights.
        loss_of: the task's loss of (outputs, labels), summed over images.

    Raises:
        NumericalError: the loss is not a number.
        Preempted: a signal came; scores begin anew.
    """
    of_weights = {name: each for name, each in criteria.items() if needs(each) is BatchGradients}
    at_sites = {name: each for name, each in criteria.items() if name not in of_weights}
    backward = gradients or any(needs(each) in (Gates, BatchGradients) for each in criteria.values())
    sought = {layer: network.get_parameter(f"{layer}.weight") for layer in layers if gradients or of_weights}
    seen = Observations()
    with _undisturbed(network, sought.values()) as traced, torch.set_grad_enabled(backward):
        observed = _Observed(traced, _watchers(traced, layers, at_sites), seen)
        for x, labels in images.batches(batch_size):
            stop_if_requested("while filters were scored")
            # Without weights to differentiate by, the images stand in, so that the gradient passes every layer.
            sources = list(sought.values()) or [x.requires_grad_(backward)]
            loss = loss_of(observed.show(x, labels), labels)
            _check(loss)
            if backward:
                found = torch.autograd.grad(loss, sources, allow_unused=True, materialize_grads=True)
                for layer, grad in zip(sought, found, strict=False):
                    watchers = [Watcher(layer, name, each) for name, each in of_weights.items()]
                    _take_in(network, layer, grad, len(labels), seen, watchers)
            seen.n_images += len(labels)
    return seen


def _take_in(
    network: nn.Module, layer: str, grad: Tensor, n_images: int, seen: Observations, watchers: Sequence[Watcher]
) -> None:
    """Adds one batch's gradient to the running sum and passes it to criteria that ask for gradients of single batches."""
    weight, grad = filters(network, layer), filters(network, layer, grad)
    # In float64: the sum shall not depend on how the images are cut into batches.
    total = seen.gradients.setdefault(layer, torch.zeros_like(grad, dtype=torch.float64))
    total += grad
    if watchers:
        view = BatchGradients(weight, grad / n_images, n_images)
        for watcher in watchers:
            seen.keep(watcher, view)


class _Observed(fx.Interpreter):
    """Runs a traced network and shows watchers the inputs and outputs of some nodes, and on the way back their gradients."""

    labels: Tensor

    def __init__(self, traced: fx.GraphModule, watchers: Mapping[fx.Node, list[Watcher]], seen: Observations) -> None:
        super().__init__(traced, garbage_collect_values=True)
        self.seen = seen
        self.of_inputs = {node: _asking_for(Inputs, all_) for node, all_ in watchers.items()}
        self.of_outputs = {node: _asking_for(Activations, all_) for node, all_ in watchers.items()}
        self.of_gates = {node: _asking_for(Gates, all_) for node, all_ in watchers.items()}

    def show(self, x: Tensor, labels: Tensor) -> Tensor:
        """The network's output for one batch."""
        self.labels = labels
        return self.run(x)

    def run_node(self, n: fx.Node) -> Any:
        """The node's output, unchanged."""
        if watchers := self.of_inputs.get(n):
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            found = (args[0] if args else kwargs["input"]).detach()
            self._show(watchers, Inputs(self._channels_second(watchers[0].layer, found), labels=self.labels))
        value = super().run_node(n)
        if watchers := self.of_outputs.get(n):
            self._show(watchers, Activations(self._channels_second(watchers[0].layer, value.detach()), labels=self.labels))
        if watchers := self.of_gates.get(n):
            output = value.detach().clone() if changed_in_place(self.module, n) else value.detach()
            version, labels = output._version, self.labels

            def look(grad: Tensor) -> None:
                assert output._version == version, f"{n} was overwritten before its gradient came"
                maps, slopes = (self._channels_second(watchers[0].layer, each) for each in (output, grad))
                self._show(watchers, Gates(maps, slopes, labels=labels))

            value.register_hook(look)
        return value

    def _channels_second(self, layer: str, values: Tensor) -> Tensor:
        """The input or the output of a layer, channels second: a linear layer has them last."""
        return values.movedim(-1, 1) if isinstance(self.module.get_submodule(layer), nn.Linear) else values

    def _show(self, watchers: Sequence[Watcher], view: Labelled) -> None:
        for watcher in watchers:
            left = view.images if watcher.criterion.images is None else watcher.criterion.images - self.seen.n_images
            if left > 0:
                self.seen.keep(watcher, view if left >= view.images else view.cut(0, left))


def _asking_for(view: type, watchers: Iterable[Watcher]) -> list[Watcher]:
    return [watcher for watcher in watchers if needs(watcher.criterion) is view]


def _watchers(
    traced: fx.GraphModule, layers: Iterable[str], criteria: Mapping[str, DataCriterion]
) -> dict[fx.Node, list[Watcher]]:
    """The watchers of each node; those of inputs at the layers themselves."""
    found: dict[fx.Node, list[Watcher]] = {}
    for layer in layers:
        sites = find_sites(traced, layer)
        for name, criterion in criteria.items():
            for node in sites["conv_out" if needs(criterion) is Inputs else criterion.site]:
                found.setdefault(node, []).append(Watcher(layer, name, criterion))
    return found


@contextmanager
def _undisturbed(network: nn.Module, weights: Iterable[nn.Parameter]) -> Iterator[fx.GraphModule]:
    """The graph of the network in eval mode, its `weights` differentiable; both are put back as they were."""
    frozen = [weight for weight in weights if not weight.requires_grad]
    for weight in frozen:
        weight.requires_grad_(True)
    try:
        with mode_of(network, training=False):
            yield follow(network)
    finally:
        for weight in frozen:
            weight.requires_grad_(False)


def _check(loss: Tensor) -> None:
    if not loss.isfinite():
        raise NumericalError(f"the loss over the scoring images is {float(loss)}; scores need numbers; lower the learning rate")
