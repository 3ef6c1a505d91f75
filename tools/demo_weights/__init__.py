"""The demo weights: the world of coloured shapes that they are trained on, its measures, and their training.

`world` draws scenes, `captions` describes them, `detector` reads frames, `metrics` counts correct clips. `train` makes
the weights.
"""
