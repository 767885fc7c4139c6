from __future__ import annotations

import dataclasses
import io
import json
import math

import jsonschema
import pytest
import samples
import torch
from PIL import Image
from rich.console import Console, RenderableType

from detrigger.errors import DataError
from detrigger.report import charts, words
from detrigger.report.document import decode, document, encode, read, restore
from detrigger.report.html import page
from detrigger.report.pictures import mask_png, png, trigger_png
from detrigger.report.schema import Document, json_schema
from detrigger.report.text import match_table, summary
from detrigger.scan import Scan

EVIL = "<script>alert(1)</script>"
STEERING = "\x1b[31mred\x07 [bold]loud[/bold] \u202eesrever"


def full() -> Document:
    return document(
        samples.scan(), cleaning=samples.cleaning(), matches=[samples.match()], model=samples.model()
    )


def printed(shown: RenderableType, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(shown)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def with_names(names: tuple[str, ...]) -> tuple[Scan, str]:
    scan = samples.scan(len(names), called=names)
    model, images = samples.model(len(names), called=names), samples.images(len(names), called=names)
    return scan, page(document(scan), scan, images, model)


def data_images(html: str) -> int:
    return html.count("data:image/png;base64,")


# report.json


@pytest.mark.parametrize("verdict", ["clean", "backdoored", "inconclusive"])
def test_reports_of_every_verdict_fit_the_published_schema(verdict):
    made = document(samples.scan(verdict=verdict))
    jsonschema.Draft202012Validator.check_schema(json_schema())
    jsonschema.validate(json.loads(encode(made)), json_schema())


def test_a_report_with_everything_fits_the_published_schema():
    jsonschema.validate(json.loads(encode(full())), json_schema())


def test_the_schema_refuses_a_report_without_a_verdict():
    broken = json.loads(encode(full()))
    del broken["verdict"]
    with pytest.raises(jsonschema.ValidationError, match="verdict"):
        jsonschema.validate(broken, json_schema())


def test_the_report_has_every_key_of_the_contract():
    told = json.loads(encode(full()))
    keys = {
        "": "schema_version tool model data verdict probability reasons classes backdoors repairs cost seed "
        "config",
        "tool": "name version",
        "model": "path sha256 format arch classes image_shape",
        "data": "path sha256 images accuracy",
        "classes": "index name size log_size_score p_value success evidence suspect inverted",
        "backdoors": "target sources family size success probability trigger picture",
        "repairs": "round method accepted reason accuracy class_recall_drop synthesised_asr",
        "cost": "seconds cpu_seconds image_passes device precision",
    }
    for place, wanted in keys.items():
        part = told[place] if place else told
        part = part[0] if isinstance(part, list) else part
        assert set(wanted.split()) <= set(part), place
    assert set(told["repairs"][0]["accuracy"]) == {"before", "after"}
    assert {"before", "after", "upper95"} <= set(told["repairs"][0]["synthesised_asr"])


def test_the_figures_of_the_scan_are_in_the_report():
    told = json.loads(encode(full()))
    assert (told["verdict"], told["probability"], told["seed"]) == ("backdoored", 0.98, 5)
    assert told["backdoors"][0] == {
        "target": 1,
        "sources": "all",
        "family": "patch",
        "size": 4.0,
        "success": 0.998,
        "probability": 0.98,
        "trigger": "triggers/class_1.safetensors",
        "picture": "triggers/class_1.png",
    }
    assert told["classes"][1]["evidence"] == {"patch gap": 2.01}
    assert (told["classes"][1]["best"], told["classes"][1]["probability"]) == ("patch", 0.98)
    assert told["cost"]["image_passes"] == 1_234_567
    assert told["identification"][0]["neurons"][0]["activation_known"] == 7.42
    assert told["model"]["preprocessing"] == {"mean": [0.0], "std": [1.0]}


def test_a_repair_tells_the_worst_trigger_and_each():
    repair = json.loads(encode(full()))["repairs"][1]
    asr = repair["synthesised_asr"]
    assert (asr["before"], asr["after"], asr["upper95"]) == (0.998, 0.012, 0.026)
    assert asr["per_trigger"][1] == {"before": 0.91, "after": 0.003, "upper95": 0.013}
    assert repair["class_recall_drop"] == {"kind 0": 0.01, "kind 2": 0.04, "kind 3": -0.01}
    assert repair["chosen"] and len(repair["curve"]) == 5
    certificate = json.loads(encode(full()))["cleaning"]["certificate"]
    assert repair["certificate"] == certificate and certificate["accepted"]
    assert (certificate["images"], certificate["looks"], certificate["accuracy_loss_upper95"]) == (
        240,
        1,
        0.015,
    )
    assert [(r["round"], r["seed"]) for r in json.loads(encode(full()))["cleaning"]["rescans"]] == [
        (1, 5)
    ] * 2


def test_a_report_from_before_there_were_certificates_can_be_read():
    told = json.loads(encode(full()))
    for key in ("doubt", "certificate"):
        del told["cleaning"][key]
    for record in told["repairs"]:
        del record["certificate"]
    for record in told["cleaning"]["rescans"]:
        del record["round"], record["seed"]
    cleaning = decode(json.dumps(told).encode()).cleaning
    assert cleaning is not None and cleaning.repaired and cleaning.certificate is None


def test_figures_that_are_not_finite_are_null():
    told = json.loads(encode(full()), parse_constant=pytest.fail)
    assert told["data"]["recalls"][0] is None
    assert told["classes"][9]["log_size_score"] is None
    assert told["config"]["limit"] is None
    assert told["identification"][0]["colour_difference"] is None


def test_a_report_survives_being_written_and_read():
    assert decode(encode(full())) == full()


def test_the_same_results_give_the_same_bytes():
    assert encode(full()) == encode(full())
    assert encode(full()).endswith(b"}\n") and b'\n  "schema_version": 1' in encode(full())


def test_two_backdoors_of_one_class_have_files_of_their_own():
    scan = samples.scan()
    twice = dataclasses.replace(scan, backdoors=scan.backdoors * 2)
    files = [b.trigger for b in document(twice, trigger_folder="t").backdoors]
    assert files == ["t/class_1.safetensors", "t/class_1_2.safetensors"]


def test_names_that_are_no_unicode_can_be_written():
    made = document(samples.scan(2, called=("a\udcff", "b")))
    assert json.loads(encode(made))["model"]["classes"][0] == "a\\udcff"


def test_keys_of_a_later_version_are_ignored():
    told = json.loads(encode(full())) | {"new": 1}
    assert decode(json.dumps(told).encode()) == full()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a detrigger report"),
        (b"\xff\xfe{}", "not a detrigger report"),
        (b"[" * 100_000, "not a detrigger report"),
        (b"[]", "schema_version"),
        (b'{"schema_version": 2}', "schema_version of the report is 2, wanted 1"),
        (b'{"schema_version": 1}', "not a detrigger report"),
    ],
)
def test_a_malformed_report_is_refused_in_one_line(content, says):
    with pytest.raises(DataError, match=says) as caught:
        decode(content)
    assert "\n" not in str(caught.value)


