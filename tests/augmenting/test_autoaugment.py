"""AutoAugment on batches, to the bit what torchvision makes of every image alone."""

from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torchvision.datasets import CIFAR10
from torchvision.transforms import InterpolationMode
from torchvision.transforms.autoaugment import AutoAugment, AutoAugmentPolicy, _apply_op

from runners.augmenting.autoaugment import SIGN, SUB_POLICY, USED, autoaugment
from runners.augmenting.changes import Changes
from runners.augmenting.draws import Draws
from runners.augmenting.operations import NOTHING, apply, operation, tables
from runners.augmenting.policies import POLICIES
from runners.process.errors import ConfigError
from runners.training.recipe import check_changes
from support import raises_line

# Our name -> torchvision's.
NAMES = {name: name.title().replace("_", "") for pairs in POLICIES.values() for pair in pairs for name, *_ in pair}
NAMES["autocontrast"] = "AutoContrast"
THEIRS = {
    "cifar10": AutoAugmentPolicy.CIFAR10,
    "svhn": AutoAugmentPolicy.SVHN,
    "imagenet": AutoAugmentPolicy.IMAGENET,
}
SHAPES = [(3, 32, 32), (1, 28, 28), (3, 23, 17)]


def pictures(n: int, shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    """Images of many kinds: noise, narrow ranges, few values, smooth ramps, one colour, and nearly one colour."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(n, *shape, generator=generator)
    low, high = (torch.rand(2, n, shape[0], 1, 1, generator=generator) * 256).sort(0).values
    found = (low + noise * (high - low)).to(torch.uint8)
    found[::6] = (noise[::6] * 256).to(torch.uint8)
    found[1::6] = (noise[1::6] * 4).to(torch.uint8) * 60
    ramp = torch.arange(shape[1])[:, None] * 5 + torch.arange(shape[2]) * 3
    found[2::6] = (ramp + found[2::6, :, :1, :1]).to(torch.uint8)
    found[3::6] = found[3::6, :, :1, :1]
    found[4::12, :, 1, 1] = 255
    return found


def magnitudes(name: str, shape: tuple[int, int, int]) -> list[tuple[int, bool, float]]:
    """Level, sign and magnitude of an operation, as torchvision has them."""
    values, signed = AutoAugment()._augmentation_space(10, shape[1:])[NAMES[name]]
    sizes = [value.item() for value in values] if values.dim() else [0.0] * 10
    return [(level, sign, -size if sign and signed else size) for level, size in enumerate(sizes) for sign in (False, True)]


def theirs(image: Tensor, name: str, magnitude: float, fill: int = 0) -> Tensor:
    return _apply_op(image, NAMES[name], magnitude, InterpolationMode.NEAREST, [float(fill)] * len(image))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_operation_is_torchvision_s_on_every_image(name: str, shape: tuple[int, int, int]) -> None:
    """All levels and signs in one batch, six images each."""
    known = magnitudes(name, shape)
    operations = [operation(name, level, negative=sign, height=shape[1], width=shape[2]) for level, sign, _ in known]
    assert [each.magnitude for each in operations] == [magnitude for *_, magnitude in known]
    which = torch.arange(len(known)).repeat_interleave(6) + 1
    images = pictures(len(which), shape)
    found = apply(images, which, tables([NOTHING, *operations], shape, fill=17, device=images.device))
    for image, ours, row in zip(images, found, which.tolist(), strict=True):
        assert torch.equal(ours, theirs(image, name, known[row - 1][2], fill=17)), known[row - 1]
    assert not torch.equal(found, images) or (name == "color" and shape[0] == 1)


@pytest.mark.parametrize("shape", [(1, 2, 5), (3, 5, 2), (3, 3, 3)])
def test_tiny_images_have_no_inside_to_blur(shape: tuple[int, int, int]) -> None:
    images = pictures(30, shape)
    sharper = operation("sharpness", 9, negative=False, height=shape[1], width=shape[2])
    known = tables([NOTHING, sharper], shape, fill=0, device=images.device)
    found = apply(images, torch.ones(30, dtype=torch.int64), known)
    assert torch.equal(found, torch.stack([theirs(image, "sharpness", sharper.magnitude) for image in images]))
    assert torch.equal(found, images) == (shape != (3, 3, 3))


def test_operations_of_all_kinds_meet_in_a_batch_without_touching_each_other() -> None:
    shape = (3, 32, 32)
    known = [(name, *magnitudes(name, shape)[12]) for name in sorted(NAMES)]
    operations = [operation(name, level, negative=sign, height=32, width=32) for name, level, sign, _ in known]
    images = pictures(40 * (len(known) + 1), shape, seed=1)
    which = torch.arange(len(known) + 1).repeat(40)
    found = apply(images, which, tables([NOTHING, *operations], shape, fill=0, device=images.device))
    assert torch.equal(found[which == 0], images[which == 0])
    for image, ours, row in zip(images, found, which.tolist(), strict=True):
        if row:
            name, _, _, magnitude = known[row - 1]
            assert torch.equal(ours, theirs(image, name, magnitude)), name


def by_torchvision(pixels: Tensor, draws: Draws, policy: str, fill: int) -> Tensor:
    """Image by image, with our draws for torchvision's."""
    change = AutoAugment(THEIRS[policy], fill=[float(fill)] * pixels.shape[1])
    which = draws.integers(25, SUB_POLICY).tolist()
    used = torch.stack([draws.uniform(number) for number in USED], 1)
    signs = torch.stack([draws.integers(2, number) for number in SIGN], 1)
    drawn = zip(which, used, signs, strict=True)
    with patch.object(AutoAugment, "get_params", side_effect=drawn):
        return torch.stack([change(image) for image in pixels])


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("shape", SHAPES)
def test_a_batch_is_torchvision_s_images_from_the_same_draws(shape: tuple[int, int, int], policy: str) -> None:
    n = 250
    pixels, draws = (
        pictures(n, shape, seed=2).contiguous(memory_format=torch.channels_last),
        Draws(torch.arange(n), torch.tensor(5)),
    )
    before = pixels.clone()
    found = autoaugment(pixels, draws, learnt_on=policy, fill=128)  # pyright: ignore[reportArgumentType]
    assert torch.equal(found, by_torchvision(pixels, draws, policy, 128)) and found.dtype == torch.uint8
    assert torch.equal(pixels, before)
    assert len(draws.integers(25, SUB_POLICY).unique()) == 25


@pytest.mark.slow
@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_photographs_are_torchvision_s_from_the_same_draws(policy: str, real_data: Path) -> None:
    pixels = torch.from_numpy(CIFAR10(real_data, train=False).data).permute(0, 3, 1, 2)
    for some in torch.arange(len(pixels)).split(500):
        draws = Draws(some, torch.tensor(11))
        found = autoaugment(pixels[some], draws, learnt_on=policy, fill=0)  # pyright: ignore[reportArgumentType]
        assert torch.equal(found, by_torchvision(pixels[some], draws, policy, 0))


def test_an_image_is_changed_alike_in_any_batch() -> None:
    pixels, draws = pictures(50, (3, 32, 32)), Draws(torch.arange(50), torch.tensor(5))
    whole = autoaugment(pixels, draws, learnt_on="cifar10", fill=0)
    some = torch.tensor([41, 3, 17])
    assert torch.equal(autoaugment(pixels[some], Draws(some, draws.word), learnt_on="cifar10", fill=0), whole[some])


def test_images_of_two_channels_are_refused_before_training() -> None:
    given = Changes(policy=partial(autoaugment, learnt_on="cifar10", fill=0))
    with raises_line(ConfigError, "recipe.policy", "have 2"):
        check_changes(given, "recipe", torch.zeros(1, 2, 8, 8))
