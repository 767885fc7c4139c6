"""Model folders of timm and Hugging Face: in, and out again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from graphs import flows
from safetensors.torch import load_file, save_file
from torch import nn

from detrigger.errors import ModelError, OutputError, UsageError
from detrigger.files import folder as folders
from detrigger.images import Images
from detrigger.load import load_classifier, metadata
from detrigger.model import Classifier, Preprocessing
from detrigger.repair.refit import RefitConfig, refit
from detrigger.save import save_classifier
from detrigger.scan import ScanConfig, scan
from detrigger.trigger.patch import PatchTrigger

NAMES = ("cat", "dog", "emu")
TIMM = {
    "architecture": "test_resnet",
    "num_classes": 3,
    "model_args": {"block": "basic"},
    "label_names": list(NAMES),
    "pretrained_cfg": {
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.2, 0.1],
        "input_size": [3, 32, 32],
        "crop_pct": 0.875,
        "interpolation": "bicubic",
    },
}
RESNET = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "layer_type": "basic",
    "num_channels": 3,
    "id2label": {"0": "cat", "1": "dog", "2": "emu"},
}
VIT = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 16,
    "patch_size": 8,
    "id2label": {"0": "cat", "1": "dog", "2": "emu"},
}
PROCESSOR = {
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.25, 0.25, 0.25],
    "resample": 3,
    "size": {"shortest_edge": 20},
    "crop_size": {"height": 16, "width": 16},
    "do_center_crop": True,
}


def written(
    folder: Path, config: dict[str, Any], net: nn.Module, processor: dict[str, Any] | None = None
) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(net.state_dict(), folder / "model.safetensors")
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def timm_folder(folder: Path, **changes: Any) -> Path:
    import timm

    torch.manual_seed(0)
    config = TIMM | {"model_args": {"drop_rate": 0.1}} | changes
    return written(folder, config, timm.create_model("test_resnet", num_classes=3))


def transformers_folder(folder: Path, config: dict[str, Any]) -> Path:
    """As transformers itself writes it."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    settings = transformers.AutoConfig.for_model(**config)
    transformers.AutoModelForImageClassification.from_config(settings).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


def opened(path: Path, side: int = 16) -> Classifier:
    return load_classifier(path, None, shape=(3, side, side), names=NAMES)


