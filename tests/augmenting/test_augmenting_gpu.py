"""Changes on an NVIDIA GPU: `pytest -m gpu`."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from runners.augmenting.autoaugment import autoaugment
from runners.augmenting.changes import Changes
from runners.augmenting.cutout import cutout
from runners.augmenting.draws import Draws, Mix, Mixture, Targets
from runners.augmenting.mixing import cutmix, mixup
from runners.augmenting.policies import POLICIES
from runners.data.resident import Images, ResidentSteps
from runners.training.engine import WARM_UP, Engine, cuda_graph, own_stream

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True, scope="module")
def needs_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")


def images(n: int = 400) -> Images:
    pixels = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Images(pixels, torch.arange(n), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), crop_padding=4, flip=True)


@pytest.mark.parametrize("learnt_on", sorted(POLICIES))
def test_autoaugment_has_the_bits_of_the_cpu(learnt_on: str) -> None:
    pixels, draws = images().pixels, Draws(torch.arange(400), torch.tensor(5))
    change = partial(autoaugment, learnt_on=learnt_on, fill=0)  # pyright: ignore[reportArgumentType]
    found = change(pixels.cuda(), Draws(draws.index.cuda(), draws.word.cuda()))
    assert torch.equal(found.cpu(), change(pixels, draws))


def targets_of(targets: Targets) -> tuple[torch.Tensor, ...]:
    return tuple(targets) if isinstance(targets, Mixture) else (targets,)


@pytest.mark.parametrize("mix", [None, partial(mixup, alpha=1), partial(cutmix, alpha=1, probability=0.5)])
def test_captured_steps_draw_what_steps_on_the_cpu_draw(mix: Mix | None) -> None:
    policy, erase = partial(autoaugment, learnt_on="cifar10", fill=0), partial(cutout, length=16)
    changes = replace(Changes(augment=True, policy=policy, erase=erase), mix=mix)
    device = torch.device("cuda")
    expected, steps = (ResidentSteps(each, 40, 7, changes) for each in (images(), images().to(device)))
    kept: list[torch.Tensor] = []

    def step() -> None:
        x, targets = steps.draw(40)
        parts = [x, *targets_of(targets)]
        if not kept:
            kept.extend(torch.empty_like(part) for part in parts)
        for place, part in zip(kept, parts, strict=True):
            place.copy_(part)

    with own_stream(device):
        run = Engine("fp32", capture=cuda_graph).repeated(step)
        for epoch in range(2):
            for each in (expected, steps):
                each.begin(epoch, position=0)
            for _ in range(max(10, WARM_UP + 2)):
                run()
                x, targets = expected.draw(40)
                for found, part in zip(kept, [x, *targets_of(targets)], strict=True):
                    assert torch.allclose(found.cpu().float(), part.float(), rtol=0, atol=1e-6)
