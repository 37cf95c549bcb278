"""Our training engine on an NVIDIA GPU against the loop that public CIFAR code runs: one process, epochs of 50,000 images.

    python benchmarks/engine_gpu.py [rounds=3] [images=50000] [workers=4]

Prints a table as `engine.py` does. Images are random: only time is measured, and that losses agree.
"""

import platform
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from torch.profiler import DeviceType, ProfilerActivity, profile
from torch.utils.data import DataLoader

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

from engine import BATCH, DECAY, LR, MEAN, STD, PilImages, options, peer_step, peer_transform, row  # noqa: E402

from models.cifar_resnet import cifar_resnet  # noqa: E402
from models.cifar_vgg import cifar_vgg_bn  # noqa: E402
from runners.data.resident import Images  # noqa: E402
from runners.data.splits import Splits  # noqa: E402
from runners.storage.resume import Checkpoints  # noqa: E402
from runners.training import schedule  # noqa: E402
from runners.training.engine import Engine, cuda_graph  # noqa: E402
from runners.training.fit import fit  # noqa: E402
from runners.training.recipe import Recipe  # noqa: E402

DEVICE = torch.device("cuda")
MAKERS: dict[str, Callable[[], nn.Module]] = {
    "ResNet-56": partial(cifar_resnet, depth=56, num_classes=10),
    "VGG-16": partial(cifar_vgg_bn, depth=16, num_classes=10),
}


def peer_epoch(network: nn.Module, loader: DataLoader[tuple[torch.Tensor, int]]) -> tuple[float, float]:
    """Seconds and mean loss of an epoch of the plain loop."""
    update = torch.optim.SGD(network.parameters(), lr=LR, momentum=0.9, weight_decay=DECAY)
    started = time.perf_counter()
    losses = [peer_step(network, update, x.to(DEVICE), labels.to(DEVICE)) for x, labels in loader]
    return time.perf_counter() - started, sum(losses) / len(losses)


def our_epochs(network: nn.Module, splits: Splits, epochs: int) -> tuple[float, float]:
    """Median seconds of an epoch once steps are replayed, and the first epoch's loss."""
    ends: list[float] = []
    losses: list[float] = []

    def watch(row: Mapping[Any, Any]) -> None:
        torch.cuda.synchronize()
        ends.append(time.perf_counter())
        losses.append(row["train_loss_nats"])

    recipe = Recipe(epochs, BATCH, LR, DECAY, schedule.constant)
    optimizer = partial(torch.optim.SGD, momentum=0.9, fused=True)
    with TemporaryDirectory() as folder:
        checkpoints, engine = Checkpoints(Path(folder)), Engine("bf16", capture=cuda_graph)
        given = {"recipe": recipe, "optimizer": optimizer, "engine": engine, "seed": 0, "label": "bench", "watch": watch}
        fit(network, splits, checkpoints, **given)
    return median(end - begin for begin, end in zip(ends, ends[1:], strict=False)), losses[0]


def idle_share(network: nn.Module, splits: Splits) -> float:
    """Share of the time of replayed steps in which no kernel runs; the last of four epochs is looked at."""
    spans: list[tuple[float, float]] = []
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        our_epochs(network, splits, 4)
    events = sorted(
        (event.time_range.start, event.time_range.end) for event in seen.events() or [] if event.device_type == DeviceType.CUDA
    )
    events = events[int(len(events) * 0.8) :]
    for begin, end in events:
        if spans and begin <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], end))
        else:
            spans.append((begin, end))
    return 1 - sum(end - begin for begin, end in spans) / (spans[-1][1] - spans[0][0])


def main() -> None:
    """Measures and prints."""
    if not torch.cuda.is_available():
        print("engine_gpu.py: no NVIDIA GPU here, nothing measured")
        return
    given = options({"rounds": 3, "images": 50_000, "workers": 4})
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (given["images"], 3, 32, 32), generator=generator, dtype=torch.uint8)
    images = Images(pixels, torch.randint(0, 10, (len(pixels),), generator=generator), MEAN, STD, crop_padding=4, flip=True)
    few = images.take(torch.arange(BATCH))
    splits = Splits(images, few, few).to(DEVICE)
    short = Splits(images.take(torch.arange(60 * BATCH)), few, few).to(DEVICE)
    loader = DataLoader(
        PilImages(images, peer_transform()),
        batch_size=BATCH,
        shuffle=True,
        num_workers=given["workers"],
        persistent_workers=True,
    )
    print(f"# {torch.cuda.get_device_name()}, torch {torch.__version__}, Python {platform.python_version()}, ", end="")
    print(f"{given['workers']} workers for the peer, median of {given['rounds']}\n")
    print("| what | peer | peer time | ours | ratio | agreement |\n| --- | --- | --- | --- | --- | --- |")
    for name, make in MAKERS.items():
        torch.manual_seed(0)
        network, other = (make().to(DEVICE) for _ in range(2))
        peers = [peer_epoch(other.train(), loader) for _ in range(given["rounds"])]
        theirs, loss = median(seconds for seconds, _ in peers), peers[0][1]
        mine, first = our_epochs(network, splits, given["rounds"] + 4)
        what = f"{name}: an epoch of {len(images):,} with data, bf16"
        agreement = f"mean loss of the first epoch {first:.3f}, the peer's {loss:.3f}"
        print("| " + " | ".join(row(what, "plain fp32 eager loop", theirs, mine, agreement)) + " |", flush=True)
        idle = idle_share(network, short)
        print(f"| {name}: share of a replayed step in which the GPU idles | - | - | {100 * idle:.1f} % | - | - |", flush=True)


if __name__ == "__main__":
    main()
