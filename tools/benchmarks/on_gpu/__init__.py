"""What this project needs from a GPU: `script/bench gpu` measures it, and writes one table.

models.py says what the networks and predictions of each model are. networks.py, predictions.py, variants.py and
robustness.py measure them. Each of their functions yields rows, which are stored at once. table.py prints them.
"""
