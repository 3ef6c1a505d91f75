"""sd_animation: animations from one prompt to the next with Stable Diffusion 1.5, with frames that FILM interpolates.

inputs.py checks the inputs, weights.py lists the files, prompt_walk.py computes the embedding of each frame,
pipeline.py makes the frames, safety.py checks them, film.py and interpolation.py make the frames between them.
"""

__version__ = "0.1.0"
