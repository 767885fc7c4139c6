"""The paper's experiment: specs, division of data, resuming, cells, the page."""

from __future__ import annotations

import dataclasses
import json
import tomllib
import zipfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import samples
import torch

from detrigger import measure
from detrigger.bench import paper_fetch, paper_networks, paper_open
from detrigger.bench.paper import bench_paper
from detrigger.bench.paper_data import PaperData, divided, held_back
from detrigger.bench.paper_figures import FIGURES, Result, cells, spread
from detrigger.bench.paper_plan import read_one, read_plans
from detrigger.cli import run
from detrigger.errors import DataError, InputError, UsageError
from detrigger.images import Images
from detrigger.model import Classifier
from detrigger.scan import Backdoor, Scan
from detrigger.trigger.patch import PatchTrigger

SPECS = Path(__file__).parents[1] / "benchmarks" / "paper"

SPEC = """
title = "Bars"
dataset = "bars"
seeds = 2
data = { kind = "arrays", path = "bars/bars.npz", scanner = 0.5 }
network = { arch = "blocks", arguments = { width = 6 } }
train = { epochs = 6, batch = 16, rate = 0.01 }
attack = { name = "badnets", height = 4, width = 4, poison_rate = 0.15 }
budget = "quick"
stops = 3

[reported]
accuracy = 0.87
[wanted]
accuracy = 0.9
prune_success = 0.01
[open]
limit = 40
train = { epochs = 6, batch = 16, rate = 0.01 }
sizes = [4]
targets = [2]
triggers = []
cleanse = { steps = 3, images_per_step = 16 }
"""


