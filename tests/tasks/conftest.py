from collections.abc import Iterator

import pytest

from adaptive_jax.tasks.maths_pool import shared_pool


@pytest.fixture(autouse=True, scope="module")
def _workers_end() -> Iterator[None]:
    """Graders of one module are not among the processes that another one counts."""
    yield
    if shared_pool.cache_info().currsize:
        shared_pool().close()
