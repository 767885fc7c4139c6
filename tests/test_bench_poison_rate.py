"""The study of poison rates: plan, models, resuming, differences, the claim, what is shown."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from detrigger.bench import poison_rate as study_of_rates
from detrigger.bench.poison_rate import RatePlan, bench_poison_rate, read_rate_plan
from detrigger.bench.poison_rate_figures import STUDENT, Cell, Study, difference, sentence, share, study
from detrigger.bench.poison_rate_page import notes, page, plot, table
from detrigger.cli import run
from detrigger.errors import DataError, InputError, UsageError

PLAN = """
rates = [0, 0.02, 0.3]
seeds = 2
attack = { name = "badnets", height = 4, width = 4 }
network = { dots = { arch = "cnn4", arguments = { width = 4 } } }
data = { dots = { path = "dots.npz", train = 40, scanner = 5, judge = 5 } }
train = { dots = { epochs = 6, batch = 16 } }
"""


def pictures(per_class: int, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Grey squares: the class is the row in which a bright bar stands."""
    generator = np.random.default_rng(seed)
    y = np.arange(3).repeat(per_class)
    x = generator.integers(0, 80, (len(y), 16, 16), dtype=np.uint8)
    for image, c in zip(x, y, strict=True):
        image[5 * c + 1 : 5 * c + 4, 1:9] = 200
    return x, y


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (x, y), (x_test, y_test) = pictures(60, 0), pictures(20, 1)
    np.savez(folder / "dots.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    (folder / "plan.toml").write_text(PLAN)
    return folder


@pytest.fixture(scope="module")
def done(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Cell], Study]:
    out = tmp_path_factory.mktemp("out")
    return out, *bench_poison_rate(read_rate_plan(root / "plan.toml"), root, out, run=map)


def counted(made: list[str]) -> Callable[..., list[Any]]:
    """A map that notes what it was asked to make."""

    def these(work: Callable[[Any], Any], orders: list[Any], /) -> list[Any]:
        made[:] = [order.card.stem for order in orders]
        return [work(order) for order in orders]

    return these


def cell(rate: float, seed: int, accuracy: float, *, dataset: str = "dots", success: float = 0.0) -> Cell:
    return Cell(dataset, rate, seed, 0, round(1000 * rate), 1000, accuracy, success, 1.0, {})


def grid(drops: dict[float, Sequence[float]], *, dataset: str = "dots") -> list[Cell]:
    """Clean models at 0.9 and 0.8 and 0.7; at each rate, each loses so much."""
    clean = [0.9, 0.8, 0.7]
    return [
        cell(rate, seed, clean[seed] - drop, dataset=dataset)
        for rate, lost in ({0.0: (0.0, 0.0, 0.0)} | drops).items()
        for seed, drop in enumerate(lost)
    ]


def test_every_model_is_made_and_poison_teaches_the_trigger(done: tuple[Path, list[Cell], Study]) -> None:
    out, cells, found = done
    assert [(c.rate, c.seed) for c in cells] == list(itertools.product((0, 0.02, 0.3), (0, 1)))
    assert [c.poisoned for c in cells] == [0, 0, 2, 2, 36, 36]
    assert {c.images for c in cells} == {120}
    assert all(c.accuracy > 0.9 for c in cells[:2])
    assert all(c.success < 0.4 for c in cells[:2])
    assert all(c.success > 0.8 for c in cells[4:])
    assert sorted(p.stem for p in (out / "cards").iterdir()) == sorted(
        f"dots_{c.rate:g}_{c.seed}" for c in cells
    )
    told = json.loads((out / "summary.json").read_text())
    assert told["study"]["levels"] == json.loads(json.dumps([dataclasses.asdict(x) for x in found.levels]))
    assert told["sentence"] == sentence(found)
    assert [c["accuracy"] for c in told["cells"]] == [c.accuracy for c in cells]


def test_models_of_one_seed_have_one_target_and_seeds_draw_their_own(
    done: tuple[Path, list[Cell], Study],
) -> None:
    targets = {seed: {c.target for c in done[1] if c.seed == seed} for seed in (0, 1)}
    assert all(len(one) == 1 for one in targets.values())
    assert targets[0] != targets[1]


def test_a_model_is_made_again_only_if_its_card_is_gone_broken_or_of_another_recipe(
    done: tuple[Path, list[Cell], Study], root: Path
) -> None:
    out, cells, found = done
    plan = read_rate_plan(root / "plan.toml")
    made: list[str] = []
    assert bench_poison_rate(plan, root, out, run=counted(made)) == (cells, found)
    assert made == []
    (out / "cards" / "dots_0_1.json").unlink()
    (out / "cards" / "dots_0.3_0.json").write_text("{")
    again, _ = bench_poison_rate(plan, root, out, run=counted(made))
    assert made == ["dots_0_1", "dots_0.3_0"]
    assert [dataclasses.replace(c, cpu_seconds=0.0) for c in again] == [
        dataclasses.replace(c, cpu_seconds=0.0) for c in cells
    ]
    changed = dataclasses.replace(plan, attack=plan.attack | {"height": 5}, rates=(0.0, 0.02))
    orders = study_of_rates.orders(changed, root, out / "cards")
    assert [study_of_rates._kept(order) for order in orders] == [None] * 4
    more = dataclasses.replace(plan, rates=(0.0, 0.02, 0.3, 0.5))
    orders = study_of_rates.orders(more, root, out / "cards")
    assert [o.rate for o in orders if study_of_rates._kept(o) is None] == [0.5, 0.5]


