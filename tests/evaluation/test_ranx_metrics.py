import subprocess
import sys

import numpy as np
import pytest

from ibkd_retrieval.evaluation.metric_names import known_metrics, parse_metric
from ibkd_retrieval.evaluation.metrics import ranx_metric


@pytest.mark.parametrize("name", known_metrics())
def test_every_known_metric_gives_a_perfect_ranking_its_best_value(name):
    metric = parse_metric(name)
    judged = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 0.0]])
    run = np.array([[0.0, 3.0], [1.0, 2.0], [2.0, 1.0]])
    value = ranx_metric(metric.canonical)(judged, run, metric.persistence or 2, 1)
    persistence = metric.persistence or 0.0
    best = {"hits": 2.0, "dcg": 1 + 1 / np.log2(3), "rbp": (1 - persistence) * (1 + persistence)}
    best["dcg_burges"] = best["dcg"]
    assert value == pytest.approx(best.get(metric.canonical, 1.0))


@pytest.mark.slow
def test_loading_a_metric_loads_no_data_frames_and_leaves_ranx_whole():
    program = (
        "import sys\n"
        "from ibkd_retrieval.evaluation.metrics import ranx_metric\n"
        "ranx_metric('mrr')\n"
        "print(*({'pandas', 'seaborn', 'matplotlib', 'ranx', 'ranx.fusion'} & set(sys.modules)))\n"
        "import ranx\n"
        "print(ranx.evaluate.__module__, ranx.Run.__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["", "ranx.meta.evaluate Run"]
