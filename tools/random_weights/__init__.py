"""Random weights in the files and layouts of the real ones, with few channels or in full size, for tests and measuring.

`script/random-weights` calls `write` of the module with the name of the model's package.
"""
