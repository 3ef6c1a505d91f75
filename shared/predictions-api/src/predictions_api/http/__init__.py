"""The HTTP routes, and the reading and checking of requests."""
