"""Test classes to inherit."""

from qwen_rerank.errors import MissingDependencyError

try:
    import pytest
except ImportError as error:
    raise MissingDependencyError(
        "The test classes of qwen_rerank.testing need pytest.",
        remedy="Install it: pip install pytest",
    ) from error

# Must come before the import of the modules.
for _name in ("compressors", "postprocessors", "rankers", "scorers"):
    pytest.register_assert_rewrite(f"{__name__}.{_name}")
