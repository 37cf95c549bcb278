"""Several trainings at once on one GPU: each on a stream and with a generator of its own, a step at a time in turn."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

import torch

Result = TypeVar("Result")
Steps = Generator[None, None, Result]
Lane = Callable[[], AbstractContextManager[None]]


def together(works: Sequence[Steps[Result]], device: torch.device) -> list[Result]:
    """What all `works` come to; each pauses after every step it has handed to the device.

    On a GPU their steps run side by side, to the same bits as alone. On a CPU they run one after the other.

    Raises:
        Exception: the first that one of them raised; on a GPU, after the others have ended.
    """
    if device.type == "cpu":
        return [_finish(work) for work in works]
    outer = torch.cuda.current_stream(device)
    lanes = [_CudaLane(device) for _ in works]
    try:
        return in_turn(works, [lane.enter for lane in lanes])
    finally:
        for lane in lanes:
            outer.wait_stream(lane.stream)


def in_turn(works: Sequence[Steps[Result]], lanes: Sequence[Lane]) -> list[Result]:
    """Steps every work in its own lane, round and round, until all have ended.

    Raises:
        Exception: the first that one of them raised, after the others have ended.
    """
    results: dict[int, Result] = {}
    errors: list[Exception] = []
    running = dict(enumerate(zip(works, lanes, strict=True)))
    while running:
        for number, (work, lane) in list(running.items()):
            try:
                with lane():
                    next(work)
                continue
            except StopIteration as end:
                results[number] = end.value
            except Exception as error:  # the others go on to their own ends
                errors.append(error)
            del running[number]
    if errors:
        raise errors[0]
    return [results[number] for number in range(len(works))]


def _finish(work: Steps[Result]) -> Result:
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


class _CudaLane:
    """A stream, and a state of the device's generator that no other lane advances."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
        self.stream.wait_stream(torch.cuda.current_stream(device))
        self.default = torch.cuda.default_generators[self.stream.device_index]
        self.generator = self.default.clone_state()

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Everything inside is queued on this stream and draws from this generator."""
        outer = self.default.graphsafe_get_state()
        self.default.graphsafe_set_state(self.generator)
        try:
            with torch.cuda.stream(self.stream):
                yield
        finally:
            self.default.graphsafe_set_state(outer)
