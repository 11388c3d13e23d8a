"""The [mask_threshold] stage: chooses the logit above which a pixel belongs to the mask.

The threshold is the one with the largest mean Dice of the answers to the prompts of all steps, on
slices augmented as in training: the more a scanner takes from a slice, the more pixels are
doubtful, and the lower it should be. All prompts are on lesions, none is corrective, and masks are
judged at the slice's pixels, as the runtime draws them. Nothing else of the model changes: the
score's inputs do not depend on the threshold, and a prior mask is taken as it was before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from samihs_runtime.errors import SamihsError, UsageError
from samihs_training.config import StageConfig
from samihs_training.losses import dice_of
from samihs_training.network.mask_threshold import MaskThreshold
from samihs_training.network.sam import SamConfig
from samihs_training.stages.answer_stage import AnswerStage, Report
from samihs_training.stages.batches import NumberedBatches
from samihs_training.stages.objective import Heard


@dataclass(frozen=True)
class ThresholdChoice:
    """The results of the stage."""

    logit: float
    answers: int
    """Number of answers that it was chosen on: the first to each prompt on a lesion."""
    dice_at_zero: float
    """Their mean Dice at a threshold of 0."""
    dice: float
    gain_error: float
    """Standard error of the difference, the answers taken as independent."""
    minutes: float


class ThresholdStage(AnswerStage):
    """A model whose threshold is chosen, and the answers that it is chosen on."""

    name = "mask_threshold"
    thresholds = tuple(sorted((step / 4 for step in range(-12, 13)), key=abs))
    """The first of equally good ones is chosen, so the one nearest to 0."""

    def prepared(self, stage: StageConfig) -> StageConfig:
        """Forget the model's present threshold; all prompts are first clicks on lesions.

        Raises:
            UsageError: the model has a decoder of SAM's own, which has none.
        """
        check_has_threshold(self.model.config)
        self.threshold: MaskThreshold = self.model.sam.mask_decoder.mask_threshold
        self.threshold.logit.zero_()
        return replace(stage, negatives=0.0, correct=0.0, at_slice_size=True)

    def run(
        self, batches: NumberedBatches, *, workers: int = 0, report: Report = lambda step: None
    ) -> ThresholdChoice:
        """Collect the answers to the prompts of all steps, then set the model's threshold.

        Raises:
            SamihsError: no slice has a lesion, or no answer overlaps one at any threshold.
        """
        heard = self.listen(batches, workers, report)
        dice = dice_of(heard.iou[heard.on_mask])
        if not dice.any():
            raise SamihsError(
                f"stage {self.name}: none of {len(dice)} answers overlaps its lesion; train the "
                "model further, or on other slices"
            )
        means = dice.mean(dim=0)
        best, zero = int(means.argmax()), self.thresholds.index(0.0)
        gain = (dice[:, best] - dice[:, zero]).std(correction=0) / len(dice) ** 0.5
        self.threshold.logit.fill_(self.thresholds[best])
        return ThresholdChoice(
            logit=self.thresholds[best],
            answers=len(dice),
            dice_at_zero=means[zero].item(),
            dice=means[best].item(),
            gain_error=gain.item(),
            minutes=self.seconds / 60,
        )

    @torch.no_grad()
    def loss_of(self, heard: Heard) -> float:
        """1 - Dice at a threshold of 0."""
        return 1 - dice_of(heard.iou[heard.on_mask, self.thresholds.index(0.0)]).mean().item()


def check_has_threshold(config: SamConfig) -> None:
    """Raise a UsageError for a model whose decoder is SAM's own."""
    if not config.pyramid_width:
        raise UsageError(
            f"[mask_threshold]: the decoder of {config.name} has no threshold to choose; it is "
            "SAM's own, whose masks are the logits above 0: give a recipe without the stage"
        )
