"""new-model: a network with random weights colours each point of a picture. It needs no weight files.

inputs.py checks the inputs, pipeline.py makes the frames.
"""

__version__ = "0.1.0"
