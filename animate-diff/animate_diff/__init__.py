"""animate_diff: a clip from a personalised Stable Diffusion 1.5 checkpoint plus an AnimateDiff motion module.

inputs.py says what may be asked for, weights.py where the files come from, checkpoint.py and motion_module.py
what they are called inside, pipeline.py makes the frames.
"""

__version__ = "0.1.0"
