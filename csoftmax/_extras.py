"""How an extra is installed, for messages. A release changes it here, and for readers in docs/index.md."""


def how_to_install(extra: str) -> str:
    """Return the command for one of the extras in pyproject.toml."""
    return f"pip install -e '.[{extra}]' in a clone of csoftmax"
