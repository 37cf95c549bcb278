"""Keys, the store, the run folder and weights from files: what must not be lost, mixed up or trusted blindly."""

import errno
import json
import logging
import os
import random
import shutil
import time
import zipfile
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from runners.process.errors import NumericalError, ResourceError, StoreError, UserError
from runners.process.interruption import Preempted
from runners.stages import DATASET, SCORES, SELECTION, TRAINED, TUNED
from runners.storage import folder as run_folder
from runners.storage import keys
from runners.storage.files import write_atomic, write_json
from runners.storage.keys import Keys, Stage, canonical, digest, file_digest, run_name, stage_options
from runners.storage.resume import Checkpoints
from runners.storage.stages import WEIGHTS, Stages
from runners.storage.store import MANIFEST, Store
from runners.storage.tables import read_table
from runners.storage.weights import load_weights, save_weights
from support import FixedKeys, check_line, names, raises_line

# Every key of the config, in small; the pinned keys below are of this one.
CONFIG: dict[str, Any] = {
    "ratio": 0.5,
    "scope": "layer",
    "rounding": "floor_pruned",
    "min_keep": 1,
    "start_layer": 0,
    "normalise": "none",
    "skip": [],
    "ratio_of": "filters",
    "coupled": "skip",
    "seed": 0,
    "score_batch_size": 128,
    "precision": "fp32",
    "weights": None,
    "data_root": None,
    "reports": {},
    "device": "auto",
    "outputs": "/somewhere/outputs",
    "store": "/somewhere/outputs/store",
    "lock": "auto",
    "rerun": False,
    "tensorboard": False,
    "compile": False,
    "cuda_graph": "auto",
    "threads": "auto",
    "debug": False,
    "names": {"runner": "one_shot", "model": "resnet56", "dataset": "fake", "criterion": "l1", "preset": None},
    "model": {"_target_": "models.cifar_resnet.cifar_resnet", "depth": 56, "num_classes": 10},
    "optimizer": {"_target_": "torch.optim.SGD", "_partial_": True, "momentum": 0.9},
    "recipe": {"epochs": 180, "lr": 0.1, "schedule": {"milestones": [82, 164], "gamma": 0.1}},
    "finetune": {"epochs": 40, "lr": 0.001},
    "dataset": {"_target_": "runners.data.fake.fake", "data_root": None, "download_root": "/somewhere", "seed": 0},
    "criterion": {"_target_": "criteria.norm.l1", "_partial_": True},
    "criteria": {
        "l1": {"_target_": "criteria.norm.l1", "_partial_": True},
        "l2": {"_target_": "criteria.norm.l2", "_partial_": True},
    },
    "runner": {"_target_": "runners.one_shot.run", "name_after": ["dataset", "model", "criterion", "ratio"]},
}
STAGES = {stage.name: stage for stage in (DATASET, TRAINED, SCORES, SELECTION, TUNED)}
SOME_TABLE, SOME_NETWORK = Stage("scores", 1), Stage("trained", 1)


def chain(config: Mapping[str, Any], data: str, stages: Mapping[str, Stage] = STAGES) -> dict[str, str]:
    """The keys of one-shot pruning."""
    contents = {"data": lambda: data, "precision": lambda: config["precision"]}
    return {name: Keys(stage_options(config), contents).of(stage) for name, stage in stages.items()}


def changed(**overrides: Any) -> dict[str, Any]:
    """CONFIG with some keys set; a dot is written as two underscores."""
    config = deepcopy(CONFIG)
    for key, value in overrides.items():
        *path, last = key.split("__")
        node = config
        for part in path:
            node = node[part]
        node[last] = value
    return config


def differing(config: dict[str, Any], data: str = "data") -> set[str]:
    """The stages whose keys are not those of CONFIG."""
    ours, theirs = chain(CONFIG, "data"), chain(config, data)
    return {stage for stage in STAGES if ours[stage] != theirs[stage]}


# Names, numbers and everything of them that a config may hold.
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=4), parts, max_size=4),
    max_leaves=12,
)


def shuffled(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict):
        items = list(value.items())
        rng.shuffle(items)
        return {key: shuffled(part, rng) for key, part in items}
    return [shuffled(part, rng) for part in value] if isinstance(value, list) else value


@settings(max_examples=40, database=None, deadline=None, derandomize=True)
@given(PLAIN, st.integers(0, 1000))
def test_the_order_of_keys_changes_no_digest_and_canonical_stays_as_it_is(value: Any, seed: int) -> None:
    other = shuffled(value, random.Random(seed))
    assert digest(value) == digest(other)
    assert canonical(canonical(value)) == canonical(value)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1, 1.0),
        (0.1, 1e-1),
        (100, 1e2),
        (0.3, 0.1 + 0.2),
        (0.0, -0.0),
        ((1, 2), [1, 2]),
        ({"a": 1, "b": 2}, {"b": 2.0, "a": 1.0}),
    ],
)
def test_one_value_in_two_spellings_is_one_key(a: Any, b: Any) -> None:
    assert digest(a) == digest(b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (True, 1),
        (False, 0),
        (None, 0),
        (None, "null"),
        ("1", 1),
        ([1, 2], [2, 1]),
        ([1, [2]], [[1], 2]),
        ({"a": {"b": 1}}, {"a": 1, "b": 1}),
        (0.5, 0.5000001),
        (1e-30, 2e-30),
        (10**9, 10**9 + 1),
    ],
)
def test_different_values_are_different_keys(a: Any, b: Any) -> None:
    assert digest(a) != digest(b)


