"""zeroscope: text to video, and video to video, with four models of one architecture, a UNet over frames and time.

inputs.py checks the inputs, weights.py lists the files, models.py loads and caches the models, sampler.py denoises,
pipeline.py makes the frames, memory.py bounds their number, watermark.py and lama.py fill the band of a watermark.
"""

__version__ = "0.1.0"
