"""zeroscope: text to video, and video to video, by four models of one architecture, a UNet over frames and time.

inputs.py says what may be asked for, weights.py where the files come from, models.py loads them and keeps them,
sampler.py takes noise to latents, pipeline.py makes the frames, memory.py tells how many there may be, watermark.py
and lama.py paint over a watermark.
"""

__version__ = "0.1.0"