def test_a_report_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        read(tmp_path / "report.json")


def test_a_scan_can_be_taken_up_again_from_its_report(tmp_path):
    scan, asked = samples.scan(), []
    (tmp_path / "report.json").write_bytes(encode(document(scan)))
    model = dataclasses.replace(samples.model(), origin=scan.origin)
    again = restore(read(tmp_path / "report.json"), model, lambda f: asked.append(f) or samples.trigger())
    assert asked == ["triggers/class_1.safetensors"]
    assert again.finding.classes[:9] == scan.finding.classes[:9]
    assert math.isnan(again.finding.classes[9].log_size_score)
    kept = {"finding", "backdoors", "recalls", "config"}
    for field in dataclasses.fields(Scan):
        if field.name not in kept:
            assert getattr(again, field.name) == getattr(scan, field.name), field.name
    assert dataclasses.replace(again.backdoors[0], trigger=scan.backdoors[0].trigger) == scan.backdoors[0]


def test_a_report_about_another_model_is_refused():
    made, scan = document(samples.scan()), samples.scan()
    other = dataclasses.replace(samples.model(), origin=dataclasses.replace(scan.origin, sha256="ee" * 32))
    with pytest.raises(DataError, match="sha256"):
        restore(made, other, lambda _: samples.trigger())
    with pytest.raises(DataError, match="the model has 3"):
        restore(made, samples.model(3), lambda _: samples.trigger())
    bad = json.loads(encode(made))
    bad["backdoors"][0]["target"] = 10
    with pytest.raises(DataError, match="names class 10, the model has 0 to 9"):
        restore(decode(json.dumps(bad).encode()), samples.model(), lambda _: samples.trigger())


