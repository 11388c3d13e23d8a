"""Slices to test on, with clicks: from whole phantom studies of seeds that no training has seen."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from samihs_training.data.cache import FIRST_SEEDS
from samihs_training.data.phantom import (
    BleedType,
    PhantomOptions,
    PhantomSlice,
    PhantomStudy,
    generate_study,
)
from samihs_training.data.targets import BRAIN, Target, lesions, negative_target
from samihs_training.prompts import prompt_rule

ClickRule = Literal["deepest", "random"]
STUDY_SEED = FIRST_SEEDS["test"]
LEAST_BRAIN = 0.02
"""Smallest share of brain and CSF in a slice that is chosen as one without blood."""


@dataclass(frozen=True, eq=False)
class StudySlice:
    """One slice of a study and the clicks on it."""

    study: int
    """Seed."""
    index: int
    """Slice of the study."""
    hu: NDArray[np.int16]
    spacing_mm: float
    extent_mm: float
    """Extent of the slice along the normal."""
    clicks: tuple[Target, ...]
    """One on each lesion of the slice, then those where nothing bleeds (their mask is empty)."""
    lesions_ml: tuple[float, ...]
    """For each click, the volume of the lesion clicked on in the study; 0 where nothing bleeds."""
    bleeds: NDArray[np.uint8]
    """[rows, columns]: :class:`BleedType` of each pixel, including specks that are not clicked."""


@dataclass(frozen=True)
class StudySpec:
    """Which studies, how many of their slices, and how they are clicked on."""

    studies: int = 100
    slices_per_study: int = 6
    """At most this many slices with blood, spread evenly over those there are, and a third as many
    that show brain and no blood."""
    click: ClickRule = "deepest"
    options: PhantomOptions = field(default=PhantomOptions())
    first_seed: int = STUDY_SEED
    elsewhere: int = 1
    """Clicks per slice where nothing bleeds."""


def study_slices(
    spec: StudySpec, *, workers: int = 1, progress: Callable[[int], None] = lambda done: None
) -> Iterator[StudySlice]:
    """The slices of all studies, in order of seeds; ``workers`` processes generate them."""
    seeds = range(spec.first_seed, spec.first_seed + spec.studies)
    if workers <= 1:
        for done, seed in enumerate(seeds, 1):
            yield from slices_of(seed, spec)
            progress(done)
        return
    context = multiprocessing.get_context("spawn")  # a fork may hang in torch's thread pool
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        for done, slices in enumerate(pool.map(partial(slices_of, spec=spec), seeds), 1):
            yield from slices
            progress(done)


def slices_of(seed: int, spec: StudySpec) -> list[StudySlice]:
    """The chosen slices of one study."""
    study = generate_study(seed, spec.options)
    samples = [
        PhantomSlice(hu, bleeds, tissues, study.pixel_spacing)
        for hu, bleeds, tissues in zip(study.hu, study.bleeds, study.tissues, strict=True)
    ]
    found = [lesions(each) for each in samples]
    volume_ml = _lesion_volumes(study)
    bleeding = [index for index, each in enumerate(found) if each]
    calm = [index for index, each in enumerate(samples) if _calm(each)]
    chosen = _spread(bleeding, spec.slices_per_study)
    chosen += _spread(calm, -(-spec.slices_per_study // 3), ends=False)
    slices = []
    for index in sorted(chosen):
        rng = np.random.default_rng([seed, index])
        rule = prompt_rule(spec.click)
        clicks = [Target(mask, rule(mask, rng), kind) for kind, mask in found[index]]
        clicks += [negative_target(samples[index], rng) for _ in range(spec.elsewhere)]
        volumes = [float(volume_ml[index][each.mask].max(initial=0)) for each in clicks]
        slices.append(
            StudySlice(
                study=seed,
                index=index,
                hu=samples[index].hu,
                spacing_mm=study.pixel_spacing,
                extent_mm=float(study.extents_mm[index]),
                clicks=tuple(clicks),
                lesions_ml=tuple(volumes),
                bleeds=samples[index].bleeds,
            )
        )
    return slices


def _lesion_volumes(study: PhantomStudy) -> NDArray[np.float64]:
    """[slices, rows, columns]: at each bleeding voxel the volume of its lesion, mL.

    A lesion is a 26-connected component of one type.
    """
    voxel_ml = np.asarray(study.extents_mm) * study.pixel_spacing**2 / 1000
    volumes = np.zeros(study.bleeds.shape)
    for kind in np.unique(study.bleeds[study.bleeds > 0]):
        labels, _ = ndimage.label(study.bleeds == kind, structure=np.ones((3, 3, 3)))
        inside = labels > 0
        of_voxel = np.broadcast_to(voxel_ml[:, None, None], labels.shape)[inside]
        volumes[inside] = np.bincount(labels[inside], weights=of_voxel)[labels[inside]]
    return volumes


def is_bleed(target: Target) -> bool:
    """Whether the click is on a lesion."""
    return target.kind is not BleedType.NONE


def _calm(sample: PhantomSlice) -> bool:
    """Whether a slice shows brain and no blood: beyond the brain any score is right."""
    return not sample.bleeds.any() and bool(np.isin(sample.tissues, BRAIN).mean() > LEAST_BRAIN)


def _spread(indices: list[int], count: int, *, ends: bool = True) -> list[int]:
    """At most ``count`` of ``indices``, evenly spread: from end to end, or in the middles of as
    many parts."""
    if len(indices) <= count:
        return list(indices)
    steps = np.linspace(0, 1, count) if ends else (np.arange(count) + 0.5) / count
    picks = np.unique((steps * (len(indices) - 1)).round().astype(int))
    return [indices[pick] for pick in picks]
