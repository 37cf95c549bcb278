"""The numbers of classification, against counts by hand."""

import math

import pandas as pd
import pytest
import torch
from torch import nn

from runners.tasks.classification import CLASSIFICATION


class Given(nn.Module):
    """A network whose logits are its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_counts_of_three_images_by_hand() -> None:
    # Softmax of (ln 3, 0) is (3/4, 1/4): the losses are ln 4/3, ln 4 and ln 4/3.
    logits, labels = torch.tensor([[math.log(3), 0.0]] * 3), torch.tensor([0, 1, 0])
    loss, n_correct, among_five = CLASSIFICATION.count({"network": Given()}, (logits, labels)).tolist()
    assert loss == pytest.approx(2 * math.log(4 / 3) + math.log(4), rel=1e-6) and n_correct == 2 and math.isnan(among_five)
    found = CLASSIFICATION.quality([loss, 2.0, among_five], 3)
    assert found["top1_pct"] == 200 / 3 and found["n_correct"] == 2 and found["n_images"] == 3
    assert found["loss_nats"] == loss / 3 and math.isnan(found["top5_pct"])


def test_labels_among_the_first_five_count_from_100_classes() -> None:
    logits = torch.arange(100.0).flip(0).repeat(3, 1)  # class 0 first, then 1, 2, ...
    counts = CLASSIFICATION.count({"network": Given()}, (logits, torch.tensor([0, 4, 5]))).tolist()
    assert counts[1:] == [1, 2]


def test_an_epoch_of_sums_is_a_row_of_means() -> None:
    found = CLASSIFICATION.history([6.0, 3.0], 4, {"top1_pct": 55.0})
    assert found == {"train_loss_nats": 1.5, "train_top1_pct": 75.0, "test_top1_pct": 55.0}


def test_the_best_epoch_is_the_first_of_the_highest() -> None:
    history = pd.DataFrame({"epoch": [1, 2, 3], "test_top1_pct": [50.0, 70.0, 70.0]})
    assert CLASSIFICATION.best(history) == {"best_top1_pct": 70.0, "best_epoch": 2}
    none = CLASSIFICATION.best(history[:0])
    assert math.isnan(none["best_top1_pct"]) and none["best_epoch"] is None
