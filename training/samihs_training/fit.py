"""Training in two stages: a base from scratch, then adapters on hemorrhages.

A run is one folder: recipe, phantom cache, logs, checkpoints. It may stop at any minute, and
``resume`` goes on.
"""

from __future__ import annotations

import csv
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from samihs_runtime.errors import OutputError
from samihs_runtime.segmentation import BACKGROUND, FOREGROUND, NOT_A_POINT
from samihs_training.adapters import PRConfig, insert_pr_adapters
from samihs_training.checkpoint import load_base, save_adapters, save_base, trained_parameters
from samihs_training.config import Recipe, StageConfig
from samihs_training.data.cache import CacheSpec, SliceCache, open_cache
from samihs_training.data.slices import Batch, ClickedSlices, Task
from samihs_training.losses import BoundarySensitiveLoss, mask_iou, score_loss
from samihs_training.model import SamihsModel
from samihs_training.sam import build_sam, preset

TRAINING_DATA = "synthetic CT only: phantoms of this project, no patient's images"


@dataclass(frozen=True)
class StepReport:
    """What one step did, for the progress bar and the log."""

    stage: str
    step: int
    minutes: float
    """Spent in this stage, earlier runs included."""
    steps: int
    """Of the whole stage."""
    loss: float
    iou: float
    """Mean IoU of the clicks that have a mask."""
    learning_rate: float


Report = Callable[[StepReport], None]
CacheProgress = Callable[[int, int], None]


def fit(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    workers: int = 1,
    report: Report = lambda step: None,
    cache_progress: CacheProgress | None = None,
) -> Path:
    """Run both stages of a recipe in the folder ``out``; returns the adapter checkpoint.

    Raises:
        OutputError: ``out`` holds a run already and ``resume`` was not asked for.
    """
    if (out / "recipe.json").exists() and not resume:
        raise OutputError(f"{out} holds a run: choose another folder, or go on with --resume")
    out.mkdir(parents=True, exist_ok=True)
    (out / "recipe.json").write_text(json.dumps(asdict(recipe), indent=1))
    torch.manual_seed(recipe.seed)
    spec = CacheSpec("train", recipe.slices)
    cache = open_cache(out / "cache", spec, workers=os.cpu_count() or 1, progress=cache_progress)
    base = out / "base.safetensors"
    if not base.is_file():
        _train_base(recipe, out, cache, base, workers, report)
    adapters = out / "adapters.safetensors"
    _train_adapters(recipe, out, cache, base, adapters, workers, report)
    return adapters


def _train_base(
    recipe: Recipe, out: Path, cache: SliceCache, base: Path, workers: int, report: Report
) -> None:
    config = preset(recipe.preset)
    model = SamihsModel(initialised(build_sam(config)), config)
    trainer = Trainer(model, recipe, recipe.base, "base", out)
    trainer.run(_stream(cache, "structures", trainer, workers), report)
    save_base(base, model.sam, config, _description(recipe, trainer))


def _train_adapters(
    recipe: Recipe,
    out: Path,
    cache: SliceCache,
    base: Path,
    adapters: Path,
    workers: int,
    report: Report,
) -> None:
    sam, config, _ = load_base(base)
    pr = PRConfig(rank=recipe.rank)
    insert_pr_adapters(sam, pr)
    trained = {id(parameter) for parameter in trained_parameters(sam).values()}
    for parameter in sam.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    trainer = Trainer(SamihsModel(sam, config), recipe, recipe.adapt, "adapt", out)
    trainer.run(_stream(cache, "bleeds", trainer, workers), report)
    save_adapters(adapters, sam, pr, base, _description(recipe, trainer))


CLICK_GAIN = 3.0
"""Of the cross-attention's first query weights: a click then attends to about 5 % of the grid."""
BACKGROUND_LOGIT = -4.0
"""First logit of every pixel: that of 2 % foreground, about a lesion's share of a slice."""


