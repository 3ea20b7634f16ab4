"""Overfitting a few pictures: shows that targets, losses, decoders and metric agree from end to end.

    python benchmarks/overfit/run.py --data ../shared/data/coco [--out reports/overfit] [--no-training]

Trains a network with associative embedding and one with part affinity fields on a small COCO folder's training
pictures, padded to squares so that training and evaluation see exactly the same inputs (`compress train`, recipes
beside this file). Scores them on those same pictures, beside the score of perfect maps: the training targets, decoded
in the same way. Part affinity fields cannot join a person whose labelled joints are not connected by their tree of
limbs (a shoulder and a hip without the other shoulder: no neck), so they are also scored on the pictures without such
people.
Writes results.json and README.md to OUT; trainings lie in OUT/runs and resume.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")

import cv2
import numpy as np
from pycocotools import mask as coco_mask

import compress
from compress.data.coco import CocoPeople
from compress.data.limbs import layout_for
from compress.data.normalisation import IMAGENET
from compress.data.sets import validation_set
from compress.engines import engine
from compress.files import write_json, write_text
from compress.jobs.profile.decoding_costs import perfect_answers
from compress.measure.counting import count
from compress.networks import Architecture
from compress.pose.approaches import Setting, estimator_for
from compress.pose.average_precision import oks_ap
from compress.pose.decode.poses import coco_results
from compress.pose.estimator import LabelledBoxes, PoseEstimator
from compress.pose.scoring import score
from compress.recipe import Data, Decoding, TrainRecipe, read_recipe

HERE = Path(__file__).parent
KINDS = {"ae": "associative embedding", "paf": "part affinity fields"}
ROUNDS = {"ae": 1, "paf": 2}
"""Trainings one after the other, each with its own warm-up and cosine from the weights of the one before."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("reports/overfit"))
    parser.add_argument("--no-training", action="store_true", help="score finished trainings, else perfect maps alone")
    arguments = parser.parse_args()
    results: dict[str, Any] = {
        "command": ["python", "benchmarks/overfit/run.py", *sys.argv[1:]],
        "machine": engine("onnxruntime").describe().device,
        "networks": {},
    }
    padded = arguments.out.resolve() / "runs" / "padded"
    if not (padded / "person_keypoints_train.json").is_file():
        pad(arguments.data, padded)
    for kind in KINDS:
        start = str(HERE / f"{kind}_network.yaml")
        for number in range(1, ROUNDS[kind] + 1):
            run = arguments.out / "runs" / f"{kind}_{number}"
            if not (run / "architecture.yaml").is_file() and not arguments.no_training:
                train(kind, start, padded, run)
            start = str(run)
        results["networks"][kind] = scores(kind, padded, run)
        write_json(arguments.out / "results.json", results)
        write_text(arguments.out / "README.md", text(results))


def pad(source: Path, target: Path) -> None:
    """Copies a COCO folder, its pictures made square to the right and below: coordinates stay as they are."""
    for split in ("train", "val"):
        record = json.loads((source / f"person_keypoints_{split}.json").read_text(encoding="utf-8"))
        (target / split).mkdir(parents=True, exist_ok=True)
        for entry in record["images"]:
            image = cv2.imread(str(source / split / entry["file_name"]))
            assert image is not None
            side = max(image.shape[:2])
            rest = (0, side - image.shape[0], 0, side - image.shape[1])
            square = cv2.copyMakeBorder(image, *rest, cv2.BORDER_CONSTANT, value=IMAGENET.border_rgb[::-1])
            entry.update(file_name=f"{Path(entry['file_name']).stem}.png", width=side, height=side)
            cv2.imwrite(str(target / split / entry["file_name"]), square)
        sides = {entry["id"]: entry["width"] for entry in record["images"]}
        for annotation in record["annotations"]:
            if isinstance(annotation.get("segmentation"), dict):  # a crowd's run lengths are of the picture's size
                annotation["segmentation"] = pad_mask(annotation["segmentation"], sides[annotation["image_id"]])
        write_json(target / f"person_keypoints_{split}.json", record)


def pad_mask(lengths: dict[str, Any], side: int) -> dict[str, Any]:
    """Run lengths of a picture as those of the square with that side."""
    height, width = lengths["size"]
    square = np.zeros((side, side), np.uint8, order="F")
    square[:height, :width] = coco_mask.decode(coco_mask.frPyObjects(lengths, height, width))
    encoded = coco_mask.encode(square)
    return {"size": [side, side], "counts": encoded["counts"].decode("ascii")}


def train(kind: str, start: str, data: Path, run: Path) -> None:
    """One training, of which the run folder keeps the network."""
    compress.train(start, recipe=HERE / f"{kind}.yaml", data=f"coco:{data}", folder=run)