# words


def test_the_verdict_is_one_sentence():
    assert words.verdict(full()) == (
        "BACKDOORED: a patch of 4.0 pixels sends 99.8 % of all images to class 1 ('kind 1'); "
        "probability 0.98."
    )
    assert words.verdict(document(samples.scan(verdict="clean"))) == (
        "CLEAN: no suspiciously small trigger was found for any of 10 classes scanned; "
        "probability of a backdoor 0.03."
    )
    assert words.verdict(document(samples.scan(verdict="inconclusive"))) == (
        "INCONCLUSIVE: class 'kind 1' needs a trigger of 4.0 pixels, the next class needs 30.0; "
        "probability of a backdoor 0.47."
    )


def test_the_verdict_names_source_classes_and_further_backdoors():
    scan = samples.scan()
    some = dataclasses.replace(scan.backdoors[0], sources=(2, 3))
    sentence = words.verdict(document(dataclasses.replace(scan, backdoors=(some, some, some))))
    assert "the images of classes 2 ('kind 2'), 3 ('kind 3') to class 1" in sentence
    assert "and 2 more backdoors were found" in sentence


def test_the_outcome_of_a_repair_is_one_sentence():
    assert words.repair(document(samples.scan())) == ""
    assert words.repair(full()) == (
        "REPAIRED: after 1 round accuracy went from 99.2 % to 98.5 % and the trigger's success from "
        "99.8 % to 1.2 %; 2 rescans with fresh seeds say clean."
    )
    doubtful = dataclasses.replace(samples.cleaning(), doubt=True)
    assert words.repair(document(samples.scan(), cleaning=doubtful)).startswith("REPAIRED, IN DOUBT: after 1")
    failed = document(samples.scan(), cleaning=samples.cleaning(repaired=False))
    assert words.repair(failed) == "NOT REPAIRED: no candidate passed the guard."


def test_a_certificate_says_what_it_bounds_and_what_it_does_not_cover():
    assert words.certificate(full()) == (
        "Certified on 240 clean images that no repair, search or rescan had seen: at most 1.5 % of all "
        "images lose their right answer, and the reconstructed triggers work on at most 2.6 %, each with "
        "95 % confidence. Not covered: triggers that were not found, or that differ from image to image, "
        "and what training the model further brings back."
    )
    failed = document(samples.scan(), cleaning=samples.cleaning(repaired=False))
    assert words.certificate(failed) == words.certificate(document(samples.scan())) == ""


@pytest.mark.parametrize(
    ("share", "says"),
    [(0.0, "0 %"), (1.0, "100 %"), (0.9999, ">99.9 %"), (0.0001, "<0.1 %"), (0.0123, "1.2 %"), (None, "–")],
)
def test_a_share_is_never_rounded_to_all_or_nothing(share, says):
    assert words.percent(share) == says


@pytest.mark.parametrize(
    ("value", "says"),
    [(8.5, "8.5"), (1234.5, "1,234"), (0.0002, "0.0002"), (2e-9, "2.0e-09"), (0.0, "0"), (math.nan, "–")],
)
def test_numbers_keep_three_digits(value, says):
    assert words.number(value) == says


