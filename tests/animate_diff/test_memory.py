"""Loading a checkpoint of the real size needs little more memory than what the model keeps."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from animate_diff.inputs import CHECKPOINTS
from random_weights import animate_diff as recipe

LOAD = """
import json, re, sys
from pathlib import Path
import torch
from animate_diff.pipeline import Pipeline
from stores import store_of
from videokit.runtime import Device, Stages

device = Device(torch.device("cpu"), torch.float16)
pipeline = Pipeline(store_of(Path(sys.argv[1])), device)
before = device.memory_used()
pipeline.load(sys.argv[2], "mm_sd_v14", Stages(device))
# of this process alone; getrusage(2)'s ru_maxrss is inherited from the test's, which has just written the files
peak = 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
kept = sum(p.nbytes for m in (pipeline.unet, pipeline.vae, pipeline.text_encoder) for p in m.parameters())
print(json.dumps({"before": before, "peak": peak, "kept": kept}))
"""


def test_a_full_size_checkpoint_loads_within_a_quarter_more_than_its_size(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints" / CHECKPOINTS[0]
    recipe.write_base(tmp_path, recipe.FULL)
    recipe.write_checkpoint(checkpoint, recipe.FULL, CHECKPOINTS[0])
    recipe.write_motion_module(tmp_path / "motion_modules" / "mm_sd_v14.ckpt", recipe.FULL, "mm_sd_v14")
    size = checkpoint.stat().st_size
    # the published file of the same layout and precision, lyriel_v16.safetensors, has 2,132,625,432 bytes
    assert abs(size - 2_132_625_432) < 10_000
    # and the published mm_sd_v14.ckpt 1,672,133,921
    assert abs((tmp_path / "motion_modules" / "mm_sd_v14.ckpt").stat().st_size - 1_672_133_921) < 10_000

    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path), CHECKPOINTS[0]],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        check=True,
    )
    checkpoint.unlink()
    figures = json.loads(done.stdout)
    above = figures["peak"] - figures["before"] - figures["kept"]
    print(f"peak {above / 1e9:.2f} GB above the {figures['kept'] / 1e9:.2f} GB kept, of {size / 1e9:.2f} GB")
    assert above < 1.25 * size