def test_an_interrupted_study_keeps_what_was_done(root: Path, tmp_path: Path) -> None:
    def once(work: Callable[[Any], Any], orders: list[Any], /) -> Any:
        yield from map(work, orders[:1])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench_poison_rate(read_rate_plan(root / "plan.toml"), root, tmp_path, run=once)
    assert sorted(p.name for p in tmp_path.rglob("*.*")) == ["dots_0_0.json"]


def test_intervals_are_those_of_student() -> None:
    for degrees, quantile in enumerate(STUDENT, 1):
        assert quantile == pytest.approx(stats.t.ppf(0.975, degrees), abs=6e-4)
    values = [-0.01, 0.005, -0.02, 0.001]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    got = difference(values)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), abs=1e-5)
    assert got.mean == pytest.approx(-0.006)


def test_differences_are_between_models_of_the_same_seed() -> None:
    found = study(grid({0.01: (0.01, 0.02, 0.03)}), 0.03)
    clean, level = found.levels
    assert clean.difference is None
    assert (level.accuracy.mean, level.accuracy.low, level.accuracy.high) == pytest.approx((0.78, 0.67, 0.89))
    assert level.difference is not None
    assert level.difference.mean == pytest.approx(-0.02)
    assert level.difference.low == pytest.approx(-0.02 - 4.303 * 0.01 / 3**0.5)
    assert level.poisoned == 10


def test_the_claim_holds_where_no_interval_below_it_is_wholly_negative() -> None:
    found = study(grid({0.01: (0.01, 0.03, -0.01), 0.03: (0.2, 0.21, 0.22)}), 0.03)
    assert found.held
    assert "held: at none of the rates tested (1)" in sentence(found)
    assert "-1.00 pp (dots at 1 %), the lowest value in an interval -5.97 pp" in sentence(found)
    assert [level.difference.loss for level in found.levels if level.difference] == [False, True]


def test_the_claim_fails_at_the_rates_where_accuracy_fell() -> None:
    found = study(
        grid({0.01: (0.1, 0.11, 0.12), 0.02: (0, 0.1, -0.1)}) + grid({0.01: (0, 0.1, -0.1)}, dataset="more"),
        0.03,
    )
    assert not found.held
    assert "did not hold at 1 of 3 rates tested: dots at 1 % -11.00 (-13.48 to -8.52) pp." in sentence(found)
    assert list(found.together) == ["dots", "more"]
    assert found.together["dots"].mean == pytest.approx(-(0.05 + 0.105 + 0.01) / 3)


def test_shares_and_notes_are_in_words() -> None:
    assert [share(rate) for rate in (0.0, 0.001, 0.2)] == ["0 %", "0.1 %", "20 %"]
    found = study(grid({0.01: (0.01, 0.01, 0.01)}), 0.03)
    assert "Student's t, n = 3" in notes(found, 3)[0]
    assert notes(found, 3)[-1].startswith("dots, all rates below 3 % together: -1.00 (-1.00 to -1.00) pp")


def test_rows_of_the_table_fit_on_a_line() -> None:
    cells = [dataclasses.replace(c, success=1.0) for c in grid({0.001: (0.2, 0.4, 0.3)}, dataset="cifar10")]
    console = Console(width=80)
    with console.capture() as captured:
        console.print(table(study(cells, 0.03)))
    assert [line.rstrip() for line in captured.get().splitlines()] == [
        "data set  rate         accuracy, %              ASR, %           difference, pp",
        "cifar10    0 % 80.00 (70.00-90.00) 100.0 (100.0-100.0)",
        "cifar10  0.1 % 50.00 (40.00-70.00) 100.0 (100.0-100.0) -30.00 (-54.84 to -5.16)",
    ]


class Parsed(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str, kind: str) -> list[dict[str, str | None]]:
        return [found for name, found in self.tags if name == tag and found.get("class") == kind]


