"""README and docs/: every command and Python block that they show is run, or is listed as one that cannot be run here.

Commands run in one folder with what the pages assume: a network in `runs/openpose`, trained by a page's own command;
pictures in `photos`; `my_package` with the files that the pages show; a network of one's own in `my_net.onnx`. A
command that stands in none of the tables below fails the first test: put it into one.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import cv2
import numpy as np
import onnx
import pytest
import torch
import typer
from typer.testing import CliRunner

from compress import recipe
from compress.cli import app
from compress.data.sets import DATA_KINDS
from compress.data.synthetic import SyntheticPeople
from compress.engines import ENGINES
from compress.nas.sampler import SAMPLERS
from compress.pruning.importance import CRITERIA
from tests.networks.checkpoints.small_file import small_file

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

TRAIN = "compress train benchmarks/openpose_7x7.yaml --recipe train_openpose --run runs/openpose"
"""Makes the network that the other commands start from."""

SMALL_DATA = "data={kind: synthetic, synthetic: {train: 16, search: 4, val: 4}}"
SMALL_TRAINING = ("training.epochs=1", "training.batch_size=8", "training.warmup_steps=0")
ONE_EXPORT = ("targets=[onnxruntime]", "rounds=4", "parity_pictures=1")
SMALL_TRAIN = ("input_hw=[64,64]", SMALL_DATA, *SMALL_TRAINING)
SMALL_PRUNING = ("pruning.pictures=4", "pruning.ratios=[0.5]", "pruning.multiple=8", *SMALL_TRAINING, *ONE_EXPORT)
SMALL_REWRITING = ("rewriting.calibration=4", "rewriting.steps=1", "rewriting.pictures=4", *SMALL_TRAINING, *ONE_EXPORT)
SMALL_TABLE = ("networks=1", "rounds=4", "input_hw=[64,64]")

AS_SHOWN = (
    "compress import pose_hrnet_w32_256x192.pth --run runs/hrnet",
    "compress export runs/hrnet --normalisation inside",
    "compress doctor",
    "compress rewrite --list",
    "compress networks",
    "compress targets",
    "compress profile dir_bhrnet_32",
    "compress profile runs/openpose",
    "compress profile my_package.my_net:build --set input_hw=[256,192]",
    "compress profile my_net.onnx --set input_hw=[256,192]",
    "compress export my_net.onnx --set input_hw=[256,192] --out exported",
    "compress evaluate runs/openpose",
    "compress export runs/openpose",
    "compress report runs/openpose",
    "compress predict runs/openpose photos --out drawn",
)
"""Run as they stand."""

REDUCED: dict[str, tuple[str, ...]] = {
    TRAIN: SMALL_TRAIN,
    "compress train benchmarks/openpose_7x7.yaml --recipe train_openpose --set training.epochs=2 "
    "--set data.synthetic.train=2048 --set input_hw=[128,128] --run runs/openpose": SMALL_TRAIN,
    "compress rewrite runs/openpose --rule conv_to_3x3 --max-loss 0.3 --set training.epochs=1 --run runs/rewritten": (
        "rewriting.sites=[refinements.0.0.*]",
        *SMALL_REWRITING,
    ),
    "compress prune runs/rewritten --latency 60% --allocate latency --set training.epochs=2 --run runs/fast": (
        "pruning={macs: 0.6, allocate: global, multiple: 8}",
        *SMALL_TRAINING,
        *ONE_EXPORT,
    ),
    "compress predict runs/fast photos --out drawn": (),
    "compress report runs/openpose runs/fast --out compare.html": (),
    "compress train benchmarks/openpose_7x7.yaml --recipe train_openpose --run runs/student "
    "--set distillation.teacher=runs/openpose --set 'distillation.features={features.5: features.5}'": SMALL_TRAIN,
    "compress train benchmarks/openpose_7x7.yaml --recipe train_openpose --run runs/short "
    "--set training.epochs=2 --set 'data={kind: synthetic, synthetic: {train: 2048}}'": SMALL_TRAIN,
    "compress profile runs/openpose --target onnxruntime": ("rounds=4",),
    "compress profile runs/openpose --decode": (),
    "compress prune runs/openpose --macs 0.5 --compare torch-pruning --run runs/compared": SMALL_PRUNING,
    "compress prune runs/openpose --analyse --run runs/sensitivity": (
        "pruning.protect=['refinements.*', 'initial.*']",
        *SMALL_PRUNING,
    ),
    "compress rewrite runs/openpose --depth 24 --run runs/deeper": (*SMALL_TRAINING, *ONE_EXPORT),
    "compress search bhrnet --run runs/bhrnet": (
        SMALL_DATA,
        "input_hw=[64,64]",
        "measurement={targets: [onnxruntime], rounds: 4, parity_pictures: 1}",
        "supernet={epochs: 1, batch_size: 8, pool: 2, randoms: 0}",
        "search={space: small.yaml, sampler: guided, trials: 2, calibration_pictures: 8, population: 2}",
        "finalists={count: 1, training: {epochs: 1, batch_size: 8}}",
        "baselines={hand: {width: 8}}",
    ),
    "compress latency build runs/openpose --target ncnn": SMALL_TABLE,
    "compress latency show runs/openpose --target ncnn": SMALL_TABLE,
    "compress latency check runs/openpose --target ncnn": SMALL_TABLE,
    "compress latency pack runs/openpose --target ncnn --for prune --out packed": SMALL_TABLE,
    "compress prune small_hrnet_w16 --ratio 0.5 --criterion my_package.criteria:largest --run runs/largest": (
        "input_hw=[64,64]",
        *ONE_EXPORT,
    ),
    "compress evaluate runs/openpose --data my_package.pictures:read": (),
}
"""Command → `--set`s that make it small."""

INSTALL = "python3 -m venv .venv && .venv/bin/pip install ."
TEST = next(
    line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("python3 -m venv .venv-test ")
)

NOT_RUN: dict[str, str] = {
    INSTALL: "an environment of its own; that of the tests is made so",
    TEST: "an environment of its own; it is what runs this test",
    "compress train mobileposenet --recipe train_lsp --data lsp:/path/to/lspet --run runs/mobileposenet": "photographs",
    "compress evaluate runs/mobileposenet --data lsp:/path/to/lspet": "photographs",
    ".venv/bin/compress search recipes/bhrnet.yaml": "a quarter of an hour; `compress search bhrnet` is run reduced",
    "compress search bhrnet_coco --set data.disk.folder=/path/to/coco": "COCO, and a GPU",
    "compress search runs/openpose --target ncnn --budget 50%": (
        "minutes; tests/jobs/test_derived_space.py searches around a network of four blocks"
    ),
    'compress search my_package:network --data coco:/data/coco --target ncnn --budget "2.5 ms"': "COCO",
    "compress search network.onnx --data lsp:/data/lsp --target ncnn --budget 50%": "photographs",
    "compress predict runs/openpose --data coco:/path/to/coco --format coco --out results": "COCO",
    ". .venv/bin/activate": "an environment of its own",
    **dict.fromkeys(
        (
            "scp -r packed pi:packed",
            "ssh pi 'python3 -m venv ncnn && ncnn/bin/pip install ncnn numpy'",
            "ssh pi 'cd packed && ../ncnn/bin/python run.py --threads 4'",
            "scp -r pi:packed .",
            'cmake -S ncnn -B build -DCMAKE_TOOLCHAIN_FILE="$ANDROID_NDK/build/cmake/android.toolchain.cmake" '
            "-DANDROID_ABI=arm64-v8a -DANDROID_PLATFORM=android-24 -DCMAKE_BUILD_TYPE=Release "
            "-DNCNN_BUILD_BENCHMARK=ON",
            "cmake --build build --parallel",
            "adb push packed/benchncnn /data/local/tmp/kernels",
            "adb push build/benchmark/benchncnn /data/local/tmp/kernels/",
            "adb shell 'cd /data/local/tmp/kernels && chmod +x benchncnn && sh bench.sh 1 4 > benchncnn.txt 2>&1'",
            "adb pull /data/local/tmp/kernels/benchncnn.txt packed/benchncnn/",
            "adb push runs/phone/model.ncnn.param /data/local/tmp/kernels/",
            "adb shell 'cd /data/local/tmp/kernels && ./benchncnn 20 4 0 -1 0 param=model.ncnn.param "
            "shape=[192,192,3]'",
        ),
        "another device",
    ),
    **dict.fromkeys(
        (
            "compress latency unpack packed --table tables/pi5.json",
            'compress latency unpack packed --device "my phone"',
            "compress prune runs/openpose --latency 60% --allocate latency --target ncnn:threads=4@tables/pi5.json "
            "--run runs/pi",
            "compress prune runs/openpose --latency 60% --allocate latency --target ncnn@tables/phone.json "
            "--run runs/phone",
            "compress measure pack runs/pi --out packed_result",
            "compress measure unpack runs/pi packed_result",
        ),
        "the results of another device; tests/jobs/test_measure.py runs the round trip",
    ),
    **dict.fromkeys(
        (
            "python3 -m venv litert",
            "litert/bin/pip install torch==2.13.0 torchvision==0.28.0 litert-torch",
            "export COMPRESS_LITERT_PYTHON=litert/bin/python",
            "compress export runs/openpose --set 'engines=[litert]'",
        ),
        "LiteRT's converter, 2.2 GB; tests/engines/test_litert.py runs where it is installed",
    ),
    "compress prune hrnet_w32@pose_hrnet_w32_256x192.pth --macs 50%": "a public checkpoint",
    "compress train simple_baseline_r50 --recipe train_simple_baseline --set training.backbone=resnet50.pth": (
        "a public checkpoint"
    ),
}
"""Command → what it needs that is not here."""


SMALL_PYTHON = {
    "macs=0.5": "macs=0.5, target='onnxruntime', **few",
    'target="ncnn"': 'target="ncnn", rules=["conv_to_3x3"], sites=["refinements.0.0.*"], steps=1, calibration=4, **few',
}
"""What stands in the Python blocks → what makes it small."""

FEW = {
    "pictures": 4,
    "training": {"epochs": 1, "batch_size": 8, "warmup_steps": 0},
    "rounds": 4,
    "parity_pictures": 1,
}


EARLIER = ("runs/rewritten", "runs/fast")
"""Networks that an earlier command makes, or not, as timings fall out: `runs/openpose` stands for them."""


def blocks(language: str) -> list[tuple[str, str]]:
    """Page and text of every fenced block in that language."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found += [(page.name, block) for block in re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)]
    return found


