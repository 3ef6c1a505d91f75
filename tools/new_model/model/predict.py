"""new-model on Cog: the inputs, and the making of one clip."""

from typing import Optional

from cog import BaseRunner, Input, Path
from new_model import __version__
from new_model.inputs import FPS, Inputs
from new_model.pipeline import Pipeline
from videokit.prediction import PredictionRunner, documented_inputs
from videokit.runtime import log_to_stdout

MODEL = "new-model"
ADVICE = "choose fewer num_frames, or a device with more memory"


class Predictor(BaseRunner):
    """README.md has the documentation."""

    def setup(self) -> None:
        """Choose the device."""
        log_to_stdout()
        self.pipeline = Pipeline()
        self.runner = PredictionRunner(
            MODEL, __version__, self.pipeline.device, advice=ADVICE, record_metric=self.record_metric
        )

    def run(
        self,
        num_frames: int = Input(description="Number of frames", ge=1, le=240, default=16),
        seed: Optional[int] = Input(description="Random seed. Leave blank to randomize the seed"),  # noqa: UP045
    ) -> Path:
        """Make one clip, an MP4."""
        documented = documented_inputs(self.run, locals())
        inputs = Inputs(**documented)
        inputs.check()
        with self.runner.start(documented, inputs.resolved_seed(), f"{inputs.num_frames} frames") as prediction:
            frames = self.pipeline.generate(inputs, prediction.seed)
            clip = prediction.encode(frames, f"{MODEL}.mp4", fps=FPS)
        return Path(clip)