def test_a_small_negative_score_is_not_minus_zero():
    assert words.tenth(-0.004) == "0.0"


def test_durations_are_in_units_for_people():
    assert [words.duration(s) for s in (3.21, 59.7, 125.0, 7800.0)] == [
        "3.2 s",
        "1 min 0 s",
        "2 min 5 s",
        "2 h 10 min",
    ]


def test_control_characters_are_spelt_out():
    assert words.printable(STEERING) == "\\x1b[31mred\\x07 [bold]loud[/bold] \\u202eesrever"


# text


@pytest.mark.parametrize("verdict", ["clean", "backdoored", "inconclusive"])
def test_the_summary_begins_with_the_verdict(verdict):
    made = document(samples.scan(verdict=verdict))
    text = " ".join(printed(summary(made)).split())
    assert text.startswith(words.verdict(made))


def test_the_summary_fits_eighty_columns():
    long = ("a very long name of a class that does not end " * 4, "b" * 200, "c")
    made = document(samples.scan(3, called=long), cleaning=samples.cleaning(), model=samples.model())
    text = printed(summary(made, folder="some/folder"))
    assert max(map(len, text.splitlines())) <= 80
    assert "99.2 to 98.5 %" in text and "99.8 to 1.2 %" in text and "CHOSEN" in text and "refused" in text


def test_the_summary_says_where_the_files_are():
    text = printed(summary(full(), folder="some/folder"))
    assert "some/folder/report.html" in text and "some/folder/triggers/class_1.safetensors" in text
    assert "report.html" not in printed(summary(full()))


def test_the_summary_lists_the_suspects_and_five_more_classes():
    lines = printed(summary(document(samples.scan(40)))).splitlines()
    names = [line.split()[2] for line in lines if " kind " in line and "." in line.split()[3]]
    assert len(names) == 6 and names[0] == "1"
    assert any("and 34 more classes" in line for line in lines)


def test_a_less_sure_class_is_told_as_a_secondary_suspect():
    scan = samples.scan()
    second = dataclasses.replace(scan.backdoors[0], target=4, probability=0.64)
    classes = [
        dataclasses.replace(c, suspect=c.index in (1, 4), probability=0.64 if c.index == 4 else c.probability)
        for c in scan.finding.classes
    ]
    finding = dataclasses.replace(scan.finding, classes=tuple(classes))
    both = dataclasses.replace(scan, finding=finding, backdoors=(*scan.backdoors, second))
    text = printed(summary(document(both), folder="f"))
    assert text.count("SUSPECT") == 1 and text.count("secondary") == 1 and "more backdoor" not in text
    assert "Secondary suspects, less sure and perhaps side effects: 4 ('kind 4')." in " ".join(text.split())
    assert "class_1.safetensors" in text and "class_4" not in text and "and 1 more beside it" in text
    html = page(document(both), both, samples.images(), samples.model())
    assert html.index("<h3>Backdoor to class 1 ") < html.index("<summary>1 secondary suspect:")
    assert html.index("<summary>1 secondary") < html.index("<h3>Secondary suspect: class 4 ")
    assert html.count("<h3>Backdoor to class") == 1 and html.count("> secondary</span>") == 1


def test_no_probability_is_rounded_to_certainty():
    scan = samples.scan()
    sure = dataclasses.replace(scan, backdoors=(dataclasses.replace(scan.backdoors[0], probability=0.9999),))
    html = page(document(sure), sure, samples.images(), samples.model())
    assert "Probability: <strong>&gt;0.99</strong>" in html


def test_the_summary_ends_with_what_can_be_done_now():
    report, flags = document(samples.scan(path="a b.pth")), "--arch timm:resnet18"
    text = printed(summary(report, folder="out", flags=flags)).replace("\\\n", "")
    command = f"'a b.pth' --data clean-images {flags} --report out/report.json --out FIXED"
    assert f"Next: detrigger repair {command}" in " ".join(text.split())
    assert "Next: scan again with more clean images of each class, or with another --seed." in printed(
        summary(document(samples.scan(verdict="inconclusive")))
    )
    for done in (document(samples.scan(verdict="clean")), full()):
        assert "Next:" not in printed(summary(done, folder="out"))