def commands() -> list[str]:
    """Every line of the `sh` blocks once, without its comment; a line that ends in a backslash goes on."""
    lines = [
        " ".join(re.sub(r"(^|\s)# .*", "", line).split())
        for _, block in blocks("sh")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return list(dict.fromkeys(line for line in lines if line))


SMALL_SPACE = """
family: dir_bhrnet
fixed: {head: single, keypoints: 17, blocks: [[1], [1, 1], [1, 1, 1], [1, 1, 1, 1]]}
choices: {width: [8, 16]}
"""


def shown_as(path: str) -> str:
    """The Python block that a page shows as this file: the first one behind the file's name."""
    text = next(text for page in PAGES if f"`{path}`" in (text := page.read_text(encoding="utf-8")))
    return text.partition(f"`{path}`")[2].partition("```python\n")[2].partition("```")[0]


def my_net_onnx() -> onnx.ModelProto:
    """One strided convolution that gives a heatmap for each of 17 joints."""
    sizes = ["batch", 3, "height", "width"]
    image, maps = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("image", sizes), ("maps", ["batch", 17, "rows", "columns"]))
    )
    weight = onnx.numpy_helper.from_array(np.random.default_rng(0).normal(0, 0.1, (17, 3, 4, 4)).astype("f"), "weight")
    node = onnx.helper.make_node("Conv", ["image", "weight"], ["maps"], strides=[4, 4])
    graph = onnx.helper.make_graph([node], "my_net", [image], [maps], [weight])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that commands run in; latency tables are kept in it too."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "photos").mkdir()
    people = SyntheticPeople(2, (96, 96), 0)
    for index in range(2):
        cv2.imwrite(str(folder / "photos" / f"{index}.png"), people.image(index)[:, :, ::-1])
    (folder / "my_package").mkdir()
    for name in ("my_net", "criteria", "pictures"):
        (folder / "my_package" / f"{name}.py").write_text(shown_as(f"my_package/{name}.py"))
    onnx.save(my_net_onnx(), folder / "my_net.onnx")
    (folder / "small.yaml").write_text(SMALL_SPACE)
    torch.save(small_file(), folder / "pose_hrnet_w32_256x192.pth")  # of a small network, whatever the name says
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
    before = Path.cwd(), os.environ.get("COMPRESS_CACHE")
    os.chdir(folder)
    os.environ["COMPRESS_CACHE"] = str(folder / "cache")
    run(TRAIN, REDUCED[TRAIN])
    yield folder
    os.chdir(before[0])
    del os.environ["COMPRESS_CACHE"]
    if before[1] is not None:
        os.environ["COMPRESS_CACHE"] = before[1]


