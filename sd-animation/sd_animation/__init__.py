"""sd_animation: a walk between prompts with Stable Diffusion 1.5, and FILM's pictures between its frames.

inputs.py says what may be asked for, weights.py where the files come from, prompt_walk.py which embedding each frame
has, pipeline.py makes the frames, safety.py looks at them, film.py and in_betweens.py fill in between them,
frame_store.py keeps pictures on the disk.
"""

__version__ = "0.1.0"
