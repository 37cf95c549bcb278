"""The normalisation that given weights expect: of published files, of libraries' networks, and of unknown ones."""

from pathlib import Path
from typing import Any

import pytest
import torchvision
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from torchvision.models import get_model_weights, list_models

from models.cifar_resnet import cifar_resnet
from runners.command import normalisation
from runners.command.arguments import check_arguments
from runners.command.checks import whole
from runners.command.gate import resolved
from runners.command.normalisation import DIGITS, PUBLISHED, expected
from runners.storage.keys import file_digest, run_name
from runners.storage.weights import save_weights
from support import ROOT, Command, check_line

TINY = ("dataset=fake", "dataset.image_size=8", "model=resnet20")
IMAGENET = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]  # pytorch/examples, imagenet/main.py
HALF = [[0.5] * 3, [0.5] * 3]
FAKE = [[0.5] * 3, [0.25] * 3]  # of conf/dataset/fake.yaml


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two files of a ResNet-20."""
    found = [tmp_path_factory.mktemp("weights") / f"{name}.safetensors" for name in "ab"]
    for path in found:
        save_weights(cifar_resnet(depth=20, num_classes=10), path)
    return found[0], found[1]


@pytest.fixture
def published(weights: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The first of them, which counts as published for this test."""
    start = file_digest(weights[0])[:DIGITS]
    monkeypatch.setattr(normalisation, "PUBLISHED", {start: "cifar_published"})
    return weights[0]


def used(values: Any) -> list[list[float]]:
    """Mean and std of a config."""
    return [list(values["dataset"]["mean"]), list(values["dataset"]["std"])]


def composed(*overrides: str) -> dict[str, Any]:
    """The config as the gate and a run work it out."""
    GlobalHydra.instance().clear()
    OmegaConf.register_new_resolver("root", lambda name: f"/nowhere/{name}", replace=True)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", check_arguments([*TINY, *overrides]), return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        return resolved(config)


def numbers(path: Path, **parts: Any) -> list[list[float]] | None:
    """What a network of a library expects of its weights."""
    found = expected({"weights": str(path), "dataset": {"channels": 3}, **parts})
    return found and [list(found.mean), list(found.std)]


def test_a_published_file_brings_its_normalisation_and_an_unknown_one_does_not(
    weights: tuple[Path, Path], published: Path
) -> None:
    assert used(composed(f"weights={published}")) == IMAGENET
    assert used(composed(f"weights={weights[1]}")) == FAKE
    assert used(composed()) == FAKE


@pytest.mark.parametrize(
    ("given", "mean_and_std"),
    [
        (["dataset.mean=[0.1,0.2,0.3]"], [[0.1, 0.2, 0.3], [0.25] * 3]),
        (["dataset.mean=[0.5,0.5,0.5]"], FAKE),  # the data set's own
        (["dataset.std=[0.25,0.25,0.25]"], FAKE),
        (["normalisation=minus_one_to_one"], HALF),
        (["+normalisation=minus_one_to_one"], HALF),
        (["normalisation=minus_one_to_one", "dataset.mean=[0.1,0.2,0.3]"], [[0.1, 0.2, 0.3], [0.5] * 3]),
        (["experiment=published_resnet56"], IMAGENET),
        (["experiment=published_resnet56", "normalisation=minus_one_to_one"], HALF),
    ],
)
def test_a_given_normalisation_counts(given: list[str], mean_and_std: list[list[float]], published: Path) -> None:
    assert used(composed(f"weights={published}", *given)) == mean_and_std


def test_a_run_that_names_it_has_the_name_of_one_that_recognises_it(published: Path) -> None:
    chosen = ([], ["normalisation=imagenet"], ["normalisation=minus_one_to_one"])
    recognised, named, other = (run_name(composed(f"weights={published}", *each)) for each in chosen)
    assert recognised == named != other


def test_jobs_of_a_sweep_recognise_their_own_weights(
    command: Command, weights: tuple[Path, Path], published: Path, tmp_path: Path
) -> None:
    sweep = ("--multirun", *TINY, "runner=layers", "hydra/launcher=basic")
    ended = command(*sweep, f"weights={','.join(map(str, weights))}", "dataset.std=[0.25,0.25,0.25]")
    assert ended.code == 0, ended
    assert len(list((tmp_path / "outputs").glob("fake-resnet20-layers-*"))) == 2
    ended = command(*sweep, f"weights={','.join(map(str, weights))}")
    assert ended.code == 0, ended
    runs = [OmegaConf.load(each / "config.yaml") for each in (tmp_path / "outputs").glob("fake-resnet20-layers-*")]
    found = sorted((run.weights == str(published), used(run)) for run in runs)
    # The unknown file has the data set's numbers in either sweep, and so one run.
    assert found == [(False, FAKE), (True, IMAGENET), (True, FAKE)]