def test_large_seeds_are_told_apart() -> None:
    # The gate takes seeds up to 2^63 - 1, and whole numbers are exact.
    assert digest(1234567890123) != digest(1234567890124)
    assert chain(changed(seed=2**63 - 1), "data")["trained"] != chain(changed(seed=2**63 - 2), "data")["trained"]


@pytest.mark.parametrize("value", [object(), {1, 2}, b"a", Path("a"), torch.ones(1)])
def test_what_is_no_plain_value_has_no_digest(value: Any) -> None:
    with pytest.raises(TypeError):
        digest({"a": [value]})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_has_no_digest(value: float) -> None:
    with pytest.raises(ValueError):
        digest({"a": value})


def test_digests_are_those_of_the_first_day() -> None:
    # SHA-256 of the text {"a":[1,0.1,true,null,"x"],"b":{}}, first 32 digits; sha256sum says the same.
    assert digest({"b": {}, "a": [1.0, 1e-1, True, None, "x"]}) == "d7ab80dfd81cbaa5b9404aed94a83284"


def test_keys_are_those_of_the_first_day() -> None:
    # Pinned from this code: another key means that every stored result is lost, and is a decision (Stage.version).
    assert chain(CONFIG, "data") == {
        "dataset": "3ab333d4bd8bf6d6523e809ef29f123d",
        "trained": "31018244370ce372a798fa8906a037b6",
        "scores": "d208c80416990b1a4ae10323645be60d",
        "selection": "f33405571e4ec5e5e723b3bac5cf3410",
        "tuned": "a3a13ad6bc9829b418a438953cd3ada1",
    }
    assert run_name(CONFIG) == "fake-resnet56-l1-0.5-seed0-dbab7f8f5d"


@pytest.mark.parametrize(
    ("overrides", "stages"),
    [
        ({"ratio": 0.3}, {"selection", "tuned"}),
        ({"scope": "global"}, {"selection", "tuned"}),
        ({"rounding": "nearest"}, {"selection", "tuned"}),
        ({"min_keep": 2}, {"selection", "tuned"}),
        ({"start_layer": 1}, {"selection", "tuned"}),
        ({"normalise": "rank"}, {"selection", "tuned"}),
        ({"skip": ["conv1"]}, {"selection", "tuned"}),
        ({"ratio_of": "macs"}, {"selection", "tuned"}),
        ({"coupled": "group"}, {"selection", "tuned"}),
        ({"ratio": {"conv1": 0.5, 2: 0.3}}, {"selection", "tuned"}),
        ({"names__preset": "resnet56_b"}, set()),
        ({"finetune__lr": 0.01}, {"tuned"}),
        ({"finetune__epochs": 3}, {"tuned"}),
        ({"recipe__lr": 0.2}, {"trained", "scores", "selection", "tuned"}),
        ({"recipe__schedule__milestones": [82, 163]}, {"trained", "scores", "selection", "tuned"}),
        ({"model__depth": 20}, {"trained", "scores", "selection", "tuned"}),
        ({"optimizer__momentum": 0.8}, {"trained", "scores", "selection", "tuned"}),
        ({"seed": 1}, {"trained", "scores", "selection", "tuned"}),
        ({"dataset__seed": 1}, set(STAGES)),
        ({"criteria__l2___target_": "criteria.norm.gm"}, {"scores", "selection", "tuned"}),
        # Another criterion of the set to prune by: the scores of the set are the same.
        ({"criterion": CONFIG["criteria"]["l2"], "names__criterion": "l2"}, {"selection", "tuned"}),
        # One from outside the set is scored as well.
        ({"criterion": {"_target_": "criteria.norm.gm"}, "names__criterion": "gm"}, {"scores", "selection", "tuned"}),
        # Of the same name as one of the set, but configured otherwise.
        ({"criterion": {"_target_": "criteria.norm.l1", "p": 3}}, {"scores", "selection", "tuned"}),
        ({"score_batch_size": 64}, {"scores", "selection", "tuned"}),
        ({"ratio": 0.50}, set()),
        ({"recipe__lr": 1e-1, "recipe__epochs": 180.0}, set()),
        ({"device": "cuda:1"}, set()),
        ({"outputs": "/elsewhere"}, set()),
        ({"store": "/elsewhere"}, set()),
        ({"lock": "lease"}, set()),
        ({"rerun": True}, set()),
        ({"debug": True}, set()),
        ({"tensorboard": True}, set()),
        ({"cuda_graph": False}, set()),
        ({"threads": 3}, set()),
        ({"precision": "fp32 compiled"}, {"trained", "scores", "selection", "tuned"}),
        ({"data_root": "/elsewhere", "dataset__data_root": "/elsewhere"}, set()),
        ({"dataset__download_root": "/elsewhere"}, set()),
        ({"runner": {"_target_": "runners.score_only.run"}, "names__runner": "score_only"}, set()),
    ],
)
def test_a_change_renames_what_depends_on_it_and_nothing_else(overrides: dict[str, Any], stages: set[str]) -> None:
    assert differing(changed(**overrides)) == stages


def test_other_images_under_the_same_name_rename_everything() -> None:
    assert differing(CONFIG, "other data") == set(STAGES)


