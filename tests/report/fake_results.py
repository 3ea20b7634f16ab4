"""Results of a search as `jobs/search.py` writes them, made up."""

import math
import random
from typing import Any


def fake_results(trials: int = 60, seed: int = 0) -> dict[str, Any]:
    """About what a synthetic run gives: the front rises with log latency, timings scatter by a few percent."""
    rng = random.Random(seed)
    scored = []
    for n in range(trials):
        ms = math.exp(rng.uniform(math.log(3.2), math.log(14)))
        ap = 0.16 + 0.13 * math.log(ms) - abs(rng.gauss(0, 0.035))
        cost = {"params": int(ms * 2.2e5), "macs": int(ms * 4.1e7), "predicted_ms": ms}
        scored.append({"number": n, "pick": {"width": 16, "blocks.3.0": n % 4}, "cost": cost, "ap": ap})
    scored = [
        t
        | {
            "on_front": not any(
                o["cost"]["predicted_ms"] < t["cost"]["predicted_ms"] and o["ap"] >= t["ap"] for o in scored
            )
        }
        for t in scored
    ]
    networks = [
        *(_network(f"finalist_{n}", "finalist", ms, ap, rng) for n, (ms, ap) in enumerate(_FINALISTS, 1)),
        _network("dir_bhrnet hand balance", "baseline", 7.9, 0.498, rng),
        _network("hrnet layout", "baseline", 10.6, 0.507, rng),
    ]
    errors = [abs(n["prediction_error"]) for n in networks]
    chance, beyond = (
        {"verdict": verdict, "steady": True, "faster": True} for verdict in ("within chance", "beyond chance")
    )
    faster = {"verdict": "faster"}
    return {
        "job": "search",
        "folder": "runs/bhrnet-synthetic",
        "command": ["compress", "search", "recipes/bhrnet.yaml", "--out", "runs/bhrnet synthetic"],
        "recipe": {"name": "bhrnet", "input_hw": [128, 128], "seed": 1, "supernet": {"epochs": 30, "lr": 0.001}},
        "environment": {
            "cpu": "AMD EPYC 7B13",
            "cores": 2,
            "python": "3.11.9",
            "packages": {"torch": "2.13.0", "onnxruntime": "1.30.0", "optuna": "5.0.1"},
            "platform": "Linux-6.1-x86_64",
        },
        "data": {"kind": "synthetic", "train": 4000, "search": 400, "val": 500, "val_people": 1312},
        "engine": {"name": "onnxruntime", "version": "1.30.0", "device": "AMD EPYC 7B13", "threads": 1},
        "space": {
            "family": "dir_bhrnet",
            "size": 3_482_851_737,
            "choices": {"width": [8, 12, 16], "blocks.*.*": [1, 2, 3, 4], "kinds.*": ["dir", "basic"]},
        },
        "table": {"kernels": 214, "scale": {"factor": 0.968, "networks": 6, "error": 0.021}},
        "supernet": {"loss": [0.004 + 0.03 * math.exp(-n / 6) + rng.gauss(0, 0.0003) for n in range(30)]},
        "trials": scored,
        "networks": networks,
        "comparison": [
            {
                "baseline": "dir_bhrnet hand balance",
                "at_its_latency": {"network": "finalist_3", "ap": 0.521, "baseline_ap": 0.498, **chance},
                "at_its_accuracy": {"network": "finalist_3", "speedup": 1.34, "low": 1.32, "high": 1.36, **faster},
            },
            {
                "baseline": "hrnet layout",
                "at_its_latency": {"network": "finalist_4", "ap": 0.549, "baseline_ap": 0.507, **beyond},
                "at_its_accuracy": {"network": "finalist_3", "speedup": 1.77, "low": 1.74, "high": 1.8, **faster},
            },
        ],
        "prediction": {"mean_error": sum(errors) / len(errors), "worst_error": max(errors)},
        "seconds": {"data": 21.4, "latency table": 187.0, "supernet": 1412.0, "search": 655.0, "fine-tuning": 1804.2},
        "caveats": [
            "Pictures are drawn, not photographed: the order of networks on COCO may differ.",
            "Networks were trained for 12 epochs; longer training may change their order.",
            "Latency was measured on a shared machine.",
        ],
    }


_FINALISTS = [(3.4, 0.402), (4.6, 0.463), (6.0, 0.521), (8.9, 0.549), (12.8, 0.543)]


def _network(name: str, role: str, ms: float, ap: float, rng: random.Random) -> dict[str, Any]:
    predicted = ms * (1 + rng.gauss(0, 0.03))
    half, drift = rng.uniform(0.01, 0.03), 1.04
    onnx = {"file": f"finalists/{name}/model.onnx", "size_bytes": int(ms * 9.1e5), "parity": 2.1e-6}
    ncnn = {"file": f"finalists/{name}/model.ncnn.bin", "size_bytes": int(ms * 8.9e5), "parity": 8.4e-4}
    return {
        "name": name,
        "role": role,
        "architecture": {
            "family": "dir_bhrnet",
            "width": 16,
            "blocks": [[1], [1, 2], [1, 2, 3], [rng.randint(1, 4) for _ in range(4)]],
            "kinds": ["dir", "dir", "basic", "dir"],
            "expansions": [2, 2, 4, 2],
            "head": "single",
            "keypoints": 17,
        },
        "pick": {"width": 16},
        "cost": {"params": int(ms * 2.2e5), "macs": int(ms * 4.1e7), "predicted_ms": predicted},
        "supernet_ap": ap - 0.13 + rng.gauss(0, 0.01),
        "val": {"AP": ap, "AP50": ap + 0.24, "AP75": ap - 0.04, "APM": ap - 0.05, "APL": None, "AR": ap + 0.05},
        "ap_standard_error": 0.011,
        "provenance": "short training",
        "procedure": "one pass",
        "passes": 1,
        "decode_ms": {"median": 0.31, "q1": 0.25, "q3": 0.44, "people": 1.6},
        "end_to_end_ms": ms + 0.31,
        "end_to_end_uncertainty": half / 2,
        "other": {
            "procedure": "two passes",
            "passes": 2,
            "val": {"AP": ap + 0.017},
            "decode_ms": {"median": 0.35, "q1": 0.29, "q3": 0.48, "people": 1.6},
            "end_to_end_ms": 2 * ms + 0.35,
        },
        "latency": {
            "median_ms": ms * drift,
            "q1_ms": ms * drift * (1 - half),
            "q3_ms": ms * drift * (1 + half),
            "ratio": ms / 0.2,
            "normalised_ms": ms,
            "spread": 2 * half,
            "uncertainty": half / 2,
            "count": 50,
            "reliable": name != "finalist_2",
        },
        "measured_ms": ms,
        "prediction_error": predicted / ms - 1,
        "ncnn_ms": ms * 1.3 if role == "finalist" else None,
        "exports": {"onnxruntime": onnx, "ncnn": ncnn},
    }
