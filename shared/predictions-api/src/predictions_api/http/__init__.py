"""The HTTP side: routes, and what they read from requests and answer."""
