"""animate-diff on Cog: the documented inputs, and the making of one clip."""

from pathlib import Path as LocalPath
from typing import Optional

from animate_diff import __version__, weights
from animate_diff.inputs import FPS, Inputs
from animate_diff.pipeline import Pipeline
from cog import BaseRunner, Input, Path
from videokit.prediction import PredictionRunner, documented_inputs
from videokit.runtime import log_to_stdout, pick_device
from videokit.weights.store import WeightStore

MODEL = "animate-diff"
ADVICE = "shorten the prompts, or use a device with more memory"


class Predictor(BaseRunner):
    """Reproduces lucataco/animate-diff; README.md has the documentation and the differences."""

    def setup(self) -> None:
        """Build the modules and load the weights of the default inputs."""
        log_to_stdout()
        device = pick_device()
        store = WeightStore.from_environment(weights.FILES, MODEL, LocalPath(__file__).parent)
        self.pipeline = Pipeline(store, device)
        self.runner = PredictionRunner(
            MODEL, __version__, device, advice=ADVICE, unload=self.pipeline.unload, record_metric=self.record_metric
        )

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
        documented = documented_inputs(self.run, locals())
        names = {"n_prompt": "negative_prompt", "path": "checkpoint", "steps": "num_inference_steps"}
        inputs = Inputs(**{names.get(name, name): value for name, value in documented.items()})
        inputs.check()
        summary = f"{path} with {motion_module}, steps {inputs.num_inference_steps}, guidance {guidance_scale}"
        with self.runner.start(documented, inputs.resolved_seed(), summary) as prediction:
            frames = self.pipeline.generate(inputs, prediction.seed, prediction.stages)
            clip = prediction.encode(frames, f"{MODEL}.mp4", fps=FPS)
        return Path(clip)
