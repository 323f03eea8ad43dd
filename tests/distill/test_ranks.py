"""Two processes that train together do the work of one."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from helpers import two_ranks
from helpers.programs import environment
from ibkd_retrieval.distill.training import distributed as ranks
from ibkd_retrieval.distill.training.log import LOG_FILE

pytestmark = pytest.mark.slow

RUNS = (*two_ranks.OBJECTIVES, "accumulated", "finetuned")


@dataclass(frozen=True)
class Compared:
    """The same work done by one process and by two."""

    root: Path
    alone: two_ranks.Recorder
    together: tuple[two_ranks.Recorder, two_ranks.Recorder]


@pytest.fixture(scope="module")
def compared(tmp_path_factory, bert):
    root = tmp_path_factory.mktemp("ranks")
    program = [sys.executable, "-m", "helpers.two_ranks"]
    started = [
        subprocess.Popen([*program, str(rank), str(root), str(bert)], stderr=subprocess.PIPE, env=environment())
        for rank in (0, 1)
    ]
    alone = two_ranks.work(root / "alone", str(bert))
    for process in started:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said.decode()
    together = []
    for rank in (0, 1):
        recorder = two_ranks.Recorder()
        recorder.gradients = load_file(root / f"gradients-{rank}.safetensors")
        recorder.losses = json.loads((root / f"losses-{rank}.json").read_text())
        together.append(recorder)
    return Compared(root, alone, tuple(together))


@pytest.mark.parametrize("run", RUNS)
def test_two_processes_have_the_gradients_of_one(compared, run):
    names = [name for name in compared.alone.gradients if name.split(".")[0] == run]
    assert len(names) > 10
    for recorder in compared.together:
        for name in names:
            wanted, found = compared.alone.gradients[name], recorder.gradients[name]
            assert float((found - wanted).abs().max()) < 1e-6, name
    # Not all so small that any would pass.
    assert max(float(compared.alone.gradients[name].abs().max()) for name in names) > 1e-3


@pytest.mark.parametrize("run", RUNS)
def test_two_processes_have_the_losses_of_one(compared, run):
    assert len(compared.alone.losses[run]) > 2
    for recorder in compared.together:
        np.testing.assert_allclose(recorder.losses[run], compared.alone.losses[run], rtol=1e-4)


def test_both_processes_stay_at_the_same_bits(compared):
    first, second = compared.together
    assert first.losses == second.losses
    assert all(torch.equal(first.gradients[name], second.gradients[name]) for name in first.gradients)


def test_two_processes_resume_where_they_were_stopped(compared):
    for recorder in compared.together:
        # Stopped after 5 steps, taken up from the checkpoint after 3.
        assert recorder.losses["resumed part"] == recorder.losses["ibkd"][:5]
        assert recorder.losses["resumed rest"] == recorder.losses["ibkd"][3:]


def test_one_process_writes_what_one_alone_would(compared):
    def files(folder):
        return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if "mining" not in p.parts)

    assert files(compared.root / "together") == files(compared.root / "alone")
    logs = [(compared.root / who / "ibkd" / LOG_FILE).read_text().splitlines() for who in ("together", "alone")]
    together, alone = ([json.loads(line) for line in lines] for lines in logs)
    assert [line["step"] for line in together] == [line["step"] for line in alone]
    for mine, theirs in zip(together, alone, strict=True):
        names = [name for name in theirs if not name.startswith(("texts_per_second", "ms_", "student_share"))]
        np.testing.assert_allclose([mine[name] for name in names], [theirs[name] for name in names], rtol=1e-3)


def test_the_shares_of_all_processes_are_the_batch(monkeypatch):
    monkeypatch.setattr(ranks, "count", lambda: 3)
    found = []
    for rank in range(3):
        monkeypatch.setattr("torch.distributed.get_rank", lambda rank=rank: rank)
        found += list(range(10)[ranks.share(10)])
    assert sorted(found) == list(range(10))
