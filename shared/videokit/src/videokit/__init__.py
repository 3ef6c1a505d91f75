"""videokit: what every model package here needs beside its model - video files, weight files, sizes, seeds, devices.

Import the module that you need (`from videokit.video.encode import encode_mp4`); this one imports none of them.
It never loads a model, and knows none but Stable Diffusion 1.5, on which two of them are built.
"""

__version__ = "0.1.0"