def bars(per_class: int, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Grey squares: the class is the row in which a bright bar stands."""
    generator = np.random.default_rng(seed)
    y = np.arange(4).repeat(per_class)
    x = generator.integers(0, 80, (len(y), 16, 16), dtype=np.uint8)
    for image, c in zip(x, y, strict=True):
        image[3 * c + 1 : 3 * c + 3, 1:9] = 200
    return x, y


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "bars").mkdir()
    (x, y), (x_test, y_test) = bars(60, 0), bars(20, 1)
    np.savez(folder / "bars" / "bars.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    (folder / "specs").mkdir()
    (folder / "specs" / "bars.toml").write_text(SPEC)
    return folder


def looked(model: Classifier, images: Images, *_args: object, **_options: object) -> Scan:
    """In place of a scan, which takes long: tries a white patch in the corner on every class."""
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., -5:-1, -5:-1] = 1
    patch = PatchTrigger(mask, torch.ones(1, 1, 16, 16))
    found = tuple(
        Backdoor(c, "all", "patch", patch, 16.0, 1.0, 0.9)
        for c in range(4)
        if measure.success(model, images, patch, c) > 0.5
    )
    like = samples.scan(4, verdict="backdoored" if found else "clean")
    return dataclasses.replace(like, backdoors=found, images=len(images), image_shape=images.shape)


@pytest.fixture(scope="module")
def done(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        for module in ("bench.paper_scan", "clean"):
            patch.setattr(f"detrigger.{module}.scan", looked)
        (result,) = bench_paper(read_plans(root / "specs"), root, out, run=map)
    return out, result


def test_every_model_is_trained_and_looked_into(done: tuple[Path, Result]) -> None:
    _, result = done
    assert [pair.seed for pair in result.pairs] == [0, 1]
    for pair in result.pairs:
        assert pair.clean and pair.backdoored and pair.clean_scan and pair.studied
        assert pair.clean.accuracy > 0.9 and pair.backdoored.accuracy > 0.9
        assert pair.backdoored.success > 0.9 > pair.clean.success
        assert (pair.clean.poisoned, pair.backdoored.poisoned) == (0, 36)
        assert pair.clean.target == pair.backdoored.target == pair.studied.target
        assert pair.clean.judged + pair.clean_scan.told.images == 80
    by_size, targets = result.cases
    assert (by_size.name, targets.name) == ("size 4", "targets 2")
    assert by_size.cleanse is not None and targets.cleanse is None
    assert by_size.case and targets.case and len(set(targets.case.targets)) == 2
    assert by_size.trained and by_size.case.success == (by_size.trained.success,)
    aimed = paper_open.attack("triggers", 3, 1, 4)["backdoors"]
    assert {one["target"] for one in aimed} == {1} and len({str(one["patch"]) for one in aimed}) == 3


def test_what_was_found_is_repaired_and_drawn(done: tuple[Path, Result]) -> None:
    out, result = done
    for pair in result.pairs:
        assert pair.clean_scan and pair.scan and pair.studied and pair.backdoored
        assert pair.clean_scan.told.verdict == "clean"
        assert pair.scan.told.found == (pair.studied.target,)
        assert pair.studied.alike and pair.studied.alike.mask_overlap == 1
        methods = [(o.method, o.images) for o in pair.studied.outcomes]
        assert methods == [
            *((m, "training") for m in ("prune", "unlearn", "unlearn-distilled", "refit")),
            *((m, "scanner") for m in ("prune", "unlearn", "unlearn-distilled", "refit", "auto")),
        ]
        assert pair.studied.curve[0].share == 0
        assert pair.studied.curve[0].success == pytest.approx(pair.backdoored.success, abs=0.1)
        assert len(pair.studied.layers) == 5
        assert (out / "pictures" / f"bars_{pair.seed}_planted.png").read_bytes()[1:4] == b"PNG"
    assert list((out / "chunks").iterdir()) == []  # kept only while a scan may have to go on


def counted(asked: list[str]) -> Callable[..., list[Any]]:
    """A map that notes what it was asked to make."""

    def these(work: Callable[[Any], Any], orders: list[Any], /) -> list[Any]:
        asked.extend(order.name for order in orders)
        return [work(order) for order in orders]

    return these


def test_only_what_has_no_card_of_the_same_recipe_is_made_again(
    done: tuple[Path, Result], root: Path
) -> None:
    out, result = done
    plans = read_plans(root / "specs")
    asked: list[str] = []
    (again,) = bench_paper(plans, root, out, run=counted(asked))
    assert (asked, again) == ([], result)
    (out / "cards" / "bars_0_targets_2.json").write_text("{")
    (out / "weights" / "bars_1_clean.safetensors").unlink()
    with pytest.MonkeyPatch.context() as patch:
        for module in ("bench.paper_scan", "clean"):
            patch.setattr(f"detrigger.{module}.scan", looked)
        bench_paper(plans, root, out, run=counted(asked))
    assert asked == ["bars_1_clean", "bars_0_targets_2"]
    asked.clear()
    (out / "cards" / "bars_1_repairs.json").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detrigger.clean.scan", looked)
        assert bench_paper(plans, root, out, run=counted(asked), until="scans")[0].pairs[1].studied is None
        assert asked == []
        bench_paper(plans, root, out, run=counted(asked))
    assert asked == ["bars_1_repairs"]  # with the scan that was kept
    card = out / "cards" / "bars_0_repairs.json"
    with_loop = card.read_bytes()
    card.unlink()
    without = dataclasses.replace(plans[0], loop=False)
    (shorter,) = bench_paper([without], root, out, run=map, seeds=1)
    assert shorter.pairs[0].studied and "auto" not in {o.method for o in shorter.pairs[0].studied.outcomes}
    card.write_bytes(with_loop)
    asked.clear()
    fewer = dataclasses.replace(plans[0], open=None)
    (one,) = bench_paper([fewer], root, out, run=counted(asked), seeds=1)
    assert asked == [] and len(one.pairs) == 1
    bench_paper([plans[0]], root, out, run=counted(asked))  # the page as it was


def test_the_page_shows_what_is_there(root: Path, tmp_path: Path) -> None:
    plans = read_plans(root / "specs")
    (result,) = bench_paper(plans, root, tmp_path, run=map, seeds=1, until="models")
    (pair,) = result.pairs
    assert pair.backdoored and (pair.scan, pair.studied) == (None, None)
    made = {cell.figure: cell for cell in cells(result)}
    assert made["accuracy"].met is True
    assert (made["prune_success"].measured, made["prune_success"].met) == (None, None)
    assert "size 4" in (tmp_path / "index.html").read_text()


def test_a_cell_stands_beside_the_paper_and_what_was_wanted(done: tuple[Path, Result]) -> None:
    out, result = done
    made = {cell.figure: cell for cell in cells(result)}
    assert made.keys() == FIGURES.keys()
    accuracy = made["accuracy"]
    mean = sum(pair.backdoored.accuracy for pair in result.pairs if pair.backdoored) / 2
    assert accuracy.measured == pytest.approx(mean)
    assert (accuracy.reported, accuracy.wanted, accuracy.met) == (0.87, 0.9, True)
    assert accuracy.interval and accuracy.interval[0] <= mean <= accuracy.interval[1]
    assert made["clean_accuracy"].met is None
    worse = dataclasses.replace(result.plan, wanted={"success": 1.01, "cost": -2.0, "cleared": 0.0})
    other = {c.figure: c.met for c in cells(dataclasses.replace(result, plan=worse))}
    assert (other["success"], other["cost"], other["cleared"]) == (False, False, True)
    card = json.loads((out / "cells" / "bars_accuracy.json").read_text())
    assert {"reported", "measured", "seeds", "interval", "seconds", "commit"} <= card.keys()
    assert card["measured"] == pytest.approx(mean) and card["seconds"] > 0 and card["commit"]


def test_one_seed_has_no_interval() -> None:
    assert spread({}) == (None, None)
    assert spread({"0": 0.5}) == (0.5, None)
    mean, interval = spread({"0": 0.4, "1": 0.6})
    assert mean == 0.5 and interval == pytest.approx((0.5 - 1.2706, 0.5 + 1.2706))


class Parsed(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_holds_its_pictures_and_loads_nothing(done: tuple[Path, Result]) -> None:
    parsed = Parsed((done[0] / "index.html").read_text())
    images = [attributes["src"] or "" for tag, attributes in parsed.tags if tag == "img"]
    assert len(images) >= 6 and all(source.startswith("data:image/png;base64,") for source in images)
    assert not {tag for tag, _ in parsed.tags} & {"script", "link", "iframe"}
    circles = [
        a for t, a in parsed.tags if t == "circle" and a.get("class") == "found" and "%" in str(a["cx"])
    ]
    drawn = sum(len(pair.studied.curve) for pair in done[1].pairs if pair.studied)
    assert len(circles) == drawn > 0


def test_the_command_shows_the_paper_beside_ours(
    done: tuple[Path, Result], root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detrigger.cli.bench.processes", lambda jobs: map)
    words = ["bench", "paper", "--specs", str(root / "specs"), "--data-root", str(root), "--out"]
    assert run([*words, str(done[0]), "--only", "bars"]) == 0
    said = capsys.readouterr().out
    assert "accuracy, backdoored" in said and "0.870" in said and "met" in said
    assert run([*words, str(done[0]), "--only", "bars,beers"]) == 4
    assert "no data set 'beers'; choose from bars" in capsys.readouterr().err
    assert run([*words, str(done[0]), "--seeds", "0"]) == 4


def test_the_specs_of_this_project_are_read_and_their_networks_fit() -> None:
    plans = read_plans(SPECS)
    assert {plan.dataset for plan in plans} == {"mnist", "lfw", "aid", "dota"}
    shapes = {"mnist": (1, 10, 28), "lfw": (3, 1680, 112), "aid": (3, 30, 128), "dota": (3, 15, 64)}
    for plan in plans:
        channels, classes, side = shapes[plan.dataset]
        side = 800 if plan.data.kind == "tiles" else side
        net = paper_networks.make(plan.network.arch, channels, classes, side, **plan.network.arguments)
        with torch.no_grad():
            assert net.eval()(torch.zeros(1, channels, side, side)).shape == (1, classes)
        assert not (plan.reported.keys() | plan.wanted.keys()) - FIGURES.keys()
        area = plan.attack["height"] * plan.attack["width"] / side**2
        assert area < 0.01 or plan.dataset == "mnist"  # 16 of 784 pixels are the paper's own


def test_a_head_of_cosines_becomes_a_linear_one_that_says_the_same() -> None:
    net = paper_networks.make("face", 3, 7, 16, width=4, features=8).eval()
    x = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = net(x)
        after = paper_networks.plain(net)
        assert isinstance(after[-1], torch.nn.Linear)  # type: ignore[index]
        torch.testing.assert_close(after(x), before)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('arch = "blocks"', 'arch = "bricks"', "network 'bricks'; choose from blocks"),
        ('budget = "quick"', 'budget = "quik"', "budget 'quik'; choose from"),
        ("seeds = 2", "seeds = 0", "seeds is 0"),
        ("seeds = 2", "sede = 2", "no field 'sede'"),
        ("scanner = 0.5", "scanner = 1.5", "wanted shares between 0 and 1"),
        ("scanner = 0.5", "scaner = 0.5", "no field 'scaner'"),
        ("limit = 40", "limits = 40", "no field 'limits'"),
        ('kind = "arrays"', 'kind = "array"', "Invalid enum value"),
        ("height = 4", "hight = 4", "no field 'hight'"),
        ('name = "badnets"', 'name = "trojan-nn"', "attack 'trojan-nn'"),
    ],
)
def test_a_wrong_spec_is_refused(before: str, after: str, message: str, tmp_path: Path) -> None:
    assert before in SPEC
    (tmp_path / "bars.toml").write_text(SPEC.replace(before, after, 1))
    with pytest.raises(UsageError, match=message):
        read_one(tmp_path / "bars.toml")


def test_specs_that_are_not_there_or_not_toml_are_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="benchmarks/paper"):
        read_plans(tmp_path)
    (tmp_path / "x.toml").write_text("title = [")
    with pytest.raises(InputError, match="cannot be read as a spec"):
        read_plans(tmp_path)


def test_every_class_keeps_an_image_to_train_on() -> None:
    y = torch.tensor([0] * 2 + [1] * 2 + [2] + [3] * 15)
    plan = PaperData(kind="people", path="", test=0.6, seed=3)
    test = held_back(y, [str(i) for i in range(20)], plan)
    assert torch.bincount(y[~test], minlength=4).min() == 1
    assert int(test.sum()) == 12
    assert not bool(test[4])


def test_pieces_of_one_source_stay_together() -> None:
    y = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 0, 1])
    groups = ["a", "a", "b", "b", "a", "b", "c", "c", "c", "a"]
    for seed in range(8):
        test = held_back(y, groups, PaperData(kind="crops", path="", test=0.4, seed=seed))
        assert 0 < int(test.sum()) <= 4
        for group in "abc":
            assert len({bool(t) for t, g in zip(test, groups, strict=True) if g == group}) == 1


def test_of_few_sources_those_come_first_that_have_classes_not_tested_yet() -> None:
    groups = [name for name in "abcdef" for _ in range(4)]
    y = torch.tensor([0] * 16 + [1] * 8)  # four sources of one class, two of the other
    for seed in range(8):
        test = held_back(y, groups, PaperData(kind="tiles", path="", test=0.34, seed=seed))
        assert torch.bincount(y[test]).tolist() == [4, 4]


def test_classes_of_grouped_pieces_keep_half_of_them_to_train_on() -> None:
    sizes = {"a": 6, "b": 6, "c": 3, "d": 1, "e": 20, "f": 12, "g": 8}
    groups = [name for name, size in sizes.items() for _ in range(size)]
    y = torch.tensor([int(name > "d") for name in groups])
    for seed in range(8):
        test = held_back(y, groups, PaperData(kind="tiles", path="", test=0.9, seed=seed))
        left = torch.bincount(y[~test])
        assert 8 <= int(left[0]) < 16 and 10 <= int(left[1]) < 40


def test_people_and_crops_are_read_from_archives(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "lfw").mkdir()
    with zipfile.ZipFile(tmp_path / "lfw" / "faces.zip", "w") as archive:
        rows = ["file,class,image"]
        for who in ("Ann", "Bob"):
            for i in range(6):
                Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(tmp_path / "x.png")
                archive.write(tmp_path / "x.png", f"lfw/{who}/{who}_{i}.png")
                rows.append(f"{who}/{who}_{i}.png,{who},scene{i % 3}")
    (tmp_path / "lfw" / "faces.csv").write_text("\n".join(rows))
    people = divided(PaperData(kind="people", path="lfw/faces.zip", test=0.5), tmp_path)
    assert [len(p.y) for p in (people.train, people.scanner, people.judge)] == [6, 3, 3]
    assert people.train.names == ("Ann", "Bob")
    crops = divided(PaperData(kind="crops", path="lfw/faces.zip", test=0.4), tmp_path)
    reds = [set((p.x[:, 0, 0, 0] // 40 % 3).tolist()) for p in (crops.train, crops.scanner, crops.judge)]
    assert len(crops.train.y) == 8 and not reds[0] & (reds[1] | reds[2])


def test_data_that_is_not_there_is_said_with_its_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"no .*dota/full; download DOTA 1.0, https.*labelTxt.*--data-root"):
        paper_fetch.ensure("dota/full", tmp_path)
    monkeypatch.setenv(paper_fetch.CACHE, str(tmp_path))

    def offline(folder: Path) -> bytes:
        raise OSError("no network")

    monkeypatch.setitem(paper_fetch.FETCHERS, "lfw", offline)
    with pytest.raises(DataError, match=r"fetching it failed: no network\); download Labeled Faces"):
        paper_fetch.ensure("lfw/lfw112.zip", None)
    monkeypatch.setitem(paper_fetch.FETCHERS, "lfw", lambda folder: b"archive")
    assert paper_fetch.ensure("lfw/lfw112.zip", None).read_bytes() == b"archive"
    assert paper_fetch.ensure("lfw/lfw112.zip", tmp_path) == tmp_path / "lfw" / "lfw112.zip"


def test_the_paper_s_figures_are_those_of_its_tables() -> None:
    mnist = tomllib.loads((SPECS / "mnist.toml").read_text())
    assert mnist["reported"]["success"] == 0.99876
    assert (mnist["attack"]["height"], mnist["attack"]["poison_rate"]) == (4, 0.02)