def test_bookkeeping_changes_no_run_name() -> None:
    same = changed(device="cpu", outputs="/a", store="/b", rerun=True, debug=True, data_root="/c", dataset__data_root="/c")
    same |= {"tensorboard": True, "cuda_graph": False, "lock": "none"}
    assert run_name(same) == run_name(CONFIG)
    assert len({run_name(changed(**{key: 7})) for key in ("seed", "ratio", "min_keep", "recipe__lr", "finetune__lr")}) == 5


def test_a_run_by_layer_is_named_by_its_preset() -> None:
    by_layer = changed(ratio={"conv1": 0.5, 2: 0.3})
    assert run_name(by_layer).startswith("fake-resnet56-l1-by_layer-seed0-")
    preset = changed(ratio={"conv1": 0.5, 2: 0.3}, names__preset="resnet56_b")
    assert run_name(preset).startswith("fake-resnet56-l1-resnet56_b-seed0-")
    assert run_name(changed(names__preset="resnet56_b")).startswith("fake-resnet56-l1-0.5-seed0-"), "the ratio that counts"
    # No preset is spelt null by Hydra.
    assert run_name(changed(names__preset="null")) == run_name(CONFIG)


def test_given_weights_count_by_content_and_their_recipe_does_not(tmp_path: Path) -> None:
    one, copy, other = (tmp_path / name for name in ("a.th", "b.th", "c.th"))
    one.write_bytes(b"weights")
    copy.write_bytes(b"weights")
    other.write_bytes(b"other weights")

    def keys(path: Path, **overrides: Any) -> dict[str, str]:
        return chain(changed(weights=str(path), **overrides), "data")

    assert keys(one) == keys(copy) and run_name(changed(weights=str(one))) == run_name(changed(weights=str(copy)))
    assert keys(one)["trained"] != keys(other)["trained"] != chain(CONFIG, "data")["trained"]
    for overrides in ({"recipe__lr": 9}, {"seed": 9}, {"optimizer__momentum": 0}):
        assert keys(one, **overrides)["trained"] == keys(one)["trained"]
        assert keys(one, **overrides)["scores"] == keys(one)["scores"]
    assert keys(one, model__depth=20)["trained"] != keys(one)["trained"]
    assert keys(one, recipe__lr=9)["tuned"] == keys(one)["tuned"] != keys(one, seed=9)["tuned"]


def test_a_set_of_weights_counts_where_one_is_chosen(tmp_path: Path) -> None:
    path = tmp_path / "a.th"
    path.write_bytes(b"weights")
    # A config from before there was the option, and one with its default.
    first, default, ema, swa = (
        changed(weights=str(path), **chosen) for chosen in ({}, *({"weights_set": name} for name in (None, "ema", "swa")))
    )
    assert chain(first, "data") == chain(default, "data") and run_name(first) == run_name(default)
    assert len({chain(each, "data")[name] for each in (first, ema, swa) for name in ("trained", "scores", "tuned")}) == 9
    assert len({run_name(each) for each in (first, ema, swa)}) == 3


KEY = "ab" + "0" * 30


def write(content: bytes = b"content" * 100, name: str = "weights.bin") -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return fill


def test_what_is_published_is_found_whole(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.find("trained", KEY) is None
    entry = store.publish("trained", KEY, write())
    assert entry == tmp_path / "trained" / "ab" / KEY == store.find("trained", KEY)
    assert (entry / "weights.bin").read_bytes() == b"content" * 100
    manifest = json.loads((entry / MANIFEST).read_text())
    files = {"weights.bin": file_digest(entry / "weights.bin")}
    assert manifest == {"version": 1, "stage": "trained", "key": KEY, "numerics": [], "sha256": files}
    assert store.find("scores", KEY) is None and store.find("trained", "ab" + "1" * 30) is None
    assert [path.name for path in entry.parent.iterdir()] == [KEY]


def test_what_a_killed_process_left_is_ignored(tmp_path: Path) -> None:
    store = Store(tmp_path)
    left = tmp_path / "trained" / "ab" / f"tmp.{KEY}.123.deadbeef"
    left.mkdir(parents=True)
    (left / "weights.bin").write_bytes(b"half")
    assert store.find("trained", KEY) is None
    assert store.publish("trained", KEY, write()) == store.find("trained", KEY)


def test_a_failing_maker_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "weights.bin").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).publish("trained", KEY, fail)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert Store(tmp_path).find("trained", KEY) is None


@pytest.mark.parametrize(("second", "told"), [(b"first", False), (b"second", True)])
def test_the_first_of_two_results_stands_and_a_difference_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, second: bytes, told: bool
) -> None:
    store = Store(tmp_path)

    def slower(folder: Path) -> None:
        store.publish("trained", KEY, write(b"first"))
        (folder / "weights.bin").write_bytes(second)

    with caplog.at_level(logging.WARNING):
        entry = store.publish("trained", KEY, slower)
    assert (entry / "weights.bin").read_bytes() == b"first" and store.find("trained", KEY) == entry
    assert [path.name for path in entry.parent.iterdir()] == [KEY]
    assert len(caplog.records) == told
    for record in caplog.records:
        check_line(record.message, "trained", KEY[:10])


