"""Cog's own server run natively, without Docker: schema, inputs, server, and the `cog` program's commands."""
