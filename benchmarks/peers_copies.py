"""Subjects of ``peers.py`` that are in no registry: they run from copies of their repositories.

A copy is a folder outside this repository that contains the package. It is named by an environment
variable, which ``peers.py`` sets from its options. Without a copy, the subject is not measured, and
the result says so::

    subject                 variable                  package in the folder
    MobileSAM               MOBILE_SAM                mobile_sam
    segment-anything-fast   SEGMENT_ANYTHING_FAST     segment_anything_fast

MobileSAM (Zhang et al., 2023) is the same decoder on a TinyViT of 6 M parameters, with its own
weights, random here. segment-anything-fast has the same weights as the other subjects, in bfloat16,
with its encoder compiled. Both support only frames of 1024 px.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from peers_inputs import config_of
from peers_predictor import Predictor, stand_in_for_torchvision

FRAME = 1024
COPIES = {"mobile_sam": "MOBILE_SAM", "segment_anything_fast": "SEGMENT_ANYTHING_FAST"}
"""Package -> the environment variable that names its copy's folder."""


def mobile_sam(folder: Path) -> Predictor:
    """MobileSAM's ``SamPredictor``. Raises RuntimeError if it is not available."""
    _check_frame(folder)
    with standing_in(_timm()):
        package = _copy("mobile_sam")
    sam = package.sam_model_registry["vit_t"]()
    return Predictor(_plain_pixels(package, sam, folder))


def segment_anything_fast(folder: Path) -> Predictor:
    """segment-anything-fast's ``SamPredictor``. Raises RuntimeError if it is not available."""
    _check_frame(folder)
    name = config_of(folder).name
    with standing_in({} if importlib.util.find_spec("triton") else _triton()):
        package = _copy("segment_anything_fast")
    if name not in package.sam_model_fast_registry:
        raise RuntimeError(f"it has no {name}")
    sam = package.sam_model_fast_registry[name](checkpoint=folder / "weights.pt")
    return Predictor(_plain_pixels(package, sam, folder))


def _plain_pixels(package: ModuleType, sam: Any, folder: Path) -> Any:
    """The package's predictor, with the same normalisation as all other subjects."""
    config = config_of(folder)
    for buffer, values in ((sam.pixel_mean, config.pixel_mean), (sam.pixel_std, config.pixel_std)):
        buffer.copy_(buffer.new_tensor(values).view(-1, 1, 1) * 255)
    return package.SamPredictor(sam)


def _check_frame(folder: Path) -> None:
    side = config_of(folder).image_size
    if side != FRAME:
        raise RuntimeError(f"its frame is {FRAME} px, this comparison's {side} px")


def _copy(package: str) -> ModuleType:
    variable = COPIES[package]
    home = os.environ.get(variable)
    if not home:
        raise RuntimeError(f"no copy of its repository was given: set {variable} to its folder")
    if not (Path(home) / package).is_dir():
        raise RuntimeError(f"{variable}: no package {package} in that folder")
    sys.path.insert(0, home)
    stand_in_for_torchvision()
    return importlib.import_module(package)


@contextmanager
def standing_in(modules: dict[str, ModuleType]) -> Iterator[None]:
    """Make these modules importable within the context, and remove them afterwards.

    When torch compiles it checks for triton, and must not find a stand-in.
    """
    absent = {name: module for name, module in modules.items() if name not in sys.modules}
    sys.modules.update(absent)
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


def _timm() -> dict[str, ModuleType]:
    """The four names of timm that TinyViT uses; timm itself requires torchvision.

    Stochastic depth has a rate of 0 in MobileSAM, so it is never built; the others act like timm's.
    """
    from torch import nn

    layers = ModuleType("timm.models.layers")
    registry = ModuleType("timm.models.registry")
    for name, value in {
        "DropPath": nn.Identity,
        "to_2tuple": lambda side: (side, side),
        "trunc_normal_": nn.init.trunc_normal_,
    }.items():
        setattr(layers, name, value)
    registry.register_model = lambda function: function  # type: ignore[attr-defined]
    packages = {name: ModuleType(name) for name in ("timm", "timm.models")}
    return {**packages, layers.__name__: layers, registry.__name__: registry}


def _triton() -> dict[str, ModuleType]:
    """What its CUDA kernel's module refers to at import; on a CPU the kernel never runs."""
    triton, language = ModuleType("triton"), ModuleType("triton.language")
    triton.jit = lambda function: function  # type: ignore[attr-defined]
    triton.language = language  # type: ignore[attr-defined]
    language.constexpr = int  # type: ignore[attr-defined]
    return {"triton": triton, "triton.language": language}
