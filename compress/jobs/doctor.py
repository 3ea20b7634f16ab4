"""`compress doctor`: what this machine has to compute, measure and train with, and what can be installed besides."""

import importlib.util
import os
import platform
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch

from compress import __version__
from compress.artefacts.results import DiskSpace, DoctorResult, FoundData, Gpu, MissingPart
from compress.data.sets import kind_of_folder
from compress.files import cache_folder
from compress.jobs.targets import list_targets

_PARTS = {
    "onnx2torch": ("networks from ONNX files", "pip install 'compress-pose[onnx]'"),
    "mkdocs": ("the documentation as a site, `mkdocs build`", "pip install 'compress-pose[docs]'"),
}
"""Optional packages that are no engines → what needs them, and the command that installs them."""
_DATA_PLACES = ("", "data", "datasets")
"""Of the current and the home folder, where data sets are looked for; and one level below."""


def examine(here: Path | None = None) -> DoctorResult:
    """Looks at this machine and changes nothing. here: the current folder."""
    here = here or Path.cwd()
    cache = cache_folder()
    total, available = memory_bytes(Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max"))
    return DoctorResult(
        targets=list_targets(here / "tables"),
        version=__version__,
        python=platform.python_version(),
        torch=torch.__version__,
        cores=usable_cores(),
        torch_threads=torch.get_num_threads(),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        memory_bytes=total,
        available_bytes=available,
        gpus=gpus(),
        disk=tuple(DiskSpace(str(folder), free_bytes(folder)) for folder in (here, cache)),
        cache=str(cache),
        cache_bytes=sum(file.stat().st_size for file in cache.rglob("*") if file.is_file()),
        data=data_folders(place / name for place in (here, Path.home()) for name in _DATA_PLACES),
        missing=tuple(missing_parts()),
    )


def usable_cores() -> int:
    """Logical cores that this process may use, which `taskset` or a container may have limited."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes(meminfo: Path, limit: Path) -> tuple[int | None, int | None]:
    """Memory in all, and what is available now; None where it is not known.

    meminfo: Linux's /proc/meminfo, in kB. limit: a control group's memory.max, bytes or `max`.
    """
    if not meminfo.exists():
        pages = os.sysconf("SC_PHYS_PAGES") if "SC_PHYS_PAGES" in os.sysconf_names else None
        return (None if pages is None else pages * os.sysconf("SC_PAGE_SIZE")), None
    found = {}
    for line in meminfo.read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        found[key] = value.split()[0]
    total, available = (1024 * int(found[key]) for key in ("MemTotal", "MemAvailable"))
    text = limit.read_text(encoding="utf-8").strip() if limit.exists() else ""
    most = int(text) if text.isdigit() else total
    return min(total, most), min(available, most)


def gpus() -> tuple[Gpu, ...]:
    """Those that torch computes on, which a training takes by itself."""
    if not torch.cuda.is_available():
        return ()
    found = (torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count()))
    return tuple(Gpu(one.name, one.total_memory) for one in found)


def free_bytes(folder: Path) -> int:
    """On the disk that the folder is on, or will be."""
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    return shutil.disk_usage(there).free


def data_folders(places: Iterable[Path]) -> tuple[FoundData, ...]:
    """Data sets in these folders and in those directly below them, each once."""
    found = {}
    for place in places:
        below = sorted(one for one in place.glob("*/") if one.is_dir()) if place.is_dir() else []
        for folder in (place, *below):
            try:
                kind = kind_of_folder(folder)
            except OSError:  # a folder of another user's
                continue
            if kind is not None:
                found[folder.resolve()] = FoundData(kind, str(folder))
    return tuple(found.values())


def missing_parts() -> Iterable[MissingPart]:
    """What is not installed, besides engines, and a GPU that this torch cannot use."""
    for package, (purpose, install) in _PARTS.items():
        if importlib.util.find_spec(package) is None:
            yield MissingPart(package, purpose, install)
    if Path("/proc/driver/nvidia/version").exists() and not torch.cuda.is_available():
        yield MissingPart("torch for CUDA", "training on this machine's NVIDIA GPU", "install PyTorch's CUDA build")
