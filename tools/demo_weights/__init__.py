"""small_world: the world that the trained small weights show, and how they are trained to show it.

world.py draws it, captions.py puts it into words, oracle.py says what is seen in frames. Nothing of this reaches an
image; the weights that it makes do.
"""
