"""The way a step is computed, whatever it computes: its precision, compiled or not, launched or replayed."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from runners.process.errors import ConfigError, first_line, is_out_of_memory
from runners.tasks.task import Forward

Work = Callable[[], None]
Capture = Callable[[Work], Work]
# Steps that are launched before one is captured: they load libraries, and the optimizer makes its momentum.
WARM_UP = 3


@dataclass(frozen=True)
class Engine:
    """The way steps are computed.

    Args:
        precision: `fp32`, or `bf16` for autocast around fp32 weights.
        compiled: the network goes through torch.compile, which rounds differently.
        capture: makes a replay of a step; none launches every step. Both give the same bits.
    """

    precision: str
    compiled: bool = False
    capture: Capture | None = None

    @property
    def arithmetic(self) -> str:
        """Name of the precision, and of compiling; hardware and threads round differently within one name."""
        return f"{self.precision} compiled" if self.compiled else self.precision

    def forward(self, network: nn.Module) -> Forward:
        """The network as the steps call it."""
        return _compiled(network) if self.compiled else network

    def repeated(self, step: Work) -> Work:
        """The same step for many calls: the first `WARM_UP` are launched, later ones replay a capture."""
        done = 0

        def call() -> None:
            nonlocal step, done
            if self.capture and done == WARM_UP:
                step = self.capture(step)
            done += 1
            step()

        return call


def cuda_graph(step: Work) -> Work:
    """A replay of `step` from a CUDA graph of all its kernels on the current stream; capturing runs none of them.

    Raises:
        ConfigError: the step waits for the device, copies from the host or draws random numbers on the CPU.
    """
    graph = torch.cuda.CUDAGraph()
    try:
        with no_draws_on_the_cpu(), torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            step()
    except RuntimeError as error:
        # Where the step failed, the end of the capture fails as well, and hides why.
        first = error.__context__ if isinstance(error.__context__, RuntimeError) else error
        if is_out_of_memory(first):
            raise first from None
        raise ConfigError(_uncapturable(first_line(first))) from error
    return graph.replay


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """On a GPU, everything inside is queued on a new stream, since the default stream cannot be captured."""
    if device.type == "cpu":
        yield
        return
    outer, stream = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    stream.wait_stream(outer)
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        outer.wait_stream(stream)


@contextmanager
def no_draws_on_the_cpu() -> Iterator[None]:
    """Refuses work that draws random numbers on the CPU: a replay would repeat the same ones for ever.

    Raises:
        ConfigError: a generator of the CPU moved.
    """
    before = random.getstate(), torch.get_rng_state()
    yield
    if random.getstate() != before[0] or not torch.equal(torch.get_rng_state(), before[1]):
        raise ConfigError(_uncapturable("it draws random numbers on the CPU"))


def _uncapturable(reason: str) -> str:
    return (
        f"a training step cannot be captured as a CUDA graph ({reason}); network and optimizer must stay on the device; "
        "give the same command with cuda_graph=false, which goes on where this one stopped"
    )


def _compiled(network: nn.Module) -> Forward:
    # The compiler is imported by those who ask for it.
    from torch._dynamo.exc import TorchDynamoException

    run = torch.compile(network, dynamic=False)

    def forward(*inputs: Tensor) -> Tensor:
        try:
            return run(*inputs)
        except TorchDynamoException as error:
            raise ConfigError(
                f"compile=true: {type(network).__name__} cannot be compiled ({first_line(error)}); torch.compile needs a "
                "C++ compiler on a CPU and Triton on a GPU; use compile=false"
            ) from error

    return forward
