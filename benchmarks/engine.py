"""Our training engine against the loop that public CIFAR code runs: one process, one thread, competitors taking turns.

    python benchmarks/engine.py [rounds=5] [images=4096] [threads=1]

Prints a table: median seconds of the peer and of ours, their ratio, and whether both did the same thing.
"""

import platform
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.cifar_resnet import cifar_resnet  # noqa: E402
from models.cifar_vgg import cifar_vgg_bn  # noqa: E402
from runners.augmenting.changes import Changes
from runners.data.resident import Images  # noqa: E402
from runners.data.source import Steps, TrainingBatch  # noqa: E402
from runners.tasks.classification import CLASSIFICATION  # noqa: E402
from runners.tasks.task import NETWORK  # noqa: E402
from runners.training.engine import Engine  # noqa: E402
from runners.training.precision import has_bf16  # noqa: E402

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
BATCH, LR, DECAY, STEPS = 128, 0.1, 1e-4, 3
ROW_SECONDS = 15.0
ENGINES = (Engine("fp32"), Engine("bf16"))


class PilImages(Dataset[tuple[Tensor, int]]):
    """The peer's data set: one PIL image at a time, as torchvision's CIFAR10 gives it."""

    def __init__(self, images: Images, transform: Callable[[Image.Image], Tensor]) -> None:
        self.pixels, self.labels = images.pixels.permute(0, 2, 3, 1).numpy(), images.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One transformed image and its label."""
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def peer_transform() -> Callable[[Image.Image], Tensor]:
    """Pad-and-crop, flip, to tensor, normalise."""
    steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    return transforms.Compose([*steps, transforms.Normalize(MEAN, STD)])


def peer_batches(images: Images) -> DataLoader[tuple[Tensor, int]]:
    """DataLoader over PIL images."""
    return DataLoader(PilImages(images, peer_transform()), batch_size=BATCH, shuffle=True)


def peer_step(network: nn.Module, update: torch.optim.Optimizer, x: Tensor, labels: Tensor) -> float:
    """The plain loop's step: fp32, default memory format, the loss read back every time."""
    loss = F.cross_entropy(network(x), labels)
    update.zero_grad()
    loss.backward()
    update.step()
    return loss.item()


def alternate(peer: Callable[[], object], ours: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median seconds of both, after one warm-up each; once `ROW_SECONDS` are over no further round begins but the first."""
    seconds: tuple[list[float], list[float]] = ([], [])
    ends = time.perf_counter() + ROW_SECONDS
    for round_ in range(rounds + 1):
        if round_ > 1 and time.perf_counter() > ends:
            break
        for times, work in zip(seconds, (peer, ours), strict=True):
            started = time.perf_counter()
            work()
            if round_:
                times.append(time.perf_counter() - started)
    return median(seconds[0]), median(seconds[1])


def drain(batches: Iterator[TrainingBatch]) -> tuple[float, float]:
    """Goes through an epoch; mean and standard deviation of what the network would see."""
    values = torch.stack([torch.stack([x.mean(), x.square().mean()]) * len(x) for x, _ in batches]).sum(0)
    return float(values[0]), float(values[1])


def our_batches(steps: Steps) -> Iterator[TrainingBatch]:
    """One epoch of our input."""
    steps.begin(0, position=0)
    for size in steps.sizes:
        yield steps.draw(size)


def pipeline_row(images: Images, rounds: int) -> list[str]:
    """One epoch of input, without a network."""
    steps = images.steps(BATCH, stream=0, changes=Changes(augment=True))
    loader = peer_batches(images)

    def peer() -> None:
        for _ in loader:
            pass

    def ours() -> None:
        for _ in our_batches(steps):
            pass

    theirs, mine = alternate(peer, ours, rounds)
    moments = [tuple(value / len(images) for value in drain(batches)) for batches in (iter(loader), our_batches(steps))]
    gap = max(abs(a - b) for a, b in zip(*moments, strict=True))
    what = f"input of an epoch of {len(images):,} images"
    return row(what, "DataLoader + PIL", theirs, mine, f"first two moments within {gap:.3f}")


def step_row(name: str, make: Callable[[], nn.Module], images: Images, engine: Engine, rounds: int) -> list[str]:
    """Some training steps with their data."""
    torch.manual_seed(0)
    networks = [make().train() for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    networks[1].to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    forward = engine.forward(networks[1])
    rule = partial(torch.optim.SGD, momentum=0.9, weight_decay=DECAY)
    updates = [rule(networks[0].parameters(), lr=LR), rule(networks[1].parameters(), lr=torch.tensor(LR), fused=True)]

    def our_step(batch: TrainingBatch) -> Tensor:
        return CLASSIFICATION.step({NETWORK: forward}, {NETWORK: updates[1]}, batch, precision=engine.precision)

    # Both see the same images first, so that their first losses can be compared.
    x, labels = next(images.batches(BATCH))
    first = [peer_step(networks[0], updates[0], x.contiguous(), labels)]
    first.append(float(our_step((x, labels))[0]) / len(x))
    some = images.take(torch.arange(STEPS * BATCH))
    loader, steps = peer_batches(some), some.steps(BATCH, stream=0, changes=Changes(augment=True))

    def peer() -> None:
        for x, labels in loader:
            peer_step(networks[0], updates[0], x, labels)

    def ours() -> None:
        for batch in our_batches(steps):
            our_step(batch)

    theirs, mine = alternate(peer, ours, rounds)
    gap = abs(first[0] - first[1]) / first[0]
    what = f"{name}: a step of {BATCH} with its data, {engine.precision}"
    return row(what, "plain fp32 eager loop", theirs / STEPS, mine / STEPS, f"first loss within {gap:.1e}")


def row(what: str, peer: str, theirs: float, mine: float, agreement: str) -> list[str]:
    """One line of the table."""
    return [what, peer, f"{theirs:.3g} s", f"{mine:.3g} s", f"{theirs / mine:.1f}x", agreement]


def options(defaults: dict[str, int]) -> dict[str, int]:
    """The command line's `name=number` over `defaults`."""
    return defaults | {name: int(value) for name, _, value in (argument.partition("=") for argument in sys.argv[1:])}


def main() -> None:
    """Measures and prints."""
    given = options({"rounds": 5, "images": 4096, "threads": 1})
    torch.set_num_threads(given["threads"])
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (given["images"], 3, 32, 32), generator=generator, dtype=torch.uint8)
    images = Images(pixels, torch.randint(0, 10, (len(pixels),), generator=generator), MEAN, STD, 4, True)
    print(f"# {platform.processor() or platform.machine()}, torch {torch.__version__}, {given['threads']} thread(s), ", end="")
    print(f"median of {given['rounds']}, competitors in turn\n")
    print("| what | peer | peer time | ours | ratio | agreement |\n| --- | --- | --- | --- | --- | --- |")
    rows = [partial(pipeline_row, images, given["rounds"])]
    engines = [engine for engine in ENGINES if engine.precision != "bf16" or has_bf16(images.labels.device)]
    for name, make in {
        "ResNet-56": partial(cifar_resnet, depth=56, num_classes=10),
        "VGG-16": partial(cifar_vgg_bn, depth=16, num_classes=10),
    }.items():
        rows += [partial(step_row, name, make, images, engine, given["rounds"]) for engine in engines]
    for measure in rows:
        print("| " + " | ".join(measure()) + " |", flush=True)
    if len(engines) < len(ENGINES):
        print("\nbf16: this processor only emulates it, which is slow; nothing measured")


if __name__ == "__main__":
    main()