def test_every_flipped_bit_is_found_and_the_entry_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, rng = Store(tmp_path), random.Random(0)
    torch.manual_seed(0)
    network = nn.Linear(16, 8)
    n_silent = 0
    for _ in range(60):
        entry = store.publish("trained", KEY, lambda folder: save_weights(network, folder / "weights.safetensors"))
        path = entry / "weights.safetensors"
        content = bytearray(path.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        try:
            load_file(path)
            n_silent += 1
        except SafetensorError:
            pass
        with caplog.at_level(logging.WARNING):
            assert store.find("trained", KEY) is None
        assert not entry.exists()
    assert len(list((tmp_path / "trained" / "ab").glob(f"{KEY}.corrupt-*"))) == 60
    assert len(caplog.records) == 60
    for record in caplog.records:
        check_line(record.message, "trained", KEY[:10])
    # The control: without the hashes most of these files load as if nothing were wrong.
    assert n_silent > 30


def edited(**changes: Any) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:40]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(bytes(100)),
        lambda path: path.write_text("[]"),
        lambda path: path.write_text("null"),
        edited(key="ab" + "1" * 30),
        edited(stage="scores"),
        edited(sha256={"weights.bin": "0" * 64}),
        edited(sha256={"other.bin": "0" * 64}),
        edited(sha256={}),
        edited(sha256=None),
    ],
)
def test_a_damaged_manifest_sets_the_entry_aside(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    store = Store(tmp_path)
    entry = store.publish("trained", KEY, write())
    damage(entry / MANIFEST)
    assert store.find("trained", KEY) is None and not entry.exists()
    assert len(list(entry.parent.glob(f"{KEY}.corrupt-*"))) == 1
    assert store.publish("trained", KEY, write()) == store.find("trained", KEY)


def test_a_missing_file_sets_the_entry_aside(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry = store.publish("trained", KEY, write())
    (entry / "weights.bin").unlink()
    assert store.find("trained", KEY) is None and not entry.exists()


@pytest.mark.parametrize("damaged", ["weights.bin", MANIFEST])
def test_publishing_over_a_damaged_entry_does_not_hand_out_the_damage(tmp_path: Path, damaged: str) -> None:
    # rerun=true publishes without asking find first.
    store = Store(tmp_path)
    entry = store.publish("trained", KEY, write())
    (entry / damaged).write_bytes(b"damage")
    assert (store.publish("trained", KEY, write()) / "weights.bin").read_bytes() == b"content" * 100
    assert store.find("trained", KEY) is not None


def test_an_entry_of_a_newer_version_is_refused_by_name_and_left_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry = store.publish("trained", KEY, write())
    edited(version=3)(entry / MANIFEST)
    with raises_line(StoreError, "version 3", 1):
        store.find("trained", KEY)
    assert entry.is_dir()
    manifest = json.loads((entry / MANIFEST).read_text())
    del manifest["version"]  # as entries were before there was one
    write_json(entry / MANIFEST, manifest)
    assert store.find("trained", KEY) == entry


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ENOENT])
@pytest.mark.parametrize("call", ["read_bytes", "iterdir", "open"])
def test_reading_an_entry_survives_a_network_s_hiccups(
    number: int, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    entry = store.publish("trained", KEY, write())
    original, left = getattr(Path, call), 2

    def hiccup(self: Path, *arguments: Any, **options: Any) -> Any:
        nonlocal left
        if left and entry in (self, self.parent):
            left -= 1
            raise OSError(number, os.strerror(number))
        return original(self, *arguments, **options)

    monkeypatch.setattr(Path, call, hiccup)
    assert store.find("trained", KEY) == entry and left == 0
    left = 3
    if number == errno.ENOENT:
        assert store.find("trained", KEY) is None and not entry.exists(), "what stays away is damage"
    else:
        with raises_line(StoreError, entry, os.strerror(number)):
            store.find("trained", KEY)
        assert entry.exists(), "nothing is set aside that could not be read"


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ENOENT])
def test_reading_a_stored_table_survives_them_too(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = Stages(Store(tmp_path), FixedKeys({"scores": KEY}))
    table = pd.DataFrame({"score": [0.1]})
    left = 2

    def hiccup(path: Path) -> pd.DataFrame:
        nonlocal left
        if left:
            left -= 1
            raise OSError(number, os.strerror(number))
        return read_table(path)

    monkeypatch.setattr("runners.storage.stages.read_table", hiccup)
    pd.testing.assert_frame_equal(stages.table(SOME_TABLE, lambda: table), table)
    assert left == 0
    left = 3
    with raises_line(StoreError, "scores", os.strerror(number)):
        stages.table(SOME_TABLE, lambda: table)


@pytest.mark.parametrize(
    ("below", "error"),
    [("", ResourceError), ("scores", StoreError)],
)
def test_a_store_deleted_while_a_run_reads_is_one_line(
    below: str, error: type[UserError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = Stages(Store(tmp_path / "store"), FixedKeys({"scores": KEY}))
    table = pd.DataFrame({"score": [0.1]})

    def deleted(self: Stages, stage: Stage, produce: Any, made_on: Any) -> Path:
        entry = original(self, stage, produce, made_on)
        shutil.rmtree(tmp_path / "store" / below)
        return entry

    original = Stages._entry
    with monkeypatch.context() as patch:
        patch.setattr(Stages, "_entry", deleted)
        with raises_line(error, tmp_path / "store", "store="):
            stages.table(SOME_TABLE, lambda: table)
        assert list(tmp_path.rglob("tmp.*")) == []
    pd.testing.assert_frame_equal(stages.table(SOME_TABLE, lambda: table), table)  # the same command makes it anew
    assert Store(tmp_path / "store").find("scores", KEY)


def test_an_entry_says_who_had_a_part_in_it_and_is_the_same_whoever_had(tmp_path: Path) -> None:
    table = pd.DataFrame({"score": [0.1]})
    here, there = (Stages(Store(tmp_path / name), FixedKeys({"scores": KEY}), numerics=name) for name in ("here", "there"))
    for stages in (here, there):
        stages.table(SOME_TABLE, lambda: table)
    assert (here.made.made_on, there.made.made_on) == ({"scores": ["here"]}, {"scores": ["there"]})
    assert here.made.contents == there.made.contents
    later = Stages(Store(tmp_path / "here"), FixedKeys({"scores": KEY}), numerics="later")
    later.table(SOME_TABLE, lambda: table)
    assert later.made.made_on == {"scores": ["here"]}, "it was found, not made"


def test_a_network_that_several_machines_trained_names_them_all(tmp_path: Path) -> None:
    def train(checkpoints: Checkpoints) -> tuple[nn.Module, pd.DataFrame]:
        steps = (checkpoints.load() or {"step": 0})["step"]
        checkpoints.save({"step": steps + 1})
        if steps < 2:
            raise Preempted("stopped")
        return network(), pd.DataFrame({"epoch": [1]})

    for machine in ("first", "second"):
        with pytest.raises(Preempted):
            Stages(Store(tmp_path), FixedKeys({"trained": KEY}), numerics=machine).network(SOME_NETWORK, network(), train)
    last = Stages(Store(tmp_path), FixedKeys({"trained": KEY}), numerics="last")
    last.network(SOME_NETWORK, network(), train)
    assert last.made.made_on == {"trained": ["first", "last", "second"]}


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_store_that_no_longer_takes_files_is_a_resource_error(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *arguments: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with raises_line(ResourceError, os.strerror(number)) as caught:
        Store(tmp_path).publish("trained", KEY, write())
    assert list(tmp_path.iterdir()) == []
    assert (" MB free" in str(caught.value)) == (number == errno.EDQUOT)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["0.weight", "1.running_var"])
def test_weights_that_are_no_numbers_are_not_published(name: str, bad: float, tmp_path: Path) -> None:
    stages = Stages(Store(tmp_path), FixedKeys({"trained": KEY}))
    sick = network()
    sick.state_dict()[name].view(-1)[0] = bad
    history = pd.DataFrame({"epoch": [1]})
    with raises_line(NumericalError, "'trained'", name):
        stages.network(SOME_NETWORK, network(), lambda unfinished: (sick, history))
    assert Store(tmp_path).find("trained", KEY) is None
    stages.network(SOME_NETWORK, network(), lambda unfinished: (network(), history))
    assert Store(tmp_path).find("trained", KEY), "the control: finite weights are"


def test_a_pickle_in_the_place_of_stored_weights_is_not_run_even_if_its_hash_is_right(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    stages = Stages(Store(tmp_path / "store"), FixedKeys({"trained": KEY}))
    history = pd.DataFrame({"epoch": [1]})
    stages.network(SOME_NETWORK, network(), lambda unfinished: (network(), history))
    entry = Store(tmp_path / "store").find("trained", KEY)
    assert entry is not None
    for payload in payloads(canary).values():
        torch.save(payload, entry / WEIGHTS)
        hashes = {name: file_digest(entry / name) for name in (WEIGHTS, "history.csv")}
        edited(sha256=hashes)(entry / MANIFEST)
        with pytest.raises(StoreError):
            stages.network(SOME_NETWORK, network(), lambda unfinished: (network(), history))
    assert not canary.exists()


def test_what_killed_processes_left_goes_after_a_day_of_the_file_server_s_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    folder = tmp_path / "trained" / "ab"
    for name, days in (("old", 1.1), ("young", 0.9)):
        left = folder / f"tmp.{name}"
        left.mkdir(parents=True)
        (left / "weights.bin").write_bytes(b"half")
        then = left.stat().st_mtime - days * 86400
        os.utime(left, (then, then))
    monkeypatch.setattr(time, "time", lambda: 0.0)  # this host's clock counts for nothing
    store.publish("trained", KEY, write())
    assert sorted(path.name for path in folder.iterdir()) == [KEY, "tmp.young"]


def raised(name: str) -> dict[str, Stage]:
    """STAGES with a higher version of one of them."""
    found: dict[str, Stage] = {}
    for each, stage in STAGES.items():
        after = tuple(found[earlier.name] for earlier in stage.after)
        found[each] = replace(stage, after=after, version=stage.version + (each == name))
    return found


def test_a_raised_version_renames_its_stage_and_all_that_follow() -> None:
    before = chain(CONFIG, "data")
    for place, name in enumerate(STAGES):
        after = chain(CONFIG, "data", raised(name))
        assert [each for each in STAGES if before[each] != after[each]] == list(STAGES)[place:]


def test_runs_whose_results_of_one_key_differ_are_told_apart() -> None:
    def facts(content: str, key: str = "k") -> dict[str, Any]:
        return {"keys": {"dataset": "d", "trained": key}, "contents": {"trained": content}}

    assert run_folder.mixed({"a": facts("1"), "b": facts("1"), "c": facts("2", "l"), "d": {"keys": {}}}) == {}
    assert run_folder.mixed({"a": facts("1"), "b": facts("2"), "c": facts("1"), "d": facts("3", "l")}) == {
        "trained k": {"1": ["a", "c"], "2": ["b"]}
    }


def test_publishing_puts_files_folder_and_parents_to_disk_in_that_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def noted_fsync(descriptor: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def noted_rename(self: Path, target: Path) -> Path:
        done.append(f"-> {target.name}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    Store(tmp_path / "store").publish("trained", KEY, write())
    named = ["folder" if name.startswith("tmp.") else "a" if name.startswith(f".{MANIFEST}") else name for name in done]
    assert named == ["weights.bin", "a", f"-> {MANIFEST}", "folder", f"-> {KEY}", "ab", "trained", "store"]


def no_space(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_full_disk_is_a_resource_error_and_leaves_no_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    store = Store(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os if call == "fsync" else Path, call, no_space)
        with raises_line(ResourceError, tmp_path, os.strerror(errno.ENOSPC)):
            store.publish("trained", KEY, write())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [] and store.find("trained", KEY) is None


def test_a_disk_that_fills_while_safetensors_writes_is_a_resource_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What safetensors 0.8 raises on a full disk (seen with RLIMIT_FSIZE): not an OSError.
    def fill(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("runners.storage.weights.save_file", fill)
    with pytest.raises(ResourceError):
        Store(tmp_path).publish("trained", KEY, lambda folder: save_weights(nn.Linear(1, 1), folder / "w.safetensors"))


@pytest.mark.parametrize(("owner", "call"), [(os, "fsync"), (Path, "rename")])
def test_write_atomic_keeps_the_old_content_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, call: str
) -> None:
    path = tmp_path / "run.json"
    write_atomic(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(owner, call, no_space)
        with raises_line(ResourceError, path, os.strerror(errno.ENOSPC)):
            write_atomic(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(ResourceError):
        write_atomic(tmp_path / "missing" / "run.json", b"new")


def test_json_is_strict(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_goes_from_running_to_failed_to_done(tmp_path: Path) -> None:
    assert not run_folder.is_done(tmp_path)
    run_folder.start(tmp_path, {"ratio": 0.5})
    status = json.loads((tmp_path / run_folder.STATUS).read_text())
    assert status["state"] == "running" and status["pid"] == os.getpid()
    assert (tmp_path / run_folder.CONFIG).read_text() == "ratio: 0.5\n" and not run_folder.is_done(tmp_path)
    run_folder.fail(tmp_path, "went wrong", 5, "Traceback ...")
    status = json.loads((tmp_path / run_folder.STATUS).read_text())
    assert (status["state"], status["error"], status["exit_code"]) == ("failed", "went wrong", 5)
    assert (tmp_path / run_folder.ERROR_LOG).read_text() == "Traceback ..." and not run_folder.is_done(tmp_path)
    run_folder.start(tmp_path, {"ratio": 0.5})
    assert not (tmp_path / run_folder.ERROR_LOG).exists()
    finished(tmp_path)
    assert run_folder.is_done(tmp_path)


ACCURACY = pd.DataFrame(
    {
        "stage": ["trained", "tuned"],
        "loss_nats": [0.1 + 0.2, float("nan")],
        "n_correct": [3, 4],
        "best_epoch": pd.array([None, 7], dtype="Int64"),
        "note": ["", "a"],
    }
)


def finished(folder: Path) -> None:
    """A run folder as a run leaves it."""
    run_folder.start(folder, {"ratio": 0.5})
    run_folder.write_table(folder, "accuracy", ACCURACY)
    run_folder.write_table(folder, "spearman", pd.DataFrame({"rho": [0.5, 0.25]}))
    run_folder.write_text(folder, "93.39 %")
    run_folder.finish(folder, {"seed": 0})


def test_a_finished_run_has_the_hashes_of_its_facts_text_and_tables(tmp_path: Path) -> None:
    finished(tmp_path)
    assert json.loads((tmp_path / run_folder.FACTS).read_text()) == {"seed": 0}
    status = json.loads((tmp_path / run_folder.STATUS).read_text())
    names = ("accuracy.csv", "run.json", "spearman.csv", "summary.txt")
    assert status["sha256"] == {name: file_digest(tmp_path / name) for name in names}


@pytest.mark.parametrize("name", ["run.json", "accuracy.csv", "spearman.csv"])
def test_a_run_folder_with_any_flipped_bit_or_torn_file_is_not_done(tmp_path: Path, name: str) -> None:
    finished(tmp_path)
    path, rng = tmp_path / name, random.Random(0)
    whole = path.read_bytes()
    for _ in range(50):
        broken = bytearray(whole)
        broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        path.write_bytes(broken if rng.random() < 0.8 else whole[: rng.randrange(len(whole))])
        assert not run_folder.is_done(tmp_path)
    path.unlink()
    assert not run_folder.is_done(tmp_path)
    path.write_bytes(whole)
    assert run_folder.is_done(tmp_path), "the control: whole again"


def test_a_run_folder_from_before_there_were_hashes_is_not_done(tmp_path: Path) -> None:
    finished(tmp_path)
    (tmp_path / run_folder.STATUS).write_text('{"state": "done", "ended": "2026-01-01T00:00:00Z"}')
    assert not run_folder.is_done(tmp_path)
    (tmp_path / run_folder.STATUS).write_text(json.dumps({"state": "done", "sha256": {}}))  # no hash of run.json
    assert not run_folder.is_done(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"done"',
        b'{"state": "done", "sha256": 3}',
        b'{"state": "running"}',
        b"{}",
        b"\xff\xfe",
        bytes(20),
    ],
)
def test_a_broken_status_is_not_done(tmp_path: Path, content: bytes) -> None:
    (tmp_path / run_folder.STATUS).write_bytes(content)
    assert not run_folder.is_done(tmp_path)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(8, 2))


def refused(path: Path) -> str:
    blank = network(1)
    before = deepcopy(blank.state_dict())
    with pytest.raises(StoreError) as caught:
        load_weights(blank, path)
    assert all(torch.equal(before[name], value) for name, value in blank.state_dict().items())
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"weights={path} ") and len(message) < 600
    return message


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in network().state_dict().items()}


@pytest.mark.parametrize("suffix", [".th", ".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda: prefixed(""),
        lambda: prefixed("module."),
        lambda: prefixed("_orig_mod."),
        lambda: prefixed("module._orig_mod."),
        lambda: {"state_dict": prefixed("module."), "best_prec1": 93.39, "epoch": 180},
        lambda: {"model": prefixed("")},
        lambda: {name: value for name, value in prefixed("").items() if "num_batches" not in name},
    ],
)
def test_weights_come_back_from_every_usual_form(tmp_path: Path, suffix: str, wrap: Callable[[], Any]) -> None:
    path, content, blank = tmp_path / f"a{suffix}", wrap(), network(1)
    if suffix == ".safetensors":  # which holds tensors only, and so no wrapper
        save_file(content.get("state_dict", content.get("model", content)), path)
    else:
        torch.save(content, path)
    load_weights(blank, path)
    assert all(torch.equal(value, blank.state_dict()[name]) for name, value in network().state_dict().items())


def test_saved_weights_come_back_bit_for_bit(tmp_path: Path) -> None:
    saved, blank = network(), network(1)
    saved.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    save_weights(saved, tmp_path / "a.safetensors")
    load_weights(blank, tmp_path / "a.safetensors")
    assert all(torch.equal(value, blank.state_dict()[name]) for name, value in saved.state_dict().items())


@pytest.mark.parametrize("suffix", [".th", ".pt", ".pth", ".safetensors"])
def test_broken_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path, good = tmp_path / f"a{suffix}", tmp_path / f"good{suffix}"
    assert "no file" in refused(path)
    save_weights(network(), good) if suffix == ".safetensors" else torch.save(network().state_dict(), good)
    whole = good.read_bytes()
    rng = random.Random(0)
    for length in [0, 1, 7, 8, 100, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(20))]:
        path.write_bytes(whole[:length])
        assert "read" in refused(path) or "pickle" in refused(path)
    for content in (bytes(1000), b"just text\n" * 50, b"PK\x03\x04" + bytes(500)):
        path.write_bytes(content)
        refused(path)
    for content in (b"<!DOCTYPE html><html>not found</html>", b"\n <HTML>"):
        path.write_bytes(content)
        assert "web page" in refused(path)


def test_other_file_names_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    path.write_bytes(b"a")
    check_line(refused(path), "'.npz'", ".th, .pt, .pth, .safetensors")
    assert "no file" in refused(tmp_path)


class Runs:
    """A pickle that calls `function(*arguments)` when it is read."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def payloads(canary: Path) -> dict[str, Any]:
    make = f"__import__('os').mkdir({str(canary)!r})"
    return {
        "os.system": Runs(os.system, f"mkdir {canary}"),
        "posix.mkdir": Runs(os.mkdir, str(canary)),
        "builtins.eval": Runs(eval, make),
        "builtins.exec": Runs(exec, make),
        "inside a state dict": prefixed("") | {"extra": Runs(os.mkdir, str(canary))},
        "as a wrapper": {"state_dict": prefixed(""), "meta": Runs(eval, make)},
        "getattr": Runs(getattr, Path, "mkdir"),
        "a whole module": network(),
    }


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", list(payloads(Path("canary"))))
def test_pickles_that_would_run_code_are_refused_unread(tmp_path: Path, name: str, legacy: bool) -> None:
    canary, path = tmp_path / "canary", tmp_path / "a.pt"
    torch.save(payloads(canary)[name], path, _use_new_zipfile_serialization=not legacy)
    assert names(refused(path), "pickle")
    assert not canary.exists()
    if name not in ("getattr", "a whole module"):
        torch.load(path, weights_only=False)
        assert canary.exists()  # the control: the trap does go off when it is read


def test_archives_with_code_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"cposix\nmkdir\n(S'canary'\ntR.")
        archive.writestr("a/constants.pkl", b"")
        archive.writestr("a/code/a.py", b"import os")
        archive.writestr("a/version", b"3\n")
    refused(path)
    assert not (tmp_path / "canary").exists() and not Path("canary").exists()


def test_a_network_whose_names_look_like_a_wrapper_comes_back(tmp_path: Path) -> None:
    wrapped = nn.ModuleDict({"net": nn.Linear(2, 2)})
    save_weights(wrapped, tmp_path / "a.safetensors")
    blank = nn.ModuleDict({"net": nn.Linear(2, 2)})
    load_weights(blank, tmp_path / "a.safetensors")
    assert torch.equal(blank["net"].weight, wrapped["net"].weight)  # type: ignore[arg-type]


def test_shared_parameters_are_saved(tmp_path: Path) -> None:
    tied = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    tied[1].weight = tied[0].weight  # type: ignore[assignment]
    save_weights(tied, tmp_path / "a.safetensors")
    load_weights(tied, tmp_path / "a.safetensors")


def test_a_file_counts_by_content_wherever_it_is_named_and_prose_does_not(tmp_path: Path) -> None:
    path = tmp_path / "ck.pth"
    path.write_bytes(b"one")
    config = changed(model__checkpoint_path=str(path))
    before = chain(config, "data")["trained"]
    path.write_bytes(b"two")
    assert chain(config, "data")["trained"] != before
    assert differing(changed(dataset__about="other words")) == set()
    assert differing(changed(model__device="cuda")) == {"trained", "scores", "selection", "tuned"}
    assert differing(changed(dataset__score_share=0.2)) == {"scores", "selection", "tuned"}


def test_weights_of_another_network_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    state = prefixed("")
    torch.save({"0.weight": torch.ones(5, 3, 3, 3), "other": torch.ones(1), "0.bias": state["0.bias"]}, path)
    message = refused(path)
    # 1.weight 1.bias 1.running_mean 1.running_var 3.weight 3.bias missing, other unknown, 0.weight of another shape: eight.
    check_line(message, "Sequential", "1.weight", "1.bias", "1.running_mean", "5 more")
    torch.save(state | {"0.weight": torch.ones(5, 3, 3, 3)}, path)
    check_line(refused(path), "0.weight", "5x3x3x3", "4x3x3x3")
    torch.save(state | {"extra": torch.ones(())}, path)
    check_line(refused(path), "(extra")


@pytest.mark.parametrize(
    "content", [{}, [], None, 3.0, {"state_dict": {}}, {"weight": 1.0}, torch.ones(3), {"epoch": 1, "lr": 0.1}]
)
def test_files_without_a_state_dict_are_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "a.pt"
    torch.save(content, path)
    check_line(refused(path), "tensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_no_numbers_are_refused_with_their_name(tmp_path: Path, value: float) -> None:
    state = prefixed("")
    state["3.weight"][1, 2] = value
    torch.save(state, tmp_path / "a.pt")
    check_line(refused(tmp_path / "a.pt"), "3.weight", "finite")


@pytest.mark.parametrize(
    "tensor",
    [
        lambda shape: torch.full(shape, 1e300, dtype=torch.float64),  # infinite in float32
        lambda shape: torch.ones(shape, dtype=torch.complex64),
        lambda shape: torch.ones(shape, dtype=torch.bool),
        lambda shape: torch.ones(shape).to_sparse(),
        lambda shape: torch.ones(shape, device="meta"),
    ],
    ids=["too large", "complex", "bool", "sparse", "meta"],
)
@pytest.mark.filterwarnings("ignore")  # as the command line does
def test_values_that_do_not_fit_the_network_are_refused(tmp_path: Path, tensor: Callable[[Any], torch.Tensor]) -> None:
    torch.save(prefixed("") | {"3.weight": tensor((2, 8))}, tmp_path / "a.pt")
    refused(tmp_path / "a.pt")


def test_half_precision_weights_are_taken(tmp_path: Path) -> None:
    state = {name: value.half() if value.is_floating_point() else value for name, value in prefixed("").items()}
    torch.save(state, tmp_path / "a.pt")
    blank = network(1)
    load_weights(blank, tmp_path / "a.pt")
    assert torch.equal(blank.get_parameter("3.weight"), state["3.weight"].float())


def test_augmentation_moved_to_the_data_set_keeps_every_key() -> None:
    first = changed(
        recipe__crop_padding=4, recipe__flip=True, finetune__crop_padding=0, finetune__flip=False, dataset__num_classes=10
    )
    now = changed(
        dataset__crop_padding=4,
        dataset__flip=True,
        dataset__num_classes=10,
        dataset__random_labels=0.0,
        dataset__num_workers=2,
        recipe__augment=True,
        finetune__augment=False,
    )
    assert keys.influential(now) == keys.influential(first)
    assert chain(now, "data") == chain(first, "data") and run_name(now) == run_name(first)
    assert keys.as_first_written(keys.as_first_written(now)) == keys.as_first_written(now)


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        ({"recipe__augment": False}, {"trained", "scores", "selection", "tuned"}),
        ({"finetune__augment": False}, {"tuned"}),
        ({"dataset__flip": False}, {"trained", "scores", "selection", "tuned"}),
        ({"dataset__random_labels": 0.5}, set(STAGES)),
        ({"dataset__num_workers": 7}, set()),
    ],
)
def test_augmentation_changes_what_is_trained_with_it(change: dict[str, Any], stages: set[str]) -> None:
    both = {"dataset__flip": True, "dataset__crop_scale": [0.08, 1], "dataset__num_workers": 2}
    ours, theirs = chain(changed(**both), "data"), chain(changed(**both | change), "data")
    assert {stage for stage in STAGES if ours[stage] != theirs[stage]} == stages