def initialised(sam: nn.Module) -> nn.Module:
    """Weights from which a SAM can be trained from scratch in minutes; in place.

    segment-anything never says how it was initialised, and PyTorch's defaults fail twice. Query
    and key projections that differ know nothing of place, so a click is not found on the image:
    tied, they compare position encodings from the first step on. And nothing in the decoder holds
    a constant, so "mostly background" is learnt by flattening the embedding, from which training
    does not recover: one channel is set to hold it.
    """
    encoder: Any = sam.image_encoder
    decoder: Any = sam.mask_decoder
    nn.init.trunc_normal_(encoder.pos_embed, std=0.02)
    attentions = [decoder.transformer.final_attn_token_to_image]
    for layer in decoder.transformer.layers:
        attentions += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
    with torch.no_grad():
        for attention in attentions:
            attention.q_proj.weight.mul_(CLICK_GAIN)
            attention.k_proj.weight.copy_(attention.q_proj.weight)
        detail = getattr(encoder.patch_embed, "detail", None)
        if detail is not None:
            detail.weight[0] = 0  # joins the channel that holds the constant
            detail.bias[0] = 0
        upscaling = decoder.output_upscaling[3]
        upscaling.weight[:, 0] = 0
        upscaling.bias[0] = 2.0  # GELU(2) = 1.95
        for head in decoder.output_hypernetworks_mlps:
            head.layers[-1].weight[0] = 0
            head.layers[-1].bias[0] = BACKGROUND_LOGIT / 2.0
    return sam


