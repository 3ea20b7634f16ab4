"""`compress doctor`: what is looked at, on files written here."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from compress.artefacts.results import Gpu
from compress.jobs import doctor


def test_memory_is_the_systems_or_a_containers_share(tmp_path: Path) -> None:
    meminfo, limit = tmp_path / "meminfo", tmp_path / "memory.max"
    meminfo.write_text("MemTotal:       1000 kB\nMemFree: 100 kB\nMemAvailable:    600 kB\nHugePages_Total: 0\n")
    assert doctor.memory_bytes(meminfo, limit) == (1_024_000, 614_400)
    limit.write_text("max\n")
    assert doctor.memory_bytes(meminfo, limit) == (1_024_000, 614_400)
    limit.write_text("500000\n")
    assert doctor.memory_bytes(meminfo, limit) == (500_000, 500_000)
    total, available = doctor.memory_bytes(tmp_path / "none", limit)
    assert total is None or total > 0
    assert available is None


def test_data_sets_are_found_by_their_files(tmp_path: Path) -> None:
    for folder, labels, pictures, content in (
        ("data/coco", "annotations/person_keypoints_val2017.json", "val2017", "{}"),
        ("data/crowd", "json/crowdpose_train.json", "images", "{}"),
        ("mpii", "annot/valid.json", "images", " [{}]"),
        ("lsp", "train.json", "train", '{"images": []}'),
        ("no pictures", "train.json", "labels", "{}"),
        ("no labels", "words.json", "images", "{}"),
    ):
        (tmp_path / folder / pictures).mkdir(parents=True)
        (tmp_path / folder / labels).parent.mkdir(exist_ok=True)
        (tmp_path / folder / labels).write_text(content)
    places = [tmp_path, tmp_path / "data", tmp_path / "missing"]
    found = {(one.kind, one.folder) for one in doctor.data_folders(places)}
    assert found == {
        ("coco", str(tmp_path / "data/coco")),
        ("crowdpose", str(tmp_path / "data/crowd")),
        ("mpii", str(tmp_path / "mpii")),
        ("lsp", str(tmp_path / "lsp")),
    }


def test_free_space_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert doctor.free_bytes(tmp_path / "a" / "b") > 0
    assert not (tmp_path / "a").exists()


def test_gpus_are_those_that_torch_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: SimpleNamespace(name="a GPU", total_memory=7)
    )
    assert doctor.gpus() == (Gpu("a GPU", 7),)


def test_what_is_not_installed_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None if name == "onnx2torch" else object())
    (part, *_) = doctor.missing_parts()
    assert (part.name, part.install) == ("onnx2torch", "pip install 'compress-pose[onnx]'")


def test_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache is counted, and nothing is written."""
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "cache" / "latency").mkdir(parents=True)
    (tmp_path / "cache" / "latency" / "no_table.json").write_text(json.dumps({}))
    result = doctor.examine(tmp_path)
    assert (result.cache, result.cache_bytes) == (str(tmp_path / "cache"), 2)
    assert {"onnxruntime", "ncnn"} <= {one.engine for one in result.targets.engines if one.installed}
    assert result.torch == torch.__version__
    assert [one.folder for one in result.disk] == [str(tmp_path), str(tmp_path / "cache")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache"]
