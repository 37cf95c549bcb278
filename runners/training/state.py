"""A training between two steps: its networks, optimizers and sums, and the checkpoints that keep them."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from runners.process.errors import NumericalError, ResourceError, is_out_of_memory
from runners.process.interruption import Preempted, requested
from runners.storage.facts import peak_memory_mb
from runners.storage.resume import Checkpoints
from runners.tasks.task import NETWORK

log = logging.getLogger(__name__)
CHECKPOINT_SECONDS = 300.0
# On a GPU, asking whether the loss is finite waits for the device.
STEPS_BETWEEN_CHECKS = {"cpu": 1, "cuda": 50}


@dataclass
class Training:
    """Everything that the next step depends on.

    Args:
        networks: by name, in training mode.
        optimizers: by the name of the network that each updates.
        lr: the learning rate, which all groups of parameters of all optimizers share.
        totals: what the task's steps have summed over this epoch's images so far, the loss first.
        epoch: epochs that are finished.
        step: steps of the current epoch that are finished.
        rows: one a finished epoch.
    """

    networks: dict[str, nn.Module]
    optimizers: dict[str, Optimizer]
    lr: Tensor
    totals: Tensor
    epoch: int = 0
    step: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)

    @staticmethod
    def start(
        networks: Mapping[str, nn.Module],
        optimizers: Mapping[str, Callable[..., Optimizer]],
        *,
        lr: Tensor,
        weight_decay: float,
        n_sums: int,
    ) -> "Training":
        """Copies of `networks` before the first step."""
        copies: dict[str, nn.Module] = {
            name: deepcopy(network).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
            for name, network in networks.items()
        }
        updates = {
            name: optimizer(copies[name].parameters(), lr=lr, weight_decay=weight_decay)
            for name, optimizer in optimizers.items()
        }
        training = Training(copies, updates, lr, torch.zeros(n_sums, dtype=torch.float64, device=lr.device))
        training._share_the_rate()
        return training

    def _share_the_rate(self) -> None:
        """Gives all groups of parameters one rate, and on a GPU keeps the numbers that steps count in on it, for graphs."""
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = self.lr
                if "capturable" in group:
                    group["capturable"] = self.lr.is_cuda

    def train(self) -> None:
        """Puts every network into training mode."""
        for network in self.networks.values():
            network.train()

    def end_epoch(self, row: dict[str, Any]) -> None:
        """Moves on to the next epoch."""
        self.rows.append(row)
        self.epoch, self.step = self.epoch + 1, 0
        self.totals.zero_()

    def state(self) -> dict[str, Any]:
        """Plain values and tensors, for a checkpoint."""
        generators = {"cpu": torch.get_rng_state()}
        if self.totals.is_cuda:
            generators["cuda"] = torch.cuda.get_rng_state(self.totals.device)
        return {
            "epoch": self.epoch,
            "step": self.step,
            "totals": self.totals,
            "rows": self.rows,
            "networks": {name: network.state_dict() for name, network in self.networks.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "generators": generators,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to a state, the generators included; every tensor that a step reads stays where it is.

        States of version 1 hold one network and one optimizer, under `network` and `update`.
        """
        self.epoch, self.step, self.rows = state["epoch"], state["step"], state["rows"]
        self.totals.copy_(state["totals"])
        networks = state["networks"] if "networks" in state else {NETWORK: state["network"]}
        optimizers = state["optimizers"] if "optimizers" in state else {NETWORK: state["update"]}
        for name, network in self.networks.items():
            network.load_state_dict(networks[name])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(optimizers[name])
        self._share_the_rate()
        torch.set_rng_state(state["generators"]["cpu"])
        if self.totals.is_cuda and "cuda" in state["generators"]:
            torch.cuda.set_rng_state(state["generators"]["cuda"], self.totals.device)


@dataclass
class Keeper:
    """Saves a training every few minutes, refuses states that are not finite, and ends it after a signal."""

    training: Training
    checkpoints: Checkpoints
    label: str
    saved_at: float = field(default_factory=time.monotonic)
    last: str = "none"

    def after_step(self) -> None:
        """Looks at the clock, at the signals, and now and then at the loss."""
        if self.training.step % STEPS_BETWEEN_CHECKS[self.training.totals.device.type] == 0:
            self._check(self.training.totals)
        if signal := requested():
            self.save()
            raise Preempted(f"{signal} came in {self._where()}; the state is saved; give the same command to go on")
        if time.monotonic() - self.saved_at >= CHECKPOINT_SECONDS:
            self.save()

    def save(self) -> None:
        """Writes a checkpoint of a finite state."""
        self.check_finite()
        path = self.checkpoints.save(self.training.state())
        self.last = f"epoch {self.training.epoch + 1}, step {self.training.step}: {path}"
        self.saved_at = time.monotonic()

    def check_finite(self) -> None:
        """Looks at the loss and at every weight.

        Raises:
            NumericalError: one of them is not finite.
        """
        weights = (weight for network in self.training.networks.values() for weight in network.parameters())
        self._check(self.training.totals, *weights)

    def _check(self, *tensors: Tensor) -> None:
        if bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all()):  # waits for the device once
            return
        loss, rate = float(self.training.totals[0]), float(self.training.lr)
        what = "a weight is not finite" if math.isfinite(loss) else f"the loss is {loss}"
        raise NumericalError(
            f"{what} in {self._where()}, learning rate {rate:g}; all numbers must stay finite (last good checkpoint: "
            f"{self.last}); lower the learning rate"
        )

    @contextmanager
    def explain_out_of_memory(self) -> Iterator[None]:
        """Turns the device's out-of-memory error into one line; the batch is never made smaller in silence."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            device = self.training.totals.device
            peak = peak_memory_mb(device)
            peak_gb = peak.get("device", peak["process"]) / 1e3
            raise ResourceError(
                f"out of memory on {device} in {self._where()}, after a peak of {peak_gb:.1f} GB; "
                "the whole batch must fit; make recipe.batch_size or finetune.batch_size smaller, which changes the result"
            ) from error

    def _where(self) -> str:
        return f"epoch {self.training.epoch + 1}, step {self.training.step} of {self.label}"
