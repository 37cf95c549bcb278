"""How a step is computed, whatever it computes: in which precision, fused or compiled, launched or replayed."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from runners.process.errors import ConfigError, is_out_of_memory

Forward = Callable[[Tensor], Tensor]
Work = Callable[[], None]
Capture = Callable[[Work], Work]
# Steps that are launched one by one before one is captured: they load libraries and make the momentum.
WARM_UP = 3


@dataclass(frozen=True)
class Engine:
    """How steps are computed.

    Args:
        precision: `fp32`, or `bf16` for autocast around fp32 weights.
        compiled: the network goes through torch.compile, which rounds differently.
        fused: BatchNorms are joined with the ReLUs behind them; rounds differently, as more threads do.
        capture: makes a replay of a step; none launches every step. Both give the same bits.
    """

    precision: str
    compiled: bool = False
    fused: bool = False
    capture: Capture | None = None

    @property
    def arithmetic(self) -> str:
        """What a step computes, up to the rounding that hardware and the number of threads decide."""
        return f"{self.precision} compiled" if self.compiled else self.precision

    def forward(self, network: nn.Module) -> Forward:
        """The network as the steps call it."""
        if self.compiled:
            return _compiled(network)
        return _fused(network) if self.fused else network

    def repeated(self, step: Work) -> Work:
        """A step to be called many times: launched at first, replayed as soon as it is captured."""
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
        raise ConfigError(_uncapturable(str(first).splitlines()[0])) from error
    return graph.replay


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


def gains_from_fusing(network: nn.Module, device: torch.device, precision: str) -> bool:
    """Whether steps are faster fused: of a network that does the same in every step, in bf16, on one thread of a CPU.

    Fused operations run on one thread. With more, PyTorch's own are shared by all, and whole epochs were slower fused.
    """
    fixed: bool = getattr(network, "fixed_graph", False)
    return fixed and device.type == "cpu" and precision == "bf16" and torch.get_num_threads() == 1


def _fused(network: nn.Module) -> Forward:
    # The loops are compiled for those who run them.
    from runners.training.fused.network import fused

    return fused(network)


def _compiled(network: nn.Module) -> Forward:
    # The compiler is imported by those who ask for it.
    from torch._dynamo.exc import TorchDynamoException

    run = torch.compile(network, dynamic=False)

    def forward(x: Tensor) -> Tensor:
        try:
            return run(x)
        except TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(
                f"compile=true: {type(network).__name__} cannot be compiled ({reason}); torch.compile needs a C++ compiler on "
                "a CPU and Triton on a GPU; use compile=false"
            ) from error

    return forward
