"""Training of the demo weights: `recipe` lists the parts; each network has a module with its training stages."""
