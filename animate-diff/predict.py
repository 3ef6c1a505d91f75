"""animate-diff on Cog: the published inputs, and the way of one clip through this model."""

import logging
import sys
from pathlib import Path as LocalPath
from tempfile import TemporaryDirectory
from typing import Optional

import videokit
from animate_diff import __version__, weights
from animate_diff.inputs import FPS, Inputs
from animate_diff.pipeline import Pipeline
from cog import BaseRunner, Input, Path
from videokit.runtime import Stages, out_of_memory, pick_device
from videokit.video.encode import encode_mp4
from videokit.video.provenance import Provenance
from videokit.weights.store import WeightStore

MODEL = "animate-diff"


class Predictor(BaseRunner):
    """Reproduces lucataco/animate-diff; the documentation and the differences are in README.md."""

    def setup(self) -> None:
        """Build the modules and load what a prediction with the default inputs needs."""
        logging.basicConfig(stream=sys.stdout, format="%(message)s")
        logging.getLogger("videokit").setLevel(logging.INFO)
        self.device = pick_device()
        store = WeightStore.from_environment(weights.FILES, MODEL, LocalPath(__file__).parent)
        defaults = Inputs(prompt="")
        weights.fetch(store, defaults.checkpoint, defaults.motion_module)
        self.pipeline = Pipeline(store, self.device)
        self.pipeline.load(defaults.checkpoint, defaults.motion_module, Stages(self.device))
        self.directory = TemporaryDirectory(prefix=f"{MODEL}-")

    def run(
        self,
        motion_module: str = Input(
            description="Select a Motion Model",
            choices=["mm_sd_v14", "mm_sd_v15", "mm_sd_v15_v2"],
            default="mm_sd_v14",
        ),
        path: str = Input(
            description="Select a Module",
            choices=[
                "toonyou_beta3.safetensors",
                "lyriel_v16.safetensors",
                "rcnzCartoon3d_v10.safetensors",
                "majicmixRealistic_v5Preview.safetensors",
                "realisticVisionV40_v20Novae.safetensors",
            ],
            default="toonyou_beta3.safetensors",
        ),
        prompt: str = Input(
            description="Input prompt",
            default="masterpiece, best quality, 1girl, solo, cherry blossoms, hanami, pink flower, white flower, spring season, wisteria, petals, flower, plum blossoms, outdoors, falling petals, white hair, black eyes",  # noqa: E501 - as documented
        ),
        n_prompt: str = Input(description="Negative prompt", default=""),
        steps: int = Input(description="Number of inference steps", ge=1, le=100, default=25),
        guidance_scale: float = Input(description="guidance scale", ge=1, le=10, default=7.5),
        seed: Optional[int] = Input(description="Seed (0 = random, maximum: 2147483647)"),  # noqa: UP045
    ) -> Path:
        """Make one clip, an MP4."""
        published = {name: value for name, value in locals().items() if name != "self"}
        inputs = Inputs(prompt, n_prompt, path, motion_module, steps, guidance_scale, seed)
        inputs.check()
        seed = inputs.resolved_seed()

        # Cog reads the file after run() has ended, so it is removed when the next prediction begins, and at exit
        self.directory.cleanup()
        self.directory = TemporaryDirectory(prefix=f"{MODEL}-")
        print(f"seed: {seed}, {path} with {motion_module}, {steps} steps, guidance {guidance_scale}")
        target = LocalPath(self.directory.name) / f"{MODEL}.mp4"
        stages = Stages(self.device)
        provenance = Provenance(MODEL, published, seed, f"{MODEL} {__version__}, videokit {videokit.__version__}")
        advice = "shorten the prompts, or use a device with more memory"
        with out_of_memory(self.device, advice, self.pipeline.forget):
            frames = self.pipeline.generate(inputs, seed, stages)
            with stages("decode", "VAE and video encoder side by side"):
                clip = encode_mp4(frames, target, fps=FPS, provenance=provenance)
        metrics = {"seed": seed, "frames": clip.num_frames, "duration": float(clip.duration), "seconds": stages.seconds}
        for name, value in metrics.items():
            self.record_metric(name, value)
        return Path(clip.path)
