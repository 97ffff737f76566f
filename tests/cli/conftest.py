"""Fixtures of other folders that commands are tested with."""

from tests.data.conftest import make_manifest, own_store, server  # noqa: F401
from tests.report.conftest import comparison_folder  # noqa: F401
