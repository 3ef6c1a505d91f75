"""Video files: reading, writing, single pictures, provenance."""
