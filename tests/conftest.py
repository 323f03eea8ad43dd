from pathlib import Path

import pytest
from hypothesis import settings

# The first example of a test may import scipy or pyarrow, and tests run side by side on busy processors: how long an
# example takes says nothing of what is tested.
settings.register_profile("patient", settings.default, deadline=None)
settings.load_profile("patient")

_SLOW = {
    "cli": (
        "backends bench chain compare distill_options distill_pairs eval import index_changes processes search serve "
        "wrong_input"
    ),
    "distill": "chunks config endpoint_teacher finetune prompts push quickstart run static teacher_vectors train",
    "encoders": (
        "backends batching decoders encoder endpoints exporting matrix prompts quick routes speed threads weight_hash"
    ),
    "evaluation": "footprint fusion_weights report_files report_in_browser report_page",
    "indexing": (
        "append cores damage families families_tuning faults index_build index_import ivf_pq replacing shard_vectors "
        "upsert workers"
    ),
    "search": "fusion",
    "serving": "app connections page",
    "": "cluster_smoke older reproduction",
}
"""Files of tests, by folder, that take more than a few seconds as a whole. `make test-fast` leaves them out."""


@pytest.fixture(scope="session")
def nodes():
    """A Ray cluster with two nodes of one CPU each (`helpers.ray_nodes`). This process is connected to it."""
    ray = pytest.importorskip("ray")
    from helpers.ray_nodes import started

    with started() as cluster:
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster
        ray.shutdown()


@pytest.fixture
def one_thread():
    """Let faiss and torch compute on one thread, as on a node: last bits depend on how many share a product."""
    import torch

    from ibkd_retrieval.indexing.faiss_binding import load_faiss

    faiss = load_faiss()
    before = faiss.omp_get_max_threads(), torch.get_num_threads()
    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before[0])
    torch.set_num_threads(before[1])


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    slow = {here / folder / f"test_{name}.py" for folder, names in _SLOW.items() for name in names.split()}
    for item in items:
        if item.path in slow:
            item.add_marker(pytest.mark.slow)