def data_for(model: Classifier) -> Images:
    """Images on which an untrained network is always right: labelled by itself."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(200, *model.image_shape, generator=generator) * torch.rand(
        200, 1, 1, 1, generator=generator
    )
    with torch.no_grad():
        *_, head = (m for m in model.net.modules() if isinstance(m, nn.Linear))
        head.bias -= model(x).mean(0)
    y = model(x).argmax(1)
    chosen = torch.cat([(y == c).nonzero()[:10, 0] for c in range(3)])
    return Images(x[chosen], y[chosen], NAMES)


def scanned_and_repaired(model: Classifier) -> Classifier:
    images = data_for(model)
    result = scan(model, images, ScanConfig(budget="quick", precision="fp32"))
    assert result.accuracy == 1 and any(found.inverted for found in result.finding.classes)
    trigger = PatchTrigger(torch.ones(1, 1, *images.shape[1:]), torch.rand(1, *images.shape))
    return refit(model, images, [trigger], (0,), RefitConfig()).model


def changed(model: Classifier) -> Classifier:
    with torch.no_grad():
        for parameter in model.net.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return model


def test_a_timm_folder_is_scanned_repaired_written_and_read_again(tmp_path: Path) -> None:
    path = timm_folder(tmp_path / "model")
    model = opened(path, 32)
    assert model.preprocessing == Preprocessing((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    assert model.origin.format == "timm" and model.origin.architecture == "timm:test_resnet" and flows(model)
    assert "preprocessing is that of its pretrained_cfg" in model.origin.notes
    repaired = scanned_and_repaired(model)
    assert save_classifier(repaired, tmp_path / "out") == folders.digest(tmp_path / "out")
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(opened(tmp_path / "out", 32)(x), repaired(x))
    assert (tmp_path / "out" / "config.json").read_bytes() == (path / "config.json").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "out"]


@pytest.mark.parametrize("config", [RESNET, VIT], ids=["resnet", "vit"])
def test_a_hugging_face_folder_is_read_changed_written_and_read_again(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    path = transformers_folder(tmp_path / "model", config)
    model = opened(path)
    from transformers import AutoModelForImageClassification

    own = AutoModelForImageClassification.from_pretrained(path, local_files_only=True).eval()
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model(x), own((x - 0.5) / 0.25).logits)
    assert model.origin.format == "transformers" and flows(model)
    repaired = scanned_and_repaired(model) if config is RESNET else changed(model)
    save_classifier(repaired, tmp_path / "out")
    torch.testing.assert_close(opened(tmp_path / "out")(x), repaired(x))
    before, after = (load_file(folder / "model.safetensors") for folder in (path, tmp_path / "out"))
    assert {k: v.shape for k, v in before.items()} == {k: v.shape for k, v in after.items()}


def test_metadata_are_those_of_the_folder(tmp_path: Path) -> None:
    told = metadata(timm_folder(tmp_path / "a"))
    assert (told.size, told.kept, told.interpolation, told.classes) == (32, 0.875, "bicubic", NAMES)
    path = written(tmp_path / "b", RESNET, nn.Linear(2, 2), PROCESSOR)
    told = metadata(path)
    assert (told.size, told.kept, told.interpolation, told.classes) == (16, 0.8, "bicubic", NAMES)
    assert told.preprocessing == Preprocessing((0.5,) * 3, (0.25,) * 3)
    (path / "preprocessor_config.json").write_text('{"do_rescale": false, "do_normalize": false}')
    assert metadata(path).preprocessing == Preprocessing((0.0,), (1 / 255,))
    whole = {"do_rescale": False, "image_mean": [127.5], "image_std": [255.0]}
    (path / "preprocessor_config.json").write_text(json.dumps(whole))
    assert metadata(path).preprocessing == Preprocessing((0.5,), (1.0,))
    plain = written(tmp_path / "c", RESNET | {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, nn.Linear(2, 2))
    assert metadata(plain).classes == () and metadata(plain).preprocessing is None


def test_code_packed_weights_and_impossible_settings_are_refused(tmp_path: Path) -> None:
    for i, (config, message) in enumerate(
        (
            (
                VIT | {"auto_map": {"AutoModel": "evil.Net"}},
                "'auto_map' .* code of its own, which is not run",
            ),
            (VIT | {"quantization_config": {"bits": 4}}, "'quantization_config'"),
            (VIT | {"hidden_size": 10**9}, "hidden_size 1000000000, which no image classifier has"),
            (VIT | {"num_hidden_layers": 5000}, "num_hidden_layers 5000"),
            (RESNET | {"depths": [600, 600]}, r"depths \[600, 600\]"),
            (TIMM | {"model_args": {"depth": 10**6}}, "depth 1000000"),
            (TIMM | {"architecture": "hf_hub:someone/else"}, "timm has no model 'hf_hub:someone/else'"),
            (TIMM | {"model_args": {"checkpoint_path": "/etc/passwd"}}, "checkpoint_path is not allowed"),
            (TIMM | {"pretrained_cfg": {"mean": [0.5], "std": [0]}}, "std above 0"),
            ({"model_type": "timm_wrapper"}, "model_type 'timm_wrapper' is not supported"),
            ({"hello": 1}, "names neither a timm architecture nor a model_type"),
        )
    ):
        path = written(tmp_path / str(i), config, nn.Linear(2, 2))
        (path / "evil.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')")
        with pytest.raises(ModelError, match=message):
            opened(path)
    assert not (tmp_path / "marker").exists()


def test_folders_without_safetensors_or_with_damaged_json_are_told(tmp_path: Path) -> None:
    path = written(tmp_path / "m", VIT, nn.Linear(2, 2))
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"has no model.safetensors; save it again as safetensors"):
        opened(path)
    for text in ("{", "[]", "[" * 100_000, '{"a": 1e999}'):
        (path / "config.json").write_text(text)
        with pytest.raises(ModelError) as error:
            opened(path)
        assert "\n" not in str(error.value)


def test_weights_that_do_not_fit_their_settings_are_told(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(ModelError, match=r"its settings ask for [\d,]+ weights, its file has 6"):
        opened(written(tmp_path / "a", VIT, nn.Linear(2, 2)))
    path = transformers_folder(tmp_path / "b", VIT)
    tensors = load_file(path / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if k != "classifier.bias"}, path / "model.safetensors")
    with pytest.raises(
        ModelError, match=r"1 of its weights are missing or of another shape, as classifier\.bias"
    ):
        opened(path)


def test_an_architecture_beside_a_folder_is_a_mistake(tmp_path: Path) -> None:
    path = written(tmp_path / "m", VIT, nn.Linear(2, 2))
    with pytest.raises(UsageError, match="names its architecture; leave --arch out"):
        load_classifier(path, "timm:resnet18", shape=(3, 16, 16), names=NAMES)


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = timm_folder(tmp_path / "model")
    model = opened(path, 32)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    for target in (tmp_path / "full", tmp_path / "none" / "out"):
        with pytest.raises(OutputError, match="cannot write the folder"):
            save_classifier(model, target)
    with pytest.raises(OutputError, match="is the original model"):
        save_classifier(model, path)
    (path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="has changed since it was loaded"):
        save_classifier(model, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full", "model"]
