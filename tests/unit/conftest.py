import pytest

from tests.unit.rings import Rings


@pytest.fixture
def connected():
    """Give what returns one ring for each worker."""
    rings = Rings()
    yield rings
    for ring in rings.ends:
        ring.close()
