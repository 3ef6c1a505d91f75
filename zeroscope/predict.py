"""zeroscope on Cog: the documented inputs, and the making of one or more videos."""

from pathlib import Path as LocalPath
from typing import Optional

from cog import BaseRunner, Input, Path
from videokit.prediction import PredictionRunner, documented_inputs
from videokit.runtime import log_to_stdout, pick_device
from videokit.weights.store import WeightStore
from zeroscope.inputs import Inputs
from zeroscope.pipeline import Pipeline

from zeroscope import __version__, weights

MODEL = "zeroscope"
ADVICE = "choose fewer num_frames, a smaller width and height or shorter prompts, or a device with more memory"


class Predictor(BaseRunner):
    """Reproduces anotherjesse/zeroscope-v2-xl; README.md has the documentation and the differences."""

    def setup(self) -> None:
        """Load the default model."""
        log_to_stdout()
        device = pick_device()
        store = WeightStore.from_environment(weights.FILES, MODEL, LocalPath(__file__).parent)
        self.pipeline = Pipeline(store, device)
        self.runner = PredictionRunner(
            MODEL, __version__, device, advice=ADVICE, unload=self.pipeline.unload, record_metric=self.record_metric
        )

    def run(
        self,
        prompt: str = Input(description="Input prompt", default="An astronaut riding a horse"),
        negative_prompt: Optional[str] = Input(description="Negative prompt"),  # noqa: UP045
        init_video: Optional[Path] = Input(description="URL of the initial video (optional)"),  # noqa: UP045, B008
        init_weight: float = Input(description="Strength of init_video", default=0.5),
        num_frames: int = Input(description="Number of frames for the output video", default=24),
        num_inference_steps: int = Input(description="Number of denoising steps", ge=1, le=500, default=50),
        width: int = Input(description="Width of the output video", ge=256, default=576),
        height: int = Input(description="Height of the output video", ge=256, default=320),
        guidance_scale: float = Input(description="Guidance scale", ge=1, le=100, default=7.5),
        fps: int = Input(description="fps for the output video", default=8),
        model: str = Input(description="Model to use", choices=["xl", "576w", "potat1", "animov-512x"], default="xl"),
        batch_size: int = Input(description="Batch size", ge=1, default=1),
        remove_watermark: bool = Input(description="Remove watermark", default=False),
        seed: Optional[int] = Input(description="Random seed. Leave blank to randomize the seed"),  # noqa: UP045
    ) -> list[Path]:
        """Make the videos, an MP4 each."""
        documented = documented_inputs(self.run, locals())
        inputs = Inputs(**(documented | {"negative_prompt": negative_prompt or ""}))
        inputs.check(self.pipeline.max_frames)
        count = f"{inputs.batch_size} video{'s' if inputs.batch_size > 1 else ''}"
        summary = f"{model}, {count} of {inputs.num_frames} frames {inputs.width}x{inputs.height}"
        with self.runner.start(documented, inputs.resolved_seed(), summary) as prediction:
            clips = []
            for index, frames in enumerate(self.pipeline.generate(inputs, prediction.seed, prediction.stages)):
                name, own_seed = f"output-{index}.mp4", prediction.seed + index
                clips.append(prediction.encode(frames, name, fps=inputs.fps, seed=own_seed, batch_size=1))
        return [Path(clip) for clip in clips]