def run(command: str, settings: tuple[str, ...] = ()) -> None:
    """Runs one command in this process; it must end without a mistake. A missed goal is none: the networks are tiny."""
    words = shlex.split(command)
    assert words[0] == "compress"
    words[2:4] = ["runs/openpose" if word in EARLIER else word for word in words[2:4]]  # before any option
    result = CliRunner().invoke(app, [*words[1:], *(word for one in settings for word in ("--set", one))])
    assert result.exit_code in (0, 3), (command, result.output, result.stderr, result.exception)


def test_every_command_is_in_one_table() -> None:
    known = [*AS_SHOWN, *REDUCED, *NOT_RUN]
    assert len(known) == len(set(known))
    shown = commands()
    assert [command for command in shown if command not in known] == []
    assert [command for command in known if command not in shown] == []


@pytest.mark.parametrize("command", commands())
def test_a_shown_command_works(command: str, workplace: Path) -> None:
    if command in NOT_RUN:
        pytest.skip(f"needs {NOT_RUN[command]}")
    if command != TRAIN:  # which made the folder
        run(command, REDUCED.get(command, ()))


def test_the_networks_page_shows_what_is_printed() -> None:
    """`compress networks`, whose counts are kept, without the rows that are left out."""
    page = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8")
    shown = next(block for block in re.findall(r"^```\n(.*?)^```", page, re.M | re.S) if block.startswith("network "))
    printed = CliRunner().invoke(app, ["networks"]).stdout
    whole = {" ".join(line.split()) for line in printed.splitlines()}
    rows = [" ".join(line.split()) for line in shown.splitlines() if "─" not in line]
    assert len(rows) > 8
    assert [row for row in rows if row not in whole] == []


