"""Names that test files share."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from runners.data.resident import Batch, Images
from runners.storage.keys import Keys, Stage

ROOT = Path(__file__).parents[1]


class FixedKeys(Keys):
    """Keys by the label of the stage, whatever goes in."""

    def __init__(self, given: Mapping[str, str]) -> None:
        super().__init__({}, {})
        self.given = given

    def of(self, stage: Stage) -> str:
        return self.given[stage.label]


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
    augmented = replace(images, crop_padding=crop_padding, flip=flip)

    def epochs(seed: int, epoch: int) -> Iterator[Batch]:
        steps = augmented.steps(batch_size, stream=seed, augment=True)
        steps.begin(epoch, position=0)
        yield from (steps.draw(size) for size in steps.sizes)

    return epochs
