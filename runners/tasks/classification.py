"""Classification of images: cross-entropy, and the share of images whose label ranks first or among the first five."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from runners.augmenting.draws import Mixture, Targets
from runners.data.source import Batch, TrainingBatch
from runners.process.errors import ConfigError, UserError, first_line, is_out_of_memory
from runners.tasks.task import NETWORK, Forward, autocast
from runners.tasks.trial import on_trial

TOP5_FROM_CLASSES = 100


@dataclass(frozen=True)
class Classification:
    """One network, one optimizer, mean cross-entropy.

    Args:
        label_smoothing: share of the target that all classes get alike, in the loss of training alone.
    """

    label_smoothing: float = 0.0
    n_sums: int = 2  # loss, right answers
    compared: Sequence[str] = ("top1_pct", "loss_nats")
    history_columns: Sequence[str] = ("train_loss_nats", "train_top1_pct", "test_top1_pct")

    def check(self, network: nn.Module, example: Float[Tensor, "1 channels h w"], *, num_classes: int) -> None:
        """Refuses, before anything is trained, a network that gives no class scores in eval or in training mode.

        It runs twice, as a copy; network and random state stay as they are.

        Raises:
            ConfigError: it fails for images of this size, or returns anything but one tensor, images x classes.
        """
        with on_trial(network, example.device) as copy:
            _check_scores(copy.eval(), example, num_classes)
            _check_scores(copy.train(), example.repeat(2, 1, 1, 1), num_classes)  # BatchNorm needs two images

    def step(
        self, networks: Mapping[str, Forward], optimizers: Mapping[str, Optimizer], batch: TrainingBatch, *, precision: str
    ) -> Float[Tensor, " 2"]:
        """Forward, backward, update; the summed loss in nats and the right answers."""
        (x, targets), update = batch, optimizers[NETWORK]
        with autocast(x.device, precision):
            logits = networks[NETWORK](x)
            loss = _mean_loss(logits, targets, self.label_smoothing)
        update.zero_grad(set_to_none=True)
        loss.backward()
        update.step()
        with torch.no_grad():
            return torch.stack([loss * len(x), _n_right(logits, targets)])

    def count(self, networks: Mapping[str, nn.Module], batch: Batch) -> Float64[Tensor, " 3"]:
        """The summed loss in nats, right answers, and labels among the five highest logits (nan below 100 classes)."""
        x, labels = batch
        logits = networks[NETWORK](x)
        among_five = (
            (logits.topk(5).indices == labels[:, None]).sum().double()
            if logits.shape[1] >= TOP5_FROM_CLASSES
            else torch.full((), nan, dtype=torch.float64, device=logits.device)
        )
        return torch.stack([summed_loss(logits, labels).double(), _n_correct(logits, labels).double(), among_five])

    def quality(self, counts: Sequence[float], n_images: int) -> dict[str, Any]:
        """Accuracy, loss and counts over one split; `top5_pct` is nan below 100 classes, where it says little."""
        loss, n_correct, among_five = counts
        return {
            "top1_pct": 100 * int(n_correct) / n_images,
            "top5_pct": 100 * among_five / n_images,
            "loss_nats": loss / n_images,
            "n_correct": int(n_correct),
            "n_images": n_images,
        }

    def history(self, sums: Sequence[float], n_images: int, tested: Mapping[str, Any]) -> dict[str, float]:
        """Mean loss (of smoothed labels) and accuracy while training, and accuracy on the test split."""
        values = (sums[0] / n_images, 100 * (sums[1] / n_images), tested["top1_pct"])
        return dict(zip(self.history_columns, values, strict=True))

    def best(self, history: pd.DataFrame) -> dict[str, Any]:
        """The highest accuracy on the test split, and the first epoch that had it."""
        if history.empty:
            return {"best_top1_pct": nan, "best_epoch": None}
        best = history.iloc[int(history["test_top1_pct"].to_numpy().argmax())]
        return {"best_top1_pct": float(best["test_top1_pct"]), "best_epoch": int(best["epoch"])}


CLASSIFICATION = Classification()


def summed_loss(logits: Float[Tensor, "images classes"], labels: Int64[Tensor, " images"]) -> Float[Tensor, ""]:
    """Cross-entropy, summed over images.  [nats]"""
    return F.cross_entropy(logits, labels, reduction="sum")


def _mean_loss(logits: Float[Tensor, "images classes"], targets: Targets, label_smoothing: float) -> Float[Tensor, ""]:
    """Mean cross-entropy with smoothed labels; of a mixture, that with either label, by their shares.  [nats]

    Source:
        Szegedy et al. 2016, "Rethinking the Inception architecture for computer vision", section 7.
    """
    if not isinstance(targets, Mixture):
        return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    first, second = (
        F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
        for labels in (targets.labels, targets.partners)
    )
    return (targets.share * first + (1 - targets.share) * second).mean()


def _n_right(logits: Float[Tensor, "images classes"], targets: Targets) -> Tensor:
    """Right answers; of a mixture, the shares of the label that ranks first."""
    if not isinstance(targets, Mixture):
        return _n_correct(logits, targets)
    best = logits.argmax(1)
    return (targets.share * (best == targets.labels) + (1 - targets.share) * (best == targets.partners)).sum()


def _n_correct(logits: Float[Tensor, "images classes"], labels: Int64[Tensor, " images"]) -> Int64[Tensor, ""]:
    return (logits.argmax(1) == labels).sum()


def _check_scores(network: nn.Module, x: Float[Tensor, "images channels h w"], num_classes: int) -> None:
    mode, who = f"{'training' if network.training else 'eval'} mode", type(network).__name__
    needed = f"one tensor of {num_classes} class scores for each image is needed"
    without_heads = "switch auxiliary heads off by +model.aux_logits=false, or " if network.training else ""
    try:
        scores: Any = network(x)
    except Exception as error:  # whatever the forward pass of a foreign network raises
        if isinstance(error, UserError) or is_out_of_memory(error):
            raise
        why = first_line(error).rstrip(".")
        of_channels = "" if x.shape[1] == 3 else "model=timm (any number of channels), "
        raise ConfigError(
            f"{who} fails in {mode} for images of {_shape(x[0])} ({why}); size and channels must be what it takes; "
            f"{without_heads}try {of_channels}+model.img_size={x.shape[-1]} (transformers of timm), "
            f"model.image_size={x.shape[-1]} (da_small, hp_small), dataset.image_size=224 or another data set"
        ) from error
    if not isinstance(scores, Tensor):
        kind = type(scores).__name__
        raise ConfigError(f"{who} returns {kind} in {mode}; {needed}; {without_heads}choose a network that classifies images")
    if scores.dim() != 2 or len(scores) != len(x) or not scores.is_floating_point():
        kind = str(scores.dtype).removeprefix("torch.")
        raise ConfigError(
            f"{who} returns {_shape(scores)} numbers of {kind} for {len(x)} images in {mode}; {needed}; choose a network that "
            "classifies images"
        )
    if scores.shape[1] != num_classes:
        raise ConfigError(
            f"{who} gives {scores.shape[1]} class scores in {mode}; dataset.num_classes={num_classes} needs {num_classes}; "
            f"try model.num_classes={num_classes}"
        )


def _shape(x: Tensor) -> str:
    return "x".join(map(str, x.shape))