class Trainer:
    """One stage: a model, its trainable parameters, an optimiser, and a clock."""

    def __init__(
        self, model: SamihsModel, recipe: Recipe, stage: StageConfig, name: str, out: Path
    ) -> None:
        self.model = model
        self.recipe = recipe
        self.stage = stage
        self.name = name
        self.out = out
        self.loss = BoundarySensitiveLoss(reduction=recipe.loss_reduction)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.parameters, stage.learning_rate, weight_decay=stage.weight_decay
        )
        self.step_count = 0
        self.seconds = 0.0
        self._restore()

    def run(self, batches: Iterator[Batch], report: Report) -> None:
        """Train until the stage's steps are done."""
        self.model.train()
        saved = self.seconds
        last = time.perf_counter()
        with self._log() as write:
            while self.step_count < self.stage.steps:
                done = self.step(next(batches))
                now = time.perf_counter()
                self.seconds, last = self.seconds + now - last, now
                report(done)
                write(done)
                if self.seconds - saved > 60 * self.recipe.checkpoint_minutes:
                    self._save()
                    saved = self.seconds
        self._save()
        self.model.eval()

    def step(self, batch: Batch) -> StepReport:
        """One optimiser step on one batch: the first click, at times a corrective one as well."""
        rate = self._learning_rate()
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        prompts = len(batch.points) // len(batch.hu)
        size = self.model.config.mask_size
        target = low_resolution(batch.masks, size)
        window = batch.hu.new_tensor(self.recipe.window).expand(len(batch.hu), 2)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.amp):
            embedding = self.model.encode(batch.hu, window).repeat_interleave(prompts, 0)
        points, labels = _with_pad(batch.points, torch.full(batch.points.shape[:2], FOREGROUND))
        loss, logits = self._answer(embedding, points, labels, None, target, batch)
        if torch.rand(()) < self.stage.correct:
            points, labels = corrected(batch.points, logits, target, batch.masks.shape[-1])
            prior = logits.detach()
            second, logits = self._answer(embedding, points, labels, prior, target, batch)
            loss = (loss + second) / 2
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, self.stage.clip)
        self.optimiser.step()
        self.step_count += 1
        has_mask = target.flatten(1).any(1)
        iou = mask_iou(logits, target)[has_mask].mean().item() if has_mask.any() else math.nan
        minutes = self.seconds / 60
        return StepReport(
            self.name, self.step_count, minutes, self.stage.steps, loss.item(), iou, rate
        )

    def _answer(
        self,
        embedding: Tensor,
        points: Tensor,
        labels: Tensor,
        prior: Tensor | None,
        target: Tensor,
        batch: Batch,
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.amp):
            logits, score = self.model.decode(
                embedding, points, labels, prior, slice_size=batch.hu.shape[-1]
            )
        logits, score = logits.float(), score.float()
        return self.loss(logits, target) + score_loss(score, logits, target), logits

    def _learning_rate(self) -> float:
        """Linear warm-up, then half a cosine, by the share of the steps that is done."""
        share = self.step_count / self.stage.steps
        if share < self.stage.warmup:
            return self.stage.learning_rate * (share / self.stage.warmup + 0.01)
        return self.stage.learning_rate * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))) + 1e-6

    @property
    def _state_file(self) -> Path:
        return self.out / f"{self.name}.state.pt"

    def _save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step_count,
            "seconds": self.seconds,
            "rng": torch.get_rng_state(),
        }
        partial = self._state_file.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self._state_file)

    def _restore(self) -> None:
        if not self._state_file.is_file():
            return
        state = torch.load(self._state_file, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step_count, self.seconds = state["step"], state["seconds"]
        torch.set_rng_state(state["rng"])

    def _log(self) -> _CsvLog:
        return _CsvLog(self.out / "log.csv")


class _CsvLog:
    """Appends step reports to a CSV file, a line every tenth step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Callable[[StepReport], None]:
        fresh = not self.path.exists()
        self.file = self.path.open("a", newline="", buffering=1)
        writer = csv.writer(self.file)
        if fresh:
            writer.writerow(StepReport.__dataclass_fields__)

        def write(step: StepReport) -> None:
            if step.step % 10 == 0:
                writer.writerow(asdict(step).values())

        return write

    def __exit__(self, *exception: object) -> None:
        self.file.close()


def low_resolution(masks: Tensor, size: int) -> Tensor:
    """Masks [B, 1, S, S] as float [B, 1, size, size]: cells at least 40 % covered.

    A lesion too thin to cover any cell so far takes every cell that it touches: it must not
    become an empty target, which means "no blood here".
    """
    covered = F.interpolate(masks.float(), size=(size, size), mode="area")
    low = covered >= 0.4
    vanished = ~low.flatten(1).any(1)
    low[vanished] = covered[vanished] > 0
    return low.float()


def corrected(
    points: Tensor, logits: Tensor, target: Tensor, slice_size: int
) -> tuple[Tensor, Tensor]:
    """The first clicks and one corrective click each, with SAM's pad point: [B, 3, 2] and [B, 3].

    The new click falls on a random wrong pixel of the low-resolution answer, foreground where the
    answer missed and background where it spilled; on the first click again where nothing is wrong.
    """
    wrong = ((logits > 0) != (target > 0.5)).flatten(1)
    weights = wrong.float()
    weights[~wrong.any(1), 0] = 1.0
    index = torch.multinomial(weights, 1)[:, 0]
    width = target.shape[-1]
    scale = slice_size / width
    cell = torch.stack([index % width, index // width], dim=1).float()
    second = (cell + 0.5) * scale - 0.5
    label = torch.where(target.flatten(1).gather(1, index[:, None])[:, 0] > 0.5, 1, 0)
    fine = ~wrong.any(1)
    second[fine], label[fine] = points[fine, 0], FOREGROUND
    on_nothing = ~target.flatten(1).any(1) & fine
    label[on_nothing] = BACKGROUND
    first_label = torch.full_like(label, FOREGROUND)
    both = torch.stack([points[:, 0], second], dim=1)
    return _with_pad(both, torch.stack([first_label, label], dim=1))


def _with_pad(points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """SAM's own "not a point", which stands wherever there is no box."""
    pad = torch.full_like(labels[:, :1], NOT_A_POINT)
    return torch.cat([points, torch.zeros_like(points[:, :1])], 1), torch.cat([labels, pad], 1)


def _stream(cache: SliceCache, task: Task, trainer: Trainer, workers: int) -> Iterator[Batch]:
    """Batches that repeat with the recipe's seed; a resumed stage draws ones it has not seen."""
    stage, seed = trainer.stage, trainer.recipe.seed + trainer.step_count
    data = ClickedSlices(cache, task, batch=stage.batch, prompts=stage.prompts, seed=seed)
    context = "spawn" if workers else None
    loader = DataLoader(data, batch_size=None, num_workers=workers, multiprocessing_context=context)
    return iter(loader)


def _description(recipe: Recipe, trainer: Trainer) -> dict[str, Any]:
    return {
        "preset": recipe.preset,
        "window": list(recipe.window),
        "training_data": TRAINING_DATA,
        "recipe": asdict(recipe),
        "steps": trainer.step_count,
        "minutes": round(trainer.seconds / 60, 1),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }
