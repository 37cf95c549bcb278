"""Our criteria against others' code and against a bare sweep: one process, one thread, competitors taking turns.

    python benchmarks/criteria.py [rounds=5] [images=1024] [threads=1]

Prints a table: median seconds of both, their ratio, and whether both found the same. Peers that are not installed are
skipped with a line.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from jaxtyping import Float64
from scipy.spatial.distance import cdist
from threadpoolctl import threadpool_info
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet50

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from engine import BATCH, MEAN, STD, alternate, options, row  # noqa: E402

from criteria.criterion import Criterion  # noqa: E402
from criteria.gradient import taylor_l1  # noqa: E402
from criteria.layer import Gradients, Weights  # noqa: E402
from criteria.median import geometric_median  # noqa: E402
from criteria.norm import gm  # noqa: E402
from models.cifar_resnet import cifar_resnet  # noqa: E402
from models.cifar_vgg import cifar_vgg_bn  # noqa: E402
from runners.data.resident import Images  # noqa: E402
from runners.scoring.score import score  # noqa: E402
from runners.tracing.channels import trace_channels  # noqa: E402

PAPERS = "l1 l2 gm fermat bn_gamma bn_beta taylor_l1 taylor_l2 apoz entropy repr random".split()
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "ResNet-56": partial(cifar_resnet, depth=56, num_classes=10),
    "VGG-16": partial(cifar_vgg_bn, depth=16, num_classes=10),
}
vgg16 = NETWORKS["VGG-16"]


def all_criteria() -> dict[str, Criterion]:
    """The set `all`, as a run builds it."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        chosen = compose("config", overrides=["criteria=all"])["criteria"]
        return {name: instantiate(chosen[name]) for name in chosen}


def bare_sweep(network: nn.Module, images: Images) -> list[Tensor]:
    """Mean gradients of the convolutions: the least work for any score that needs them."""
    weights = [module.weight for module in network.modules() if isinstance(module, nn.Conv2d)]
    total = [torch.zeros_like(weight) for weight in weights]
    for x, labels in images.batches(BATCH):
        loss = F.cross_entropy(network(x), labels, reduction="sum")
        for sum_, grad in zip(total, torch.autograd.grad(loss, weights), strict=True):
            sum_ += grad
    return [sum_ / len(images) for sum_ in total]


def sweep_row(name: str, criteria: Mapping[str, Criterion], images: Images, rounds: int) -> list[str]:
    """Scores of one network by all of `criteria`, timed."""
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    channels = trace_channels(network, next(images.batches(1))[0])
    ours = partial(score, network, channels, criteria, images, batch_size=BATCH)
    theirs, mine = alternate(partial(bare_sweep, network, images), ours, rounds)
    table = ours()
    found = table.loc[table["criterion"] == "taylor_l1", "score"].to_numpy()
    both = zip(weights_of(network), bare_sweep(network, images), strict=True)
    sought = [(weight * grad).abs().sum((1, 2, 3)) for weight, grad in both]
    gap = largest_gap(found, torch.cat(sought).numpy())
    agreement = f"taylor_l1 from the peer's gradients within {gap:.0e}"
    what = f"{name}: {len(criteria)} criteria, {len(images):,} images"
    cells = row(what, "bare forward + backward, eval mode", theirs, mine, agreement)
    # Ours does more, so that the ratio is turned round.
    return [*cells[:4], f"{mine / theirs:.2f}x as long", agreement]


def largest_gap(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference, relative to the largest value."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def weights_of(network: nn.Module) -> list[Tensor]:
    """Of all convolutions."""
    return [module.weight.detach() for module in network.modules() if isinstance(module, nn.Conv2d)]


def gm_row(rounds: int) -> list[str]:
    """The sum of distances, as FPGM's code takes it."""
    torch.manual_seed(0)
    weights = weights_of(vgg16())

    def peer() -> list[np.ndarray]:
        return [cdist(filters, filters).sum(1) for filters in (weight.flatten(1).numpy() for weight in weights)]

    def ours() -> list[np.ndarray]:
        return [gm(Weights(weight)).numpy() for weight in weights]

    theirs, mine = alternate(peer, ours, rounds)
    gap = max(largest_gap(a, b) for a, b in zip(ours(), peer(), strict=True))
    return row("gm of all VGG-16 layers", "scipy cdist, row sums", theirs, mine, f"scores within {gap:.0e}")


def fermat_row(rounds: int) -> list[str]:
    """The geometric median of one layer; gm has been computed, as it is in every run that compares the two."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randn(512, 1, generator=generator, dtype=torch.float64).exp()
    filters = 0.02 * sizes * torch.randn(512, 1152, generator=generator, dtype=torch.float64)
    layer, points = Weights(filters), list(filters)
    gm(layer)
    peer = partial(import_module("geom_median.torch").compute_geometric_median, points)  # an optional extra
    theirs, mine = alternate(peer, partial(geometric_median, layer), rounds)
    residuals = [unmet_pull(filters, point) for point in (geometric_median(layer).point, peer().median)]
    agreement = f"residual {residuals[0]:.1e}, the peer's {residuals[1]:.1e}"
    return row("fermat point of 512 x 1152 heavy-tailed filters, given gm", "geom_median", theirs, mine, agreement)


def unmet_pull(filters: Float64[Tensor, "out d"], point: Float64[Tensor, " d"]) -> float:
    """Norm of the mean unit vector from the point to the filters: 0 at a median that lies on no filter."""
    return float(F.normalize(filters - point).mean(0).norm())


def taylor_row(name: str, network: nn.Module, size: int, rounds: int) -> list[str]:
    """Scores from gradients that are there."""
    torch_pruning = import_module("torch_pruning")  # an optional extra
    example = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    F.cross_entropy(network(example), torch.tensor([0, 1])).backward()
    graph = torch_pruning.DependencyGraph().build_dependency(network, example)
    heads = [module for module in network.modules() if isinstance(module, nn.Linear)]
    groups = list(graph.get_all_groups(ignored_layers=heads, root_module_types=[nn.Conv2d]))
    importance = torch_pruning.importance.GroupTaylorImportance()
    layers = [module.weight for module in network.modules() if isinstance(module, nn.Conv2d)]
    gradients = [weight.grad for weight in layers]

    def peer() -> list[Tensor]:
        return [importance(group) for group in groups]

    def ours() -> list[Tensor]:
        return [taylor_l1(Gradients(w.detach(), g)) for w, g in zip(layers, gradients, strict=True) if g is not None]

    theirs, mine = alternate(peer, ours, rounds)
    agreement = f"none: theirs are of {len(groups)} coupled groups (layer, BatchNorm, readers), ours of {len(layers)} layers"
    return row(f"taylor_l1 of {name}, given gradients", "torch-pruning GroupTaylor", theirs, mine, agreement)


def measures(images: Images, rounds: int) -> Iterator[Callable[[], list[str]]]:
    """The rows that can be measured on this machine."""
    yield partial(gm_row, rounds)
    if installed("geom_median"):
        yield partial(fermat_row, rounds)
    if installed("torch_pruning"):
        torch.manual_seed(0)
        yield partial(taylor_row, "VGG-16", vgg16().eval(), 32, rounds)
        yield partial(taylor_row, "ResNet-50", resnet50().eval(), 64, rounds)
    everything = all_criteria()
    for criteria in ({name: everything[name] for name in PAPERS}, everything):
        for name in NETWORKS:
            yield partial(sweep_row, name, criteria, images, rounds)


def installed(module: str) -> bool:
    """True if a peer is installed; says so if not."""
    if find_spec(module) is None:
        print(f"({module} is not installed, its rows are skipped: pip install {module.replace('_', '-')})")
    return find_spec(module) is not None


def blas_info() -> list[dict[str, Any]]:
    """Name of every BLAS that is loaded, and the kind of processor whose instructions it uses."""
    return [found for found in threadpool_info() if found["user_api"] == "blas"]


def main() -> None:
    """Measures and prints."""
    given = options({"rounds": 5, "images": 1024, "threads": 1})
    torch.set_num_threads(given["threads"])
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (given["images"], 3, 32, 32), generator=generator, dtype=torch.uint8)
    images = Images(pixels, torch.randint(0, 10, (len(pixels),), generator=generator), MEAN, STD)
    blas = ", ".join(sorted({f"{found['internal_api']} {found.get('architecture')}" for found in blas_info()}))
    print(f"# torch {torch.__version__}, numpy {np.__version__} ({blas}), {given['threads']} thread(s), ", end="")
    print(f"median of {given['rounds']}, competitors in turn\n")
    print("| what | peer | peer time | ours | ratio | agreement |\n| --- | --- | --- | --- | --- | --- |")
    for measure in measures(images, given["rounds"]):
        print("| " + " | ".join(measure()) + " |", flush=True)


if __name__ == "__main__":
    main()
