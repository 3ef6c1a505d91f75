"""How much memory it takes to load a checkpoint of the real size and to switch to another."""

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
before = device.memory_used()
pipeline = Pipeline(store_of(Path(sys.argv[1])), device)
pipeline.load(sys.argv[2], "mm_sd_v14", Stages(device))
# The peak of this process alone. getrusage's ru_maxrss includes that of the test's process, which wrote the files.
peak = 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
kept = sum(p.nbytes for m in (pipeline.unet, pipeline.vae, pipeline.text_encoder) for p in m.parameters())
# the cache keeps the motion module, which is converted to float16
kept += sum(p.nbytes for name, p in pipeline.unet.named_parameters() if ".motion_modules." in name)
print(json.dumps({"before": before, "peak": peak, "kept": kept}))
"""


def test_loading_two_full_size_checkpoints_takes_at_most_a_quarter_more_than_the_size_of_one(
    tmp_path: Path,
) -> None:
    checkpoint = tmp_path / "checkpoints" / CHECKPOINTS[0]
    recipe.write_base(tmp_path, recipe.FULL)
    recipe.write_checkpoint(checkpoint, recipe.FULL, CHECKPOINTS[0])
    recipe.write_motion_module(tmp_path / "motion_modules" / "mm_sd_v14.ckpt", recipe.FULL, "mm_sd_v14")
    checkpoint.with_name(CHECKPOINTS[1]).symlink_to(checkpoint)
    size = checkpoint.stat().st_size
    # lyriel_v16.safetensors, published in the same layout and precision, has 2,132,625,432 bytes
    assert abs(size - 2_132_625_432) < 10_000
    # the published mm_sd_v14.ckpt has 1,672,133,921 bytes
    assert abs((tmp_path / "motion_modules" / "mm_sd_v14.ckpt").stat().st_size - 1_672_133_921) < 10_000

    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path), CHECKPOINTS[1]],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        check=True,
    )
    checkpoint.unlink()
    figures = json.loads(done.stdout)
    above = figures["peak"] - figures["before"] - figures["kept"]
    print(f"peak {above / 1e9:.2f} GB above the {figures['kept'] / 1e9:.2f} GB kept, of {size / 1e9:.2f} GB")
    assert above < 1.25 * size
