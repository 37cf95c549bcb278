"""Names that test files share."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from runners.augmenting.changes import Changes
from runners.augmenting.draws import Mixture
from runners.data.resident import Images
from runners.data.source import Batch, TrainingBatch
from runners.storage.keys import Keys, Stage

ROOT = Path(__file__).parents[1]
AUGMENTED = Changes(augment=True)


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

    @property
    def facts(self) -> dict[str, Any]:
        """The run.json that it left."""
        return json.loads((self.folder / "run.json").read_text())


Command = Callable[..., Ended]


def names(text: str, token: object) -> bool:
    """True if a message holds a token as a whole word or number: neither `0.5` in `0.55` nor `conv1` in `conv10`."""
    word = str(token)
    before = r"(?<!\w)(?<!\d\.)" if word[0].isalnum() else ""
    behind = r"(?!\w|\.\d)" if word[-1].isalnum() else ""
    return re.search(before + re.escape(word) + behind, text) is not None


def check_line(text: str, *tokens: object) -> None:
    """Fail unless a message is one line with every token: the option, the value given, the layer, the number, the file."""
    assert "\n" not in text.removesuffix("\n"), text
    lacking = [token for token in tokens if not names(text, token)]
    assert not lacking, f"{lacking} not in: {text}"


@contextmanager
def raises_line(kind: type[Exception], *tokens: object) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """`with raises_line(ConfigError, "ratio", 0.5):` expects such an error, one line that names the tokens."""
    with pytest.raises(kind) as caught:
        yield caught
    line = str(caught.value)
    del caught  # the error's traceback holds this frame: a circle that keeps its sockets and files open for a while
    check_line(line, *tokens)


def check_refused(ended: Ended, code: int, *tokens: object) -> None:
    """Fail unless a command ended with this exit code and one line that names the tokens."""
    assert ended.code == code, ended
    assert ended.err.startswith("error: ") and "Traceback" not in ended.out + ended.err, ended
    check_line(ended.err, *tokens)


def gone_on_from(out: str) -> list[tuple[int, int]]:
    """Epoch and step of every training that was taken up again, from what a command printed."""
    return [(int(epoch), int(step)) for epoch, step in re.findall(r": goes on from epoch (\d+), step (\d+)", out)]


def counts(out: str) -> tuple[int, int, int]:
    """Jobs of a sweep, how many were done before, and how many run now or wait in the queue, from what it printed."""
    [found] = re.findall(r"(\d+) jobs, (\d+) of them done before; (\d+) (?:to run|in the queue)", out)
    jobs, done, left = map(int, found)
    return jobs, done, left


def handed(out: str) -> int:
    """The number of jobs that a sweep gave to Slurm, from what it printed."""
    [found] = re.findall(r"(\d+) handed to Slurm", out)
    return int(found)


def resident(split: object) -> Images:
    """A split that is known to lie in memory."""
    assert isinstance(split, Images)
    return split


def labelled(batch: TrainingBatch) -> Batch:
    """A training batch that is known to be no mixture."""
    x, labels = batch
    assert not isinstance(labels, Mixture)
    return x, labels


def augmented_epochs(
    images: Images, *, batch_size: int, crop_padding: int, flip: bool
) -> Callable[[int, int], Iterator[Batch]]:
    """The batches of any epoch, as a function of (seed, epoch)."""
    augmented = replace(images, crop_padding=crop_padding, flip=flip)

    def epochs(seed: int, epoch: int) -> Iterator[Batch]:
        steps = augmented.steps(batch_size, stream=seed, changes=AUGMENTED)
        steps.begin(epoch, position=0)
        yield from (labelled(steps.draw(size)) for size in steps.sizes)

    return epochs