def test_a_run_says_which_normalisation_it_used(command: Command, weights: tuple[Path, Path], published: Path) -> None:
    score = (*TINY, "runner=score_only", "criteria=norms")
    for path, given, tokens in [
        (published, (), ("0.485", "normalisation=cifar_published", "expects")),
        (published, ("normalisation=minus_one_to_one",), ("as given", "0.485")),
        (weights[1], (), ("nothing is known", "0.25", "normalisation=NAME")),
    ]:
        ended = command(*score, *given, f"weights={path}")
        [line] = [line for line in ended.out.splitlines() if "normalised" in line]
        check_line(line, path, *tokens)


def test_every_published_file_names_an_option_that_there_is() -> None:
    assert all(len(start) == DIGITS and set(start) <= set("0123456789abcdef") for start in PUBLISHED)
    for name in set(PUBLISHED.values()):
        node = whole(f"normalisation/{name}.yaml")
        assert len(node["mean"]) == len(node["std"]) == 3


def test_efficientnet_lite0_takes_pixels_less_127_by_128() -> None:
    node = whole("normalisation/efficientnet_lite0.yaml")
    for pixel in (0, 127, 255):
        assert (pixel / 255 - node["mean"][0]) / node["std"][0] == pytest.approx((pixel - 127) / 128, abs=1e-15)


def test_networks_of_timm_expect_what_timm_says(tmp_path: Path) -> None:
    path = tmp_path / "any.bin"
    path.write_bytes(b"any")
    timm: dict[str, Any] = {"_target_": "timm.create_model", "model_name": "tf_efficientnet_lite0", "num_classes": 1000}
    assert numbers(path, model=timm) == HALF  # timm 1.0's
    assert numbers(path, model=timm | {"model_name": "resnet18.a1_in1k"}) == IMAGENET
    # Ten classes: not what timm publishes. One channel: three numbers do not fit.
    assert numbers(path, model=timm | {"num_classes": 10}) is None
    assert numbers(path, model=timm, dataset={"channels": 1}) is None
    assert numbers(path, model=timm | {"model_name": "no_such_network"}) is None
    assert numbers(tmp_path / "none.bin", model=timm) is None


def test_what_is_known_of_a_file_counts_before_what_its_library_says(published: Path) -> None:
    timm: dict[str, Any] = {"_target_": "timm.create_model", "model_name": "tf_efficientnet_lite0", "num_classes": 1000}
    assert numbers(published, model=timm) == IMAGENET


def test_networks_of_torchvision_expect_what_torchvision_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "any.bin"
    path.write_bytes(b"any")
    torchvisions: dict[str, Any] = {"_target_": "torchvision.models.get_model", "num_classes": 1000}
    for name in list_models(module=torchvision.models):
        # All but one of its ImageNet networks; that one and the features of VGG-16 in Caffe's scale say so in their weights.
        expects = HALF if name == "efficientnet_v2_l" else IMAGENET
        assert numbers(path, model=torchvisions | {"name": name}) == expects, name
    assert numbers(path, model=torchvisions | {"name": "vgg16", "num_classes": 10}) is None
    assert numbers(path, model=torchvisions | {"name": "no_such_network"}) is None
    features = get_model_weights("vgg16")["IMAGENET1K_FEATURES"]
    start = features.url.rpartition("-")[2].partition(".")[0]
    monkeypatch.setattr(normalisation, "_digest", lambda *_: start + "0" * 56)
    # Its classifier is not for use: the file has no categories, and so no normalisation of a network with 1,000 classes.
    assert numbers(path, model=torchvisions | {"name": "vgg16"}) is None


@pytest.mark.slow
def test_the_published_resnet20_gets_9173_right_without_being_told(command: Command, real_data: Path) -> None:
    # Its published error is 8.27 %: 9,173 of 10,000 right.
    path = real_data / "weights" / "resnet20-12fca82f.th"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    ended = command(
        "dataset=cifar10", f"data_root={real_data}", f"weights={path}", "model=resnet20", "runner=score_only", "criteria=norms"
    )
    assert ended.code == 0 and "91.73" in ended.out, ended
