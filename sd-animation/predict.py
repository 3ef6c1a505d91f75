"""sd-animation on Cog: the documented inputs, and the making of one animation."""

from collections.abc import Iterator
from pathlib import Path as LocalPath
from typing import Optional

import cog
from cog import BaseRunner, Input, Path
from sd_animation import __version__, weights
from sd_animation.inputs import Inputs
from sd_animation.pipeline import Pipeline
from sd_animation.png import write_png
from videokit.prediction import PredictionRunner, documented_inputs
from videokit.runtime import log_to_stdout, pick_device
from videokit.video.frame_store import FrameStore
from videokit.weights.store import WeightStore

MODEL = "sd-animation"
ADVICE = "choose a smaller width and height, shorten the prompts, or use a device with more memory"


class Predictor(BaseRunner):
    """Reproduces andreasjansson/stable-diffusion-animation; README.md has the documentation and the differences."""

    def setup(self) -> None:
        """Build the modules and load their weights."""
        log_to_stdout()
        device = pick_device()
        store = WeightStore.from_environment(weights.FILES, MODEL, LocalPath(__file__).parent)
        self.pipeline = Pipeline(store, device)
        self.runner = PredictionRunner(MODEL, __version__, device, advice=ADVICE, record_metric=self.record_metric)

    @cog.streaming
    def run(
        self,
        prompt_start: str = Input(description="Prompt to start the animation with"),
        prompt_end: str = Input(
            description="Prompt to end the animation with. You can include multiple prompts by separating the prompts with | (the 'pipe' character)"  # noqa: E501 - as documented
        ),
        width: int = Input(description="Width of output image", choices=[128, 256, 512, 768, 1024], default=512),
        height: int = Input(description="Height of output image", choices=[128, 256, 512, 768], default=512),
        num_inference_steps: int = Input(description="Number of denoising steps", ge=1, le=500, default=50),
        prompt_strength: float = Input(
            description="Lower prompt strength generates more coherent gifs, higher respects prompts more but can be jumpy",  # noqa: E501 - as documented
            default=0.8,
        ),
        num_animation_frames: int = Input(description="Number of frames to animate", ge=2, le=50, default=10),
        num_interpolation_steps: int = Input(
            description="Number of steps to interpolate between animation frames", ge=1, le=50, default=5
        ),
        guidance_scale: float = Input(description="Scale for classifier-free guidance", ge=1, le=20, default=7.5),
        gif_frames_per_second: int = Input(description="Frames/second in output GIF", ge=1, le=50, default=20),
        gif_ping_pong: bool = Input(
            description="Whether to reverse the animation and go back to the beginning before looping", default=False
        ),
        film_interpolation: bool = Input(
            description="Whether to use FILM for between-frame interpolation (film-net.github.io)", default=True
        ),
        intermediate_output: bool = Input(
            description="Whether to display intermediate outputs during generation", default=False
        ),
        output_format: str = Input(description="Output file format", choices=["gif", "mp4"], default="gif"),
        seed: Optional[int] = Input(description="Random seed. Leave blank to randomize the seed"),  # noqa: UP045
    ) -> Iterator[Path]:
        """Make one animation: its file, after its frames if they are requested."""
        documented = documented_inputs(self.run, locals())
        names = {"gif_frames_per_second": "fps", "gif_ping_pong": "ping_pong"}
        inputs = Inputs(**{names.get(name, name): value for name, value in documented.items()})
        inputs.check()
        summary = f"{len(inputs.prompts)} prompts, {inputs.num_frames} frames {inputs.width}x{inputs.height}"
        with (
            self.runner.start(documented, inputs.resolved_seed(), summary) as prediction,
            FrameStore(prediction.directory) as keyframes,
        ):
            latents = self.pipeline.animate(inputs, prediction.seed, prediction.stages, keyframes)
            for index, frame in enumerate(keyframes if intermediate_output else ()):
                yield Path(prediction.write(frame, f"{MODEL}-{index:03}.png", write_png))
            frames = self.pipeline.interpolate(inputs, latents, keyframes)
            clip = prediction.encode(frames, f"{MODEL}.{output_format}", fps=inputs.fps, stage="encode")
        yield Path(clip)