@pytest.mark.parametrize("block", dict.fromkeys(block for _, block in blocks("python")))
def test_a_shown_python_block_works(block: str, workplace: Path) -> None:
    for shown, small in SMALL_PYTHON.items():
        block = block.replace(shown, small)
    exec(compile(block, "a block of the pages", "exec"), {"few": FEW})


def test_the_pages_build_and_the_reference_names_every_key(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    page = (tmp_path / "recipes.html").read_text(encoding="utf-8")
    models = [one for one in vars(recipe).values() if isinstance(one, type) and issubclass(one, recipe.Settings)]
    keys = {name for one in models for name in one.model_fields} - {"job"}
    assert [key for key in sorted(keys) if f"<code>{key}</code>" not in page] == []
    assert "<code>mirrored_px</code>" in page  # a key of the codec
    names = (*CRITERIA, *DATA_KINDS, *ENGINES, *SAMPLERS)
    assert [name for name in names if f"<code>{name}</code>" not in page] == []
    for html in tmp_path.rglob("*.html"):  # offline: nothing is loaded from elsewhere
        assert not re.search(r'(src|rel="stylesheet" href)="https?://', html.read_text(encoding="utf-8")), html


PROGRAMS = ("python", "torchrun", "sh ", "mkdocs", "pip ", "benchmark_model ")
"""Whose words are no options of ours."""
OTHERS = ("--threads", "--precision", "--rounds", "--help")
"""Options of run.py, and what Typer adds."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_and_keys_in_the_text_exist(page: Path) -> None:
    """In what stands between backticks; the commands of the blocks are run."""
    options, keys = set(options_of(typer.main.get_command(app))) | set(OTHERS), recipe_keys()
    sections = "|".join({key.partition(".")[0] for key in keys if "." in key})
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for code in re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", prose):
        if not code.startswith(PROGRAMS):
            assert set(re.findall(r"(?<!\S)--[a-z][a-z-]*", code)) <= options, code
        named = re.findall(rf"(?<![\w./])((?:{sections})\.[a-z_.]+\w)(?!\w*\.(?:py|png))", code)
        assert {key for key in named if not key.endswith((".py", ".yaml", ".png"))} <= keys, code


def options_of(group: Any) -> Iterator[str]:
    """Every option of every command."""
    for parameter in group.params:
        yield from parameter.opts
    for command in getattr(group, "commands", {}).values():
        yield from options_of(command)


def recipe_keys() -> set[str]:
    """The keys of all recipes, those of sections as `section.key`."""
    models = [one for one in vars(recipe).values() if isinstance(one, type) and issubclass(one, recipe.Settings)]
    return {key for model in models if "job" in model.model_fields for key in keys_of(model)}


def keys_of(kind: type, prefix: str = "") -> Iterator[str]:
    for name, hint in get_type_hints(kind).items():
        if not name.startswith(("_", "model_")):
            yield prefix + name
            for part in sections_in(hint):
                yield from keys_of(part, f"{prefix}{name}.")


def sections_in(hint: Any) -> Iterator[type]:
    """Records that a key's value may be."""
    if isinstance(hint, type) and (is_dataclass(hint) or issubclass(hint, recipe.Settings)):
        yield hint
    for part in get_args(hint):
        yield from sections_in(part)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path = target.partition("#")[0]
        if path and "://" not in path:
            assert (page.parent / path).exists(), target