def scores(kind: str, folder: Path, run: Path) -> dict[str, Any]:
    """Of the network and of perfect maps, on the pictures it was trained on."""
    record = compress.load(HERE / f"{kind}_network.yaml").architecture
    trained = compress.load(run) if (run / "architecture.yaml").is_file() else None
    recipe = read_recipe(HERE / f"{kind}.yaml", TrainRecipe, [f"data.disk.folder={folder}"])
    data = Data.model_validate({"kind": "coco", "disk": {"folder": folder, "val": "train"}})
    pictures = validation_set(data, recipe.input_hw, 1)
    assert isinstance(pictures, CocoPeople)
    joined = pictures.subset(pictures_of_joined_people(pictures))
    estimator = estimator_for(
        record,
        pictures.keypoints,
        recipe.input_hw,
        codec=recipe.codec,
        decoding=Decoding(flip_test=False),
        boxes=LabelledBoxes(),
    )
    counted = count(record.build(), recipe.input_hw)
    return {
        "architecture": record.family,
        "input_hw": list(recipe.input_hw),
        "params": counted.params,
        "macs": counted.macs,
        "epochs": ROUNDS[kind] * recipe.training.epochs,
        "sets": {
            name: {
                "pictures": len(part),
                "people": sum(len(part.people(i)) for i in range(len(part))),
                "network": score(
                    trained.module, estimator, part, kind="coco", provenance="overfitted", flip_test=False
                ).figures
                if trained
                else None,
                "perfect": perfect(record, estimator, part, recipe),
            }
            for name, part in (("all", pictures), ("joined", joined))
        },
    }


def perfect(
    architecture: Architecture, estimator: PoseEstimator, pictures: CocoPeople, recipe: TrainRecipe
) -> dict[str, float]:
    """The metric of the decoded training targets."""
    setting, results = Setting(architecture, pictures.keypoints, recipe.input_hw, recipe.codec), []
    for index in range(len(pictures)):
        inputs = estimator.inputs(pictures, index)
        answers, _ = perfect_answers(setting, pictures, index, inputs)
        results += coco_results(estimator.decode(inputs, answers, None), pictures.image_id(index))
    return oks_ap(pictures.coco, results, pictures.keypoints).figures


def pictures_of_joined_people(pictures: CocoPeople) -> list[int]:
    """Indices of the pictures in which the tree of limbs joins all labelled joints, at least two, of every person."""
    layout = layout_for(pictures.keypoints)
    limbs = [layout.limbs[limb] for limb in layout.tree]

    def is_joined(joints_k3: Any) -> bool:
        shown = [all(joints_k3[joint, 2] > 0 for joint in source) for source in layout.sources]
        group = list(range(len(shown)))
        for a, b in limbs:
            if shown[a] and shown[b]:
                group = [group[a] if of == group[b] else of for of in group]
        parts = [part for part in layout.joint_parts if shown[part]]
        return len(parts) >= 2 and len({group[part] for part in parts}) == 1

    return [i for i in range(len(pictures)) if all(map(is_joined, pictures.people(i).keypoints_pk3))]


def text(results: dict[str, Any]) -> str:
    """The page for people."""
    rows = []
    for kind, network in results["networks"].items():
        size = "x".join(map(str, network["input_hw"]))
        for name, part in network["sets"].items():
            which = "all" if name == "all" else "whose people the limbs join"
            found = part["network"] or {}
            figures = (found.get("AP"), found.get("AP50"), part["perfect"]["AP"])
            cells = [
                KINDS[kind],
                size,
                f"{network['macs'] / 1e9:.2f}",
                str(network["epochs"]),
                f"{part['pictures']} {which}",
                str(part["people"]),
                *("not trained yet" if value is None else f"{value:.3f}" for value in figures),
            ]
            rows.append(f"| {' | '.join(cells)} |")
    lines = "\n".join(rows)
    return f"""# Overfitting COCO pictures

    {" ".join(results["command"])}

Trained and scored on the same pictures: this is no accuracy to quote, it shows that targets, losses, decoders and
metric agree. Perfect maps are the training targets, decoded in the same way: the upper bound.
{results["machine"]}.

| approach | input | GMACs | epochs | pictures | people | AP | AP50 | AP of perfect maps |
|---|---|---|---|---|---|---|---|---|
{lines}

Part affinity fields are trained {ROUNDS["paf"]} times, the second time from the weights of the first; epochs are the
sum. These fields join parts along a tree of limbs through the neck, the middle of both shoulders. A person with one
labelled shoulder has no neck, and is split into pieces even where every map is perfect.
"""


if __name__ == "__main__":
    main()
