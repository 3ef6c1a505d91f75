"""sd-animation on Cog: the published inputs, and the way of one animation through this model."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path as LocalPath
from tempfile import TemporaryDirectory
from typing import Optional

import cog
import videokit
from cog import BaseRunner, Input, Path
from sd_animation import __version__, weights
from sd_animation.inputs import Inputs
from sd_animation.pipeline import Pipeline
from sd_animation.png import write_png
from videokit.runtime import Stages, out_of_memory, pick_device
from videokit.video.encode import encode_gif, encode_mp4
from videokit.video.frame_store import FrameStore, ping_pong
from videokit.video.provenance import Provenance
from videokit.weights.store import WeightStore

MODEL = "sd-animation"
ENCODERS = {"gif": encode_gif, "mp4": encode_mp4}


class Predictor(BaseRunner):
    """Reproduces andreasjansson/stable-diffusion-animation; the differences are in README.md."""

    def setup(self) -> None:
        """Build the modules and load their weights."""
        logging.basicConfig(stream=sys.stdout, format="%(message)s")
        logging.getLogger("videokit").setLevel(logging.INFO)
        self.device = pick_device()
        store = WeightStore.from_environment(weights.FILES, MODEL, LocalPath(__file__).parent)
        self.pipeline = Pipeline(store, self.device)
        self.directory = TemporaryDirectory(prefix=f"{MODEL}-")

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
        """Make one animation: its file, after its frames where they are asked for."""
        published = {name: value for name, value in locals().items() if name != "self"}
        renamed = {"gif_frames_per_second": "fps", "gif_ping_pong": "ping_pong"}
        inputs = Inputs(**{renamed.get(name, name): value for name, value in published.items()})
        inputs.check()
        seed = inputs.resolved_seed()

        # Cog reads a file when this has gone on, so they are removed when the next prediction begins, and at exit
        self.directory.cleanup()
        self.directory = TemporaryDirectory(prefix=f"{MODEL}-")
        print(f"seed: {seed}, {len(inputs.prompts)} prompts, {inputs.num_frames} frames {width}x{height}")
        directory = LocalPath(self.directory.name)
        stages = Stages(self.device)
        provenance = Provenance(MODEL, published, seed, f"{MODEL} {__version__}, videokit {videokit.__version__}")
        advice = "choose a smaller width and height, shorten the prompts, or use a device with more memory"
        try:
            with out_of_memory(self.device, advice, lambda: None), FrameStore(directory) as pictures:
                latents = self.pipeline.animate(inputs, seed, stages, pictures)
                for index, frame in enumerate(pictures if intermediate_output else ()):
                    yield Path(write_png(frame, directory / f"{MODEL}-{index:03}.png", provenance))
                frames = self.pipeline.fill_in(inputs, latents, pictures)
                if gif_ping_pong:
                    frames = ping_pong(frames, directory)
                with stages("encode", "in-betweens and encoding side by side"):
                    target = directory / f"{MODEL}.{output_format}"
                    clip = ENCODERS[output_format](frames, target, fps=gif_frames_per_second, provenance=provenance)
        except BaseException:  # a cancel too
            self.directory.cleanup()
            raise
        metrics = {"seed": seed, "frames": clip.num_frames, "duration": float(clip.duration), "seconds": stages.seconds}
        for name, value in metrics.items():
            self.record_metric(name, value)
        yield Path(clip.path)
