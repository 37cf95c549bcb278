"""Changes in the step: their order, their draws, and nothing at all without them."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from runners.augmenting.autoaugment import autoaugment
from runners.augmenting.changes import CHANGE_WORDS, CROP_WORDS, Changes, epoch_words
from runners.augmenting.cutout import cutout
from runners.augmenting.draws import Draws, Mixture
from runners.augmenting.mixing import cutmix, mixup
from runners.data.resident import Images
from runners.process.counter import fold
from runners.process.errors import ConfigError
from runners.training.recipe import check_changes
from support import AUGMENTED, raises_line

PLACES = ("policy", "erase", "mix")


def images(n: int = 23) -> Images:
    pixels = torch.randint(0, 256, (n, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Images(pixels, torch.arange(n), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), crop_padding=2, flip=True)


def recorded(calls: list[tuple[str, Tensor, Draws]]) -> Changes:
    """Changes that note their order, their input and their draws."""

    def policy(pixels: Tensor, draws: Draws) -> Tensor:
        calls.append(("policy", pixels, draws))
        return 255 - pixels

    def erase(x: Tensor, draws: Draws) -> Tensor:
        calls.append(("erase", x, draws))
        return x + 1

    def mix(x: Tensor, labels: Tensor, draws: Draws) -> tuple[Tensor, Mixture]:
        calls.append(("mix", x, draws))
        return x * 2, Mixture(labels, labels.flip(0), torch.full((len(labels),), 0.25))

    return Changes(augment=True, policy=policy, erase=erase, mix=mix)


def test_a_step_crops_then_changes_pixels_normalises_erases_and_mixes() -> None:
    calls: list[tuple[str, Tensor, Draws]] = []
    plain, changed = (images().steps(5, stream=7, changes=changes) for changes in (AUGMENTED, recorded(calls)))
    for steps in (plain, changed):
        steps.begin(2, position=1)
    (x, labels), (found, targets) = plain.draw(5), changed.draw(5)
    assert isinstance(targets, Mixture) and isinstance(labels, Tensor) and torch.equal(targets.labels, labels)
    assert [name for name, *_ in calls] == ["policy", "erase", "mix"]
    pixels = calls[0][1]
    assert pixels.dtype == torch.uint8 and torch.equal(images().normalise(pixels), x), "cropped and mirrored as without"
    inverted = images().normalise(255 - pixels)
    assert torch.equal(calls[1][1], inverted) and torch.equal(calls[2][1], inverted + 1)
    assert torch.equal(found, (inverted + 1) * 2)
    for (_, _, draws), number in zip(calls, (4, 5, 6), strict=True):
        assert torch.equal(draws.index, labels), "the labels here are the indices of the images"
        assert draws.word.item() == fold(fold(7, 2), number)


class OnTheDevice(TorchDispatchMode):
    """Refuses what would wait for a GPU or copy to it: no captured step could hold it."""

    # Numbers read back, results as long as they turn out, values of Python's made into tensors, copies between devices.
    WAITS = {
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "lift_fresh",
        "lift_fresh_copy",
        "repeat_interleave",
        "bincount",
    }

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in self.WAITS and not (name == "where" and any(part.dim() == 0 for part in args)), func
        by_truth = name in ("index", "index_put_") and any(part is not None and part.dtype == torch.bool for part in args[1])
        assert not by_truth, func
        return func(*args, **(kwargs or {}))


EVERYTHING = Changes(
    augment=True,
    policy=partial(autoaugment, learnt_on="cifar10", fill=0),
    erase=partial(cutout, length=3),
    mix=partial(cutmix, alpha=1, probability=0.5),
)


def test_steps_wait_for_no_device() -> None:
    """All is work on the device; the first step makes tables."""
    for changes in (EVERYTHING, replace(EVERYTHING, mix=partial(mixup, alpha=0.2))):
        steps = images().steps(5, stream=7, changes=changes)
        steps.begin(0, position=0)
        steps.draw(5)
        with OnTheDevice():
            steps.draw(5)
    flags = torch.tensor([True, False])
    for waits in (
        lambda: flags.sum().item(),
        lambda: flags[flags],
        lambda: torch.tensor(1.0),
        lambda: torch.where(flags, 0, 1),
    ):
        with pytest.raises(AssertionError), OnTheDevice():
            waits()


def test_words_of_crops_are_as_they_were_and_none_is_used_twice() -> None:
    assert len({*CROP_WORDS, *CHANGE_WORDS}) == 6
    # fold(fold(7, 2), which) for 1, 2, 3, as steps of the first version drew crops.
    assert epoch_words(7, 2, CROP_WORDS).tolist() == [fold(fold(7, 2), which) for which in (1, 2, 3)]


@pytest.mark.parametrize(
    "changes",
    [
        Changes(erase=partial(cutout, length=4)),
        Changes(augment=True, mix=partial(mixup, alpha=1)),
        EVERYTHING,
    ],
)
def test_an_epoch_goes_on_in_the_middle_with_the_same_changes(changes: Changes) -> None:
    whole, rest = (images().steps(5, stream=7, changes=changes) for _ in range(2))
    whole.begin(1, position=0)
    rest.begin(1, position=3)
    drawn = [whole.draw(size) for size in whole.sizes][3:]
    for (x, targets), (again, same) in zip(drawn, [rest.draw(5), rest.draw(3)], strict=True):
        assert torch.equal(x, again) and x.is_contiguous(memory_format=torch.channels_last)
        assert all(torch.equal(*pair) for pair in zip(targets, same, strict=True))


def test_an_image_is_erased_alike_in_a_batch_of_any_size() -> None:
    changes = Changes(erase=partial(cutout, length=3))
    epochs = []
    for batch_size in (5, 23):
        steps = images().steps(batch_size, stream=7, changes=changes)
        steps.begin(0, position=0)
        epochs.append(torch.cat([steps.draw(size)[0] for size in steps.sizes]))
    assert torch.equal(*epochs)


@pytest.mark.parametrize("place", PLACES)
def test_what_cannot_be_made_is_refused_before_training(place: str) -> None:
    def fails(*_: object) -> None:
        raise ValueError("no such thing")

    given = Changes(**{place: fails})  # pyright: ignore[reportArgumentType]
    with raises_line(ConfigError, f"finetune.{place}", "no such thing", "3x6x5"):
        check_changes(given, "finetune", images().example)
    check_changes(Changes(erase=partial(cutout, length=4)), "finetune", images().example)
