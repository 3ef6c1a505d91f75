"""zeroscope on Cog: the published inputs, and the way of one prediction through this model."""

import hashlib
import logging
import sys
from pathlib import Path as LocalPath
from tempfile import TemporaryDirectory
from typing import Optional

import videokit
from cog import BaseRunner, Input, Path
from videokit.runtime import Stages, out_of_memory, pick_device
from videokit.video.encode import encode_mp4
from videokit.video.provenance import Provenance
from videokit.weights.store import WeightStore
from zeroscope.inputs import Inputs
from zeroscope.pipeline import Pipeline

from zeroscope import __version__, weights

MODEL = "zeroscope"


class Predictor(BaseRunner):
    """Reproduces anotherjesse/zeroscope-v2-xl; the documentation and the differences are in README.md."""

    def setup(self) -> None:
        """Load what a prediction with the default inputs needs."""
        logging.basicConfig(stream=sys.stdout, format="%(message)s")
        logging.getLogger("videokit").setLevel(logging.INFO)
        self.device = pick_device()
        store = WeightStore.from_environment(weights.FILES, MODEL, LocalPath(__file__).parent)
        self.pipeline = Pipeline(store, self.device)
        self.directory = TemporaryDirectory(prefix=f"{MODEL}-")

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
        published = {name: value for name, value in locals().items() if name != "self"}
        video = None if init_video is None else LocalPath(init_video)
        given = {"negative_prompt": negative_prompt or "", "init_video": video}
        inputs = Inputs(**(published | given))
        inputs.check(self.pipeline.most_frames)
        seed = inputs.resolved_seed()

        # Cog reads the files after run() has ended, so they are removed when the next prediction begins, and at exit
        self.directory.cleanup()
        self.directory = TemporaryDirectory(prefix=f"{MODEL}-")
        print(f"seed: {seed}, {model}, {batch_size} videos of {num_frames} frames {width}x{height}")
        directory = LocalPath(self.directory.name)
        stages = Stages(self.device)
        if video:  # its name is another one every time
            with video.open("rb") as file:
                published["init_video"] = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        advice = "choose fewer num_frames, a smaller width and height or shorter prompts, or a device with more memory"
        clips = []
        try:
            with out_of_memory(self.device, advice, self.pipeline.forget):
                for index, frames in enumerate(self.pipeline.generate(inputs, seed, stages)):
                    # what makes this video again, alone
                    alone = published | {"seed": seed + index, "batch_size": 1}
                    software = f"{MODEL} {__version__}, videokit {videokit.__version__}"
                    provenance = Provenance(MODEL, alone, seed + index, software)
                    with stages("decode", "VAE and video encoder side by side"):
                        target = directory / f"output-{index}.mp4"
                        clips.append(encode_mp4(frames, target, fps=fps, provenance=provenance))
        except BaseException:  # a cancel too
            self.directory.cleanup()
            raise
        duration = float(clips[0].duration)
        metrics = {"seed": seed, "frames": num_frames, "duration": duration, "seconds": stages.seconds}
        for name, value in metrics.items():
            self.record_metric(name, value)
        return [Path(clip.path) for clip in clips]
