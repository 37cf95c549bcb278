"""Every option of every YAML in conf/: it composes, a wrong value is refused, and it is in the run's key or in BOOKKEEPING."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from runners.command import checks
from runners.command.checks import check_config
from runners.command.gate import check, check_keys, resolved
from runners.command.networkless import check_network
from runners.process.errors import ConfigError
from runners.process.hydra_private import composer
from runners.storage.keys import (
    AUGMENTATION,
    BOOKKEEPING,
    DATASET_BOOKKEEPING,
    FIRST_NAMES,
    NO_EFFECT,
    RUNNER_BOOKKEEPING,
    run_name,
)
from support import ROOT, raises_line

Values = dict[str, Any]

# Options of files that leave a value to the user.
ASKED_FOR: Mapping[str, tuple[str, ...]] = {
    "model=cifar_resnet": ("model.depth=26",),
    "model=timm": ("model.model_name=resnet18",),
    "model=none": ("runner=score_only", "weights=FILE"),
    "model=torchvision": ("model.name=resnet18", "dataset=cifar10"),
    "schedule@recipe.schedule=steps": ("recipe.schedule.milestones=[2,3]",),
}
# Groups that belong to a place in a recipe.
IN_A_RECIPE = {"schedule", "policy", "erase", "mix", "penalty"}
# Options that were part of every run's name from the first version on.
FIRST = {
    *("model", "optimizer", "recipe", "finetune", "dataset", "criterion", "criteria", "runner", "names"),
    *("ratio", "scope", "rounding", "min_keep", "seed", "precision", "score_batch_size", "weights"),
}
# Text that is free, and a number of any size.
FREE = {
    "weights",
    "data_root",
    "download_root",
    "outputs",
    "store",
    "sweep",
    "about",
    "part_of",
    "train",
    "test",
    "folder",
    "members",
    "name_after",
    "of",  # a table, known when the runner has made it
    "paper",
    "rows",  # a pattern
    "table",
}


def groups(conf: Path) -> list[str]:
    """Every choice of a file, as an override."""
    found: list[str] = []
    for path in sorted(conf.rglob("*.yaml")):
        folder = path.parent.relative_to(conf).as_posix()
        if folder == "." or folder.startswith("hydra"):
            continue
        found.append(f"{f'{folder}@recipe.{folder}' if folder in IN_A_RECIPE else folder}={path.stem}")
    return found


CHOICES = groups(ROOT / "conf")


@pytest.fixture(autouse=True, scope="module")
def resolvers() -> None:
    OmegaConf.register_new_resolver("root", lambda name: f"/nowhere/{name}", replace=True)
    OmegaConf.register_new_resolver("run_name", lambda: "run", replace=True)


def composed(*overrides: str, conf: Path = ROOT / "conf") -> Values:
    """The config that the gate checks, as plain values."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf), version_base="1.3"):
        config = compose(
            "config", [*overrides, *ASKED_FOR.get(overrides[0] if overrides else "", ())], return_hydra_config=True
        )
    HydraConfig.instance().set_config(config)
    return resolved(config)


