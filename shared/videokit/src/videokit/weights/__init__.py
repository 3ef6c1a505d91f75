"""Weight files: finding, fetching and reading them, and filling modules with them."""
