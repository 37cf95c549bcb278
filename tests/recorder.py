"""A stand-in for CUDA graphs on a CPU: it records the operations of a step and runs them again."""

from collections.abc import Iterator
from itertools import chain, repeat
from typing import Any

from torch import Tensor, no_grad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from runners.training.engine import Work

ASKS_THE_HOST = {"aten::_local_scalar_dense", "aten::lift_fresh", "aten::nonzero", "aten::is_nonzero"}


class Recorder(TorchDispatchMode):
    """Notes every operation that runs, with the tensors it ran on."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in ASKS_THE_HOST:
            raise RuntimeError(f"{func._schema.name} needs the host")
        out = func(*args, **(kwargs or {}))
        if func.namespace == "profiler":
            return out
        self.calls.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        """Runs the operations again; what they make goes where it was made."""
        for func, args, kwargs, out in self.calls:
            made = func(*args, **kwargs)
            if any(value.alias_info is not None for value in func._schema.returns):
                continue  # a view, or in place
            for old, new in zip(tree_leaves(out), tree_leaves(made), strict=True):
                if isinstance(old, Tensor):
                    old.copy_(new)


def recorded(step: Work) -> Work:
    """Stands in for `cuda_graph`. Recording runs the step, so the first replay has been done by then."""
    recorder = Recorder()
    with recorder:
        step()
    replays: Iterator[Work] = chain([lambda: None], repeat(recorder.replay))

    def replay() -> None:
        with no_grad():
            next(replays)()

    return replay
