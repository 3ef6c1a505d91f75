"""videokit: the library inside the model images. It reads and writes video files, and finds, fetches and reads weights.

Import the module that you need, for example `from videokit.video.encode import encode_mp4`; this one imports none.
videokit imports no model. Two of the models are based on Stable Diffusion 1.5, so its files are described here.
"""

__version__ = "0.1.0"