def test_names_cannot_steer_the_terminal():
    scan = samples.scan(3, called=(STEERING, STEERING, "c"), path=STEERING)
    scan = dataclasses.replace(
        scan, data_path=STEERING, finding=dataclasses.replace(scan.finding, reasons=(STEERING,))
    )
    for force in (False, True):
        console = Console(file=io.StringIO(), width=200, force_terminal=force, color_system=None)
        console.print(summary(document(scan), folder=STEERING))
        text = console.file.getvalue()
        assert "\x1b[31m" not in text and "\x07" not in text and "\u202e" not in text
        assert "\\x1b[31mred\\x07 [bold]loud[/bold]" in text


def test_a_summary_without_classes_still_gives_the_reason():
    scan = samples.scan(verdict="inconclusive")
    finding = dataclasses.replace(scan.finding, classes=(), reasons=("accuracy is near chance",))
    text = printed(summary(document(dataclasses.replace(scan, finding=finding, backdoors=()))))
    assert text.startswith("INCONCLUSIVE: accuracy is near chance;") and "Class" not in text


def test_a_match_is_shown_with_its_three_measures():
    text = printed(match_table(samples.match(), samples.names(10)))
    for figure in ("99.8 %", "100 %", "44.0 %", "0.93", "fc:in", "7.42", "6.93", "0.11", "0.97"):
        assert figure in text


# pictures


def test_pictures_are_blown_up_to_whole_squares():
    image = torch.zeros(3, 10, 20)
    image[0, 0, 0] = 1
    picture = Image.open(io.BytesIO(png(image)))
    assert picture.size == (140, 70) and picture.mode == "RGB"
    assert picture.getpixel((6, 6)) == (255, 0, 0) and picture.getpixel((7, 6)) == (0, 0, 0)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (5, "L")])
def test_images_of_any_number_of_channels_can_be_shown(channels, mode):
    assert Image.open(io.BytesIO(png(torch.full((channels, 8, 8), 0.5)))).mode == mode


def test_large_images_are_made_smaller():
    assert Image.open(io.BytesIO(png(torch.zeros(3, 600, 300)))).size == (140, 280)


def test_a_faint_mask_is_shown_at_full_contrast():
    faint = dataclasses.replace(samples.trigger(), masks=samples.trigger().masks * 0.1)
    picture = Image.open(io.BytesIO(mask_png(faint)))
    assert picture.getextrema() == (0, 255)
    assert picture.getpixel((picture.width - 1, picture.height - 1)) == 255
    empty = dataclasses.replace(samples.trigger(), masks=samples.trigger().masks * 0)
    assert Image.open(io.BytesIO(mask_png(empty))).getextrema() == (0, 0)
    assert Image.open(io.BytesIO(trigger_png(samples.trigger()))).getpixel((0, 0)) == (128, 128, 128)


# charts


def test_sizes_lie_on_a_log_axis():
    drawn = charts.sizes(document(samples.scan()).classes)
    at = {row.record.size: row.at for row in drawn.rows}
    assert drawn.rows[0].record.suspect and drawn.hidden == 0 and drawn.bins == ()
    assert all(0 < x < 100 for x in at.values())
    ticks = {tick.label: tick.at for tick in drawn.ticks}
    assert ticks["10"] - ticks["5"] == pytest.approx(ticks["20"] - ticks["10"], abs=0.02)
    assert drawn.median.label == "56"


def test_of_many_classes_the_smallest_are_drawn_and_all_counted():
    drawn = charts.sizes(document(samples.scan(1680)).classes)
    assert len(drawn.rows) == 40 and drawn.hidden == 1640 and len(drawn.marks) == 1 and drawn.bins
    shown = [row.record.size for row in drawn.rows]
    assert shown == sorted(shown) and drawn.rows[0].record.index == samples.TARGET


