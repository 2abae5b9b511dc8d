"""The one place that holds the version: pyproject.toml, `csoftmax` and `runtime_info` have it from here."""

__version__ = "0.1.0"