def test_the_page_draws_every_rate_on_a_log_axis_and_loads_nothing() -> None:
    cells = grid({0.001: (0.01, 0.02, 0.03), 0.01: (0, 0.01, 0.1), 0.1: (0.2, 0.1, 0.3)}, dataset="<b>")
    parsed = Parsed(page(study(cells, 0.03), 3))
    marks = [m for m in parsed.all("circle", "accuracy") if m["r"] == "3.5" and "%" in str(m["cx"])]
    places = [float(str(mark["cx"]).rstrip("%")) for mark in marks]
    assert places == pytest.approx([0, 12, 56, 100, 12, 56, 100])  # rates, then differences
    heights = [float(str(mark["cy"]).rstrip("%")) for mark in marks]
    assert heights[0] == pytest.approx(100 - 80)
    assert all(0 <= height <= 100 for height in heights)
    ranges = parsed.all("line", "accuracy range")
    assert [float(str(ranges[0][y]).rstrip("%")) for y in ("y1", "y2")] == pytest.approx([10, 30])
    assert len([m for m in parsed.all("circle", "success") if "%" in str(m["cx"])]) == 4
    assert not {tag for tag, _ in parsed.tags} & {"script", "link", "img", "iframe", "b"}


def test_the_picture_is_xml_with_the_charts_of_the_page(done: tuple[Path, list[Cell], Study]) -> None:
    out, _, found = done
    picture = ElementTree.parse(out / "plot.svg").getroot()
    circles = picture.findall(".//{http://www.w3.org/2000/svg}circle")
    on_page = Parsed((out / "index.html").read_text())
    assert [c.attrib for c in circles] == [
        c for t, c in on_page.tags if t == "circle" and "%" in str(c["cx"])
    ]
    assert len(circles) == 8
    assert ElementTree.fromstring(plot(study(grid({0.01: (0.0, 0.1, 0.2)}, dataset="<&>"), 0.03))) is not None
    assert (out / "plot.svg").read_text() == plot(found)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("[0, 0.02, 0.3]", "[0.02, 0.3]", "0 among them"),
        ("[0, 0.02, 0.3]", "[0, 0.02, 2]", "from 0 to 1"),
        ("[0, 0.02, 0.3]", "[0, 0.02, 0.02]", "each rate once"),
        ("[0, 0.02, 0.3]", "[0, 0.3]", "below claim, 0.03"),
        ("seeds = 2", "seeds = 1", "seeds is 1; wanted 2 to 10"),
        ("seeds = 2", "seeds = 11", "seeds is 11"),
        ("seeds = 2", "sed = 2", "no field 'sed'"),
        ("scanner = 5", "scaner = 5", "data.dots.*no field 'scaner'"),
        ('arch = "cnn4"', 'arch = "cnn5"', "network of dots is 'cnn5'"),
        ("network = { dots", "network = { dashes", "network of dots is None"),
        ('name = "badnets"', 'name = "trojan-nn"', "attack 'trojan-nn'"),
        ('name = "badnets"', 'name = "bednets"', "choose from badnets"),
        ("height = 4, width = 4", "target = 4", "'target', which the study itself sets"),
        ("height = 4, width = 4", "hight = 4", "no field 'hight'"),
        ("epochs = 6", 'epochs = "five"', "epochs"),
        ("train = 40", "train = []", "plan.toml"),
    ],
)
def test_a_wrong_plan_is_refused(before: str, after: str, message: str, tmp_path: Path) -> None:
    assert before in PLAN
    (tmp_path / "plan.toml").write_text(PLAN.replace(before, after))
    with pytest.raises(UsageError, match=message):
        read_rate_plan(tmp_path / "plan.toml")


def test_a_plan_or_data_that_is_not_there_is_said(root: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text("rates = [")
    for name in ("plan.toml", "none.toml"):
        with pytest.raises(InputError, match="cannot be read as a plan"):
            read_rate_plan(tmp_path / name)
    with pytest.raises(DataError, match="cannot be used as training data"):
        bench_poison_rate(read_rate_plan(root / "plan.toml"), tmp_path, tmp_path / "out", run=map)


def test_the_plan_of_this_project_is_the_one_in_the_documents() -> None:
    plan: RatePlan = read_rate_plan(Path(__file__).parents[1] / "benchmarks" / "poison_rate.toml")
    assert plan.rates == (0, 0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2)
    assert (plan.seeds, plan.claim, list(plan.data)) == (3, 0.03, ["mnist", "gtsrb"])
    assert (plan.attack["name"], plan.attack["height"], plan.attack["width"]) == ("badnets", 4, 4)


def test_the_command_says_the_table_and_the_claim(
    done: tuple[Path, list[Cell], Study],
    root: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("detrigger.cli.bench.processes", lambda jobs: map)
    out = done[0]
    words = ["bench", "poison-rate", str(root / "plan.toml"), "--data-root", str(root), "--out", str(out)]
    assert run(words) == 0
    said = capsys.readouterr().out
    assert all(len(line) <= 80 for line in said.splitlines())
    assert "dots     30 %" in said
    assert "The claim, no significant loss of accuracy below 3 %" in " ".join(said.split())
    assert "6 models" in said
    assert run([*words[:2], str(root / "none.toml"), "--out", str(out)]) == 2
