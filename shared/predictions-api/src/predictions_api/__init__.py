"""Replicate's HTTP API for predictions, in front of Cog servers. Start it with `python -m predictions_api --help`."""