def leaves(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Dotted path and value of every option; `names` follows from others, and shares by layer are one option."""
    for key, value in node.items():
        here = (*path, str(key))
        if isinstance(value, Mapping) and value and here != ("ratio",):
            yield from leaves(value, here)
        elif here[0] != "names" and key not in ("_target_", "_partial_"):
            yield here, value


def changed(values: Values, path: tuple[str, ...], value: Any) -> Values:
    found = deepcopy(values)
    node = found
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return found


def is_refused(values: Values) -> bool:
    try:
        check_config(values)
        check_network(values)
    except ConfigError as error:
        assert "\n" not in str(error) and str(error).count(";") >= 2
        return True
    return False


DEFAULT = "seed=0"


@cache
def default() -> Values:
    return composed(DEFAULT)


@pytest.mark.parametrize("choice", [DEFAULT, *CHOICES])
def test_every_option_refuses_what_is_wrong(choice: str) -> None:
    values = composed(choice)
    check_keys(values)
    check_config(values)
    known = default() if choice != DEFAULT else {}
    mine = {key: part for key, part in values.items() if key not in known or known[key] != part}
    for path, value in leaves(mine):
        if {"where", "spelling"} & set(path):  # names of columns and rows, with values of any type
            continue
        wrong: list[Any] = [] if value is None else ["no such thing"] if isinstance(value, bool | int | float) else [3.5, True]
        if isinstance(value, bool):
            wrong.append(1)
        elif isinstance(value, int):
            wrong += [True, -1] if path[-1] != "ratio" else [-1, 1]
        elif isinstance(value, float):
            wrong += [-2.0, float("nan"), float("inf")]
        elif isinstance(value, str) and not FREE & set(path):
            wrong.append("no such thing")
        elif isinstance(value, list) and path[-1] != "name_after":
            wrong.append([{"no": "such thing"}])
        for each in wrong:
            assert is_refused(changed(values, path, each)), f"{'.'.join(path)}={each} is not refused"
    for path in {path[:-1] for path, _ in leaves(mine) if not {"where", "spelling"} & set(path)} - {(), ("ratio",)}:
        open_to_all = path[0] == "model" and values["model"].get("_target_", "").startswith(("timm.", "torchvision."))
        if not open_to_all:
            assert is_refused(changed(values, (*path, "zone"), "hello")), f"{'.'.join(path)}.zone is not refused"


# overrides, and tokens of the line: the option with its value, what is allowed, the way out
REFUSED: tuple[tuple[str, tuple[object, ...]], ...] = (
    *((f"ratio={bad}", ("ratio", 0, 1, "ratio=0.5")) for bad in "-0.1 1 1.0 1.5 nan inf abc true {} {conv1:1}".split()),
    ("ratio=", ("ratio=", "ratio=0.5")),
    ("recipe.epochs=-1", ("recipe.epochs=-1", 0)),
    ("finetune.epochs=1.5", ("finetune.epochs=1.5",)),
    ("recipe.batch_size=0", ("recipe.batch_size=0", 2)),
    ("recipe.batch_size=1", ("recipe.batch_size=1", 2)),
    ("recipe.lr=0", ("recipe.lr=0", "above 0")),
    ("recipe.lr=nan", ("recipe.lr=nan",)),
    ("recipe.weight_decay=-1", ("recipe.weight_decay=-1",)),
    ("recipe.augment=1", ("recipe.augment=1", "true or false")),
    ("dataset.crop_padding=-1", ("dataset.crop_padding=-1",)),
    ("dataset.flip=maybe", ("dataset.flip=maybe", "true or false")),
    ("dataset.random_labels=2", ("dataset.random_labels=2",)),
    ("seed=-1", ("seed=-1", 0, "seed=0")),
    ("seed=9223372036854775808", ("seed=9223372036854775808", "2^63 - 1")),
    ("seed=0.5", ("seed=0.5",)),
    ("min_keep=0", ("min_keep=0", 1)),
    ("min_keep=1.5", ("min_keep=1.5", "below 1")),
    ("start_layer=-1", ("start_layer=-1", 0)),
    ("skip=conv1", ("skip=conv1",)),
    ("skip=[0.5]", ("skip=[0.5]",)),
    ("skip=[0]", ("skip=[0]", 1)),
    ("model=timm model.model_name=resnet18 model.pretrained=true", ("model.pretrained=True", "weights=FILE")),
    ("model=timm model.model_name=../../x", ("model.model_name=../../x",)),
    (f"model=timm model.model_name={'x' * 300}", ("model.model_name",)),
    ("model=torchvision model.name=resnet18 +model.weights=DEFAULT", ("model.weights=DEFAULT", "weights=FILE")),
    ("runner=doctor runner.verify=perhaps", ("runner.verify=perhaps", "true or false")),
    ("runner=status sweep=3", ("sweep=3",)),
    ("hang_minutes=0", ("hang_minutes=0", "above 0, or null")),
    ("normalise=l1", ("normalise=l1", "none, mean, l2")),
    ("ratio_of=flops", ("ratio_of=flops", "filters, params or macs")),
    ("coupled=true", ("coupled=True", "skip, group or mask")),
    ("runner=sensitivity runner.ratios=[1]", ("runner.ratios=[1]",)),
    ("scope=lokal", ("scope=lokal", "layer or global", "scope=layer")),
    ("rounding=up", ("rounding=up", "floor_pruned, floor_kept or nearest")),
    ("device=gpu", ("device=gpu", "auto, cpu, cuda", "device=auto")),
    ("lock=fcntl", ("lock=fcntl", "auto, flock, lease or none")),
    ("rerun=1", ("rerun=1", "true or false")),
    ("debug=1", ("debug=1", "true or false")),
    ("weights=", ("weights=", "null")),
    ("weights_set=", ("weights_set=", "null")),
    ("weights=a.pt weights_set=3", ("weights_set=3", "null")),
    ("weights_set=ema", ("weights_set", "weights=FILE")),
    ("store=", ("store=",)),
    ("data_root=", ("data_root=", "null")),
    ("model.shortcut=foo", ("model.shortcut=foo", "pad, pad_end or conv")),
    ("model/attention=se model.attention.reduction=0", ("model.attention.reduction=0", 1)),
    ("model/attention=cbam model.attention.kernel=5", ("model.attention.kernel=5", "3 or 7")),
    ("model/attention=sge model.attention.groups=0", ("model.attention.groups=0", 1)),
    ("model/attention=srm +model.attention.reduction=16", ("model.attention.reduction",)),
    ("model.num_classes=hello", ("model.num_classes=hello",)),
    ("optimizer.momentum=-1", ("optimizer.momentum=-1",)),
    ("optimizer.fused=hello", ("optimizer.fused=hello", "true or false, or null")),
    ("+optimizer.foo=1", ("optimizer.foo", "dampening", "+optimizer.foo")),
    ("dataset.score_share=0", ("dataset.score_share=0",)),
    ("dataset.num_classes=0", ("dataset.num_classes=0", 2)),
    ("dataset.image_size=0", ("dataset.image_size=0",)),
    ("dataset.test_share=2", ("dataset.test_share=2",)),
    ("dataset.mean=abc", ("dataset.mean=abc",)),
    ("dataset.std=[0]", ("dataset.std=[0]", "above 0")),
    ("+dataset.foo=1", ("dataset.foo", "channels")),
    ("+recipe.foo=1", ("recipe.foo", "augment, batch_size, epochs")),
    ("+criterion.zone=hello", ("criterion.zone", "takes none")),
)


def test_a_value_outside_its_range_is_refused_with_the_way_out() -> None:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        job = composer(compose("config", return_hydra_config=True))
        check(job(("+reports.left_out=null",)))
        for overrides, tokens in REFUSED:
            with raises_line(ConfigError, *tokens):
                check(job(tuple(overrides.split())))


@pytest.mark.parametrize("choice", ["seed=0", *(each for each in CHOICES if each.startswith(("runner", "dataset", "model/")))])
def test_every_option_is_in_the_runs_key_or_is_bookkeeping(choice: str) -> None:
    values = composed(choice, "model=resnet20" if choice.startswith("model/") else "seed=0")
    name = run_name(values)
    for path, value in leaves(values):
        bookkeeping = (
            path[0] in BOOKKEEPING
            or path[0] == "dataset"
            and path[1] in DATASET_BOOKKEEPING
            or path[0] == "runner"
            and path[1] in RUNNER_BOOKKEEPING
            or path[-1] == "augment"
            and all(values["dataset"].get(key, off) == off for key, off in AUGMENTATION.items())  # nothing to turn off
        )
        if path[-1] == "name_after":
            continue
        other = not value if isinstance(value, bool) else value + 1 if isinstance(value, int | float) else "another"
        assert (run_name(changed(values, path, other)) == name) == bookkeeping, ".".join(path)


def unlisted(values: Values) -> set[str]:
    """Top-level options that rename finished runs without anybody having said so."""
    return set(values) - FIRST - BOOKKEEPING - {FIRST_NAMES.get(key, key) for key in NO_EFFECT} - set(FIRST_NAMES)


def test_every_top_level_option_is_listed() -> None:
    values = composed("seed=0")
    assert unlisted(values) == set()
    assert unlisted(values | {"novel": 1}) == {"novel"}
    defaults = {FIRST_NAMES.get(key, key): value for key, value in values.items()}
    assert {key: defaults[key] for key in NO_EFFECT} == NO_EFFECT


def broken(conf: Path, choice: str) -> bool:
    try:
        values = composed(choice, conf=conf)
        check_keys(values)
        check_config(values)
    except Exception:
        return True
    return False


@pytest.mark.parametrize(
    ("choice", "damage"),
    [
        ("experiment=published_resnet56", lambda text: text.replace("shortcut: pad", "shortcuts: pad")),
        ("experiment=published_resnet56", lambda text: text.replace("resnet56\nmodel", "resnet57\nmodel")),
        ("experiment=neurips21_fig5", lambda text: text.replace("analysis.applicability.app", "analysis.applicability.ap")),
        ("experiment=neurips21_fig5", lambda text: text.replace("above: 0.7", "over: 0.7")),
        ("dataset=fake", lambda text: text.replace("data.fake.fake", "data.fake.fakes")),
        ("dataset=fake", lambda text: text.replace("channels: 3", "channels: three")),
        ("dataset=fake", lambda text: text.replace("num_images", "n_images")),
        ("runner=iterative", lambda text: text.replace("pace: linear", "pace: fast")),
        ("runner=one_shot", lambda text: text.replace("runners.one_shot.run", "runners.oneshot.run")),
        ("preset=resnet56_b", lambda text: text.replace("0.6", "6")),
        ("recipe=cifar", lambda text: text.replace("epochs: 180", "epochs: many")),
        ("schedule@recipe.schedule=steps_82_164", lambda text: text.replace("[82, 164]", "82")),
        ("model=resnet20", lambda text: text.replace("depth", "deep")),
        ("criterion=apoz", lambda text: text.replace("post_act #", "post #")),
    ],
)
def test_a_broken_yaml_is_noticed(choice: str, damage: Callable[[str], str], tmp_path: Path, monkeypatch: Any) -> None:
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    monkeypatch.setattr(checks, "CONF", tmp_path / "conf")
    checks.file.cache_clear()
    group, _, name = choice.partition("=")
    path = tmp_path / "conf" / group.partition("@")[0] / f"{name}.yaml"
    assert not broken(tmp_path / "conf", choice)
    text = path.read_text()
    path.write_text(damage(text))
    assert path.read_text() != text
    checks.file.cache_clear()
    try:
        assert broken(tmp_path / "conf", choice)
    finally:
        checks.file.cache_clear()
