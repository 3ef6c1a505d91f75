"""What this project needs from a GPU: `script/bench gpu` measures it, and writes one table.

models.py says what the networks and predictions of each model are. networks.py, predictions.py, variants.py and
truths.py measure them. Each of their functions yields rows, which are stored at once, so that an interrupted run keeps
them. table.py prints them. Without a GPU the same code runs small shapes on the CPU, and every row says so.
"""
