"""Benchmarks: ours against the straightforward way, alternately in one run. `script/bench NAME` runs one."""