def test_curves_go_down_as_success_falls():
    drawn = charts.curves(full().repairs[0].curve)
    assert len(drawn.success) == len(drawn.accuracy) == 8
    assert drawn.success[0].y1 < drawn.success[0].y2 and drawn.success[-1].x2 == 100


# HTML


def test_the_page_shows_stamped_images_with_the_models_answers():
    scan, cleaning = samples.scan(), samples.cleaning()
    html = page(full(), scan, samples.images(), samples.model(), cleaning=cleaning)
    assert data_images(html) == 2 + 2 * 6
    assert html.count('aria-label="the target class"') == 6
    assert html.count("after repair") == 6
    assert html.count('class="answer bad"') == 6
    assert 'stamped <span class="answer bad"><b title="kind 1">kind 1</b>100 %' in " ".join(html.split())


def test_a_page_without_a_repair_does_not_speak_of_one():
    html = page(document(samples.scan()), samples.scan(), samples.images(), samples.model())
    assert "after repair" not in html and 'id="repairs"' not in html and 'id="identification"' not in html


def test_only_images_of_the_source_classes_are_shown():
    scan = samples.scan()
    some = dataclasses.replace(scan, backdoors=(dataclasses.replace(scan.backdoors[0], sources=(4,)),))
    html = page(document(some), some, samples.images(), samples.model())
    assert html.count("Clean image of class 4 ") == 3 and html.count("Clean image of class") == 3


def test_the_page_has_every_figure():
    html = page(full(), samples.scan(), samples.images(), samples.model(), matches=[samples.match()])
    told = ["99.8 %", "2.6 %", "-4.0 pp", "7.42", "6.93", "0.11", "1,234,567", "ab" * 32, "cd" * 32, "0.0002"]
    told += ["prune levels, 8 of 10 neurons", "clean accuracy fell by 7.1 %", "&#34;budget&#34;", "2.01"]
    for figure in told:
        assert figure in html, figure
    assert html.count('<svg class="curve" role="img"') == 2


@pytest.mark.parametrize("verdict", ["clean", "backdoored", "inconclusive"])
def test_every_page_says_its_verdict_and_its_limits(verdict):
    scan = samples.scan(verdict=verdict)
    html = page(document(scan), scan, samples.images(), samples.model())
    assert f'class="verdict {verdict}"' in html and f">{verdict.upper()}</p>" in html
    assert "What this does not cover" in html and '<html lang="en">' in html


def test_the_page_cannot_load_or_run_anything():
    html = page(full(), samples.scan(), samples.images(), samples.model())
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in html
    assert "<script" not in html and "http://" not in html and "https://" not in html and "<link" not in html
    assert html.count("<img") == html.count(" alt=") == data_images(html)


@pytest.mark.parametrize("name", [EVIL, '" onerror="alert(1)', "{{ 7 * 7 }}", "'><img src=x>"])
def test_names_cannot_become_markup(name):
    _, html = with_names((name, name + " ", "c"))
    assert "<script" not in html and "<img src=x" not in html and ' onerror="' not in html
    assert ">49<" not in html


def test_control_characters_of_names_do_not_reach_the_page():
    _, html = with_names((STEERING, "b" + STEERING, "c"))
    assert "\x1b" not in html and "\u202e" not in html and "\\u202e" in html


@pytest.mark.parametrize("classes", [2, 43, 200])
def test_pages_can_be_made_for_few_and_many_classes(classes):
    scan = samples.scan(classes)
    html = page(document(scan), scan, samples.images(classes, per_class=6), samples.model(classes))
    assert data_images(html) == 14
    assert ("classes as a histogram" in html) == (classes == 200)


def test_a_page_without_classes_still_gives_the_reason():
    scan = samples.scan(verdict="inconclusive")
    finding = dataclasses.replace(scan.finding, classes=(), reasons=("accuracy is near chance",))
    bare = dataclasses.replace(scan, finding=finding, backdoors=())
    html = page(document(bare), bare, samples.images(), samples.model())
    assert "accuracy is near chance" in html.lower() and 'id="sizes"' not in html
