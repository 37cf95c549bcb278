"""Several criteria as one: mean ranks, by hand and through the command; wrong options of criteria."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata

from analysis.ensemble import Ensemble, mean_rank
from criteria.norm import l1, l2
from runners.process.errors import ConfigError
from runners.scoring.score import check_criteria
from support import Command, check_refused, raises_line


def table(layer: str, index: int, **criteria: list[float]) -> pd.DataFrame:
    rows = [
        {"layer": layer, "index": index, "criterion": name, "filter": filter, "score": score}
        for name, scores in criteria.items()
        for filter, score in enumerate(scores)
    ]
    return pd.DataFrame(rows)


def test_mean_rank_by_hand() -> None:
    scores = pd.concat(
        [
            # Ranks 1 2 3 4 and 4 2.5 2.5 1: means 2.5, 2.25, 2.75, 2.5 of four filters; c is no member.
            table("conv1", 1, a=[0.1, 0.2, 0.3, 99], b=[7, 3, 3, -5], c=[9, 8, 7, 6]),
            table("conv2", 2, a=[5, 4], b=[5, 4]),
            # Only one of the members.
            table("conv3", 3, a=[1, 2, 3]),
        ]
    )
    found = mean_rank(scores, ["a", "b"])
    assert list(found["layer"]) == ["conv1"] * 4 + ["conv2"] * 2 and list(found["filter"]) == [0, 1, 2, 3, 0, 1]
    np.testing.assert_allclose(found["score"], [2 / 4, 1.75 / 4, 2.25 / 4, 2 / 4, 1.5 / 2, 0.5 / 2], rtol=1e-15)


def test_mean_rank_does_not_see_scales() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((2, 50))
    found = mean_rank(table("conv", 1, a=a.tolist(), b=b.tolist()), ["a", "b"])["score"]
    stretched = mean_rank(table("conv", 1, a=np.exp(9 * a).tolist(), b=(b**3).tolist()), ["b", "a"])["score"]
    np.testing.assert_allclose(found, stretched, rtol=1e-15)
    np.testing.assert_allclose(found, (rankdata(a) + rankdata(b) - 1) / 100, rtol=1e-15)


def test_members_must_be_compared() -> None:
    check_criteria({"l1": l1, "l2": l2, "it": Ensemble(["l1", "l2"])})
    with raises_line(ConfigError, "it", ["l1", "l2", "l1"]):
        check_criteria({"l1": l1, "l2": l2, "it": Ensemble(["l1", "l2", "l1"])})
    for members, missing in ((["l1", "gm"], "gm"), (["l1", "it"], "it")):
        with raises_line(ConfigError, "'it'", f"'{missing}'", "l1, l2"):
            check_criteria({"l1": l1, "l2": l2, "it": Ensemble(members)})


FAKE = ("dataset=fake", "model=resnet20", "model.depth=8", "recipe.epochs=0", "finetune.epochs=0")


def test_pruning_by_an_ensemble(command: Command) -> None:
    done = command(
        *FAKE, "criterion=ensemble", "criterion.members=[l1,gm,taylor_l1]", "+criterion@criteria.taylor_l1=taylor_l1"
    )
    assert done.code == 0, done.err
    scores, selection = (pd.read_csv(done.folder / f"{name}.csv") for name in ("scores", "selection"))
    layer = scores[scores["layer"] == "layer1.0.conv1"]
    by_filter = layer.pivot(index="filter", columns="criterion", values="score")
    expected = np.sum([rankdata(by_filter[name]) for name in ("l1", "gm", "taylor_l1")], axis=0)
    np.testing.assert_allclose(by_filter["ensemble"], (expected / 3 - 0.5) / 16, rtol=1e-12)
    removed = selection.set_index("layer").loc["layer1.0.conv1", "removed"]
    assert list(map(int, str(removed).split())) == np.argsort(expected, kind="stable")[:8].tolist()


@pytest.mark.parametrize(
    ("overrides", "told"),
    (
        (("criterion=ensemble", "criterion.members=[l1,hrank]"), ["'hrank'", "ensemble"]),
        (("criterion=ensemble", "criterion.members=[l1]"), ["criterion.members=['l1']"]),
        (("criterion=ensemble", "criterion.members=[l1,l1]"), [["l1", "l1"]]),
        (("criterion=apoz", "criterion.site=relu"), ["criterion.site=relu", "post_act", "conv_out"]),
        (("criterion=apoz", "criterion.threshold=-1"), ["criterion.threshold=-1", 0]),
        (("criterion=hrank", "criterion.images=0"), ["criterion.images=0", 1, "null"]),
        (("criteria=all", "criteria.entropy.bins=1"), ["criteria.entropy.bins=1", 2]),
        (("criterion=taylor_l1_per_batch", "criterion.norm=3"), ["criterion.norm=3", 1, 2]),
        (("criterion=random", "criterion.seed=-1"), ["criterion.seed=-1"]),
        (("criterion=apoz", "+criterion.sigma=1"), ["criterion.sigma"]),
        (("criterion=taylor_l1", "+criterion.p=1"), ["criterion.p"]),
        (("score_batch_size=0",), ["score_batch_size=0"]),
    ),
)
def test_wrong_options_of_criteria_are_one_line(overrides: tuple[str, ...], told: list[object], command: Command) -> None:
    check_refused(command(*FAKE, *overrides), 2, *told)
