"""Names that test files share."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from runners.data.resident import Batch, Images, augmentation, epoch_order, epoch_words

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def folder(self) -> Path:
        """The last line on stdout."""
        return Path(self.out.splitlines()[-1])


Command = Callable[..., Ended]


def resident(split: object) -> Images:
    """A split that is known to lie in memory."""
    assert isinstance(split, Images)
    return split


def augmented_epochs(
    images: Images, *, batch_size: int, crop_padding: int, flip: bool
) -> Callable[[int, int], Iterator[Batch]]:
    """The batches of any epoch, as a function of (seed, epoch)."""
    draw = augmentation(images, crop_padding=crop_padding, flip=flip)

    def epochs(seed: int, epoch: int) -> Iterator[Batch]:
        for index in epoch_order(len(images), seed, epoch, images.labels.device).split(batch_size):
            yield draw(index, epoch_words(seed, epoch))

    return epochs
