"""animate_diff: a clip from a personalised Stable Diffusion 1.5 checkpoint plus an AnimateDiff motion module.

inputs.py checks the inputs, weights.py lists the files, checkpoint.py and motion_module.py read them, pipeline.py
makes the frames.
"""

__version__ = "0.1.0"
