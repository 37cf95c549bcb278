"""Training batches of resident images: steps that can be captured, begun anywhere, and drawn from a view."""

from dataclasses import replace

import pytest
import torch

from runners.augmenting.changes import Changes
from runners.data.resident import Images, all_runs, crops
from runners.process.counter import fold, random_integers
from support import AUGMENTED, labelled


def images(n: int = 23) -> Images:
    pixels = torch.randint(0, 256, (n, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Images(pixels, torch.arange(n), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), crop_padding=2, flip=True)


def test_steps_begun_in_the_middle_are_those_that_are_left() -> None:
    steps = images().steps(5, stream=7, changes=AUGMENTED)
    assert steps.sizes == [5, 5, 5, 5, 3]
    places = [tensor.data_ptr() for tensor in (steps.order, steps.words, steps.position)]
    epochs = []
    for epoch in (0, 1):
        steps.begin(epoch, position=0)
        epochs.append([labelled(steps.draw(size)) for size in steps.sizes])
    again = images().steps(5, stream=7, changes=AUGMENTED)
    again.begin(1, position=3)
    for found, expected in zip(map(labelled, [again.draw(5), again.draw(3)]), epochs[1][3:], strict=True):
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    assert not torch.equal(epochs[0][0][1], epochs[1][0][1]), "the order is the epoch's own"
    assert [tensor.data_ptr() for tensor in (steps.order, steps.words, steps.position)] == places


@pytest.mark.parametrize("augment", [True, False])
def test_augmentation_can_be_switched_off(augment: bool) -> None:
    steps = images().steps(23, stream=7, changes=Changes(augment=augment))
    steps.begin(0, position=0)
    x, labels = labelled(steps.draw(23))
    plain = images().normalise(images().pixels[labels])
    assert torch.equal(x, plain) is not augment and sorted(labels.tolist()) == list(range(23))


def test_the_worked_example_of_crops() -> None:
    padded = torch.tensor([0, 0, 0, 0, 0, 1, 2, 0, 0, 3, 4, 0, 0, 0, 0, 0], dtype=torch.uint8)
    runs = all_runs(padded, 2)
    assert len(runs) == 15 and runs[[4, 8]].tolist() == [[0, 1], [0, 3]]
    assert runs.untyped_storage().data_ptr() == padded.untyped_storage().data_ptr()
    draw = crops(torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8), crop_padding=1, flip=False)
    index = torch.tensor([0])
    words = (torch.tensor([fold(0, which, down), fold(0, which, right), 0]) for which in range(99) for down, right in [(1, 2)])
    [found, *_] = [word for word in words if [int(random_integers(index, 3, each)) for each in word[:2]] == [1, 0]]
    assert draw(index, found)[0, 0].tolist() == [[0, 1], [0, 3]]


def test_an_example_is_the_first_image() -> None:
    assert torch.equal(images().example, next(replace(images()).batches(1))[0])
