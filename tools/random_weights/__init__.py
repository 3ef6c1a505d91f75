"""small_weights: weights of the real architectures with few channels, in the very files and layouts of the real ones.

They run every model end to end on a laptop. This package never reaches an image; the files that it makes may.
`script/random-weights` calls the module that is named as the model's package.
"""
