import json

import pytest
import torch

from ibkd_retrieval.distill.training.checkpoint import list_checkpoints, load_checkpoint, read_state, save_checkpoint
from ibkd_retrieval.distill.training.log import TrainingLog
from ibkd_retrieval.errors import UserError

STATE = {"identity": {}, "seconds": 1.5, "history": [], "ended": False}


def parts(seed=0, width=6):
    torch.manual_seed(seed)
    modules = {"student": torch.nn.Linear(4, width), "objective": torch.nn.Linear(width, 3, bias=False)}
    parameters = [p for module in modules.values() for p in module.parameters()]
    return modules, torch.optim.AdamW(parameters, lr=1e-2, betas=(0.9, 0.98), fused=True)


def walk(modules, optimizer, steps, first=0):
    for step in range(first, first + steps):
        x = torch.randn(5, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        modules["objective"](modules["student"](x)).square().sum().backward()
        optimizer.step()


def weights(modules):
    return torch.cat([p.detach().flatten() for module in modules.values() for p in module.parameters()])


def test_modules_and_optimiser_go_on_as_if_never_stopped(tmp_path):
    modules, optimizer = parts()
    walk(modules, optimizer, 3)
    save_checkpoint(tmp_path, 3, modules, optimizer, STATE)
    walk(modules, optimizer, 4, first=3)
    again, its_optimizer = parts(seed=9)
    load_checkpoint(list_checkpoints(tmp_path)[0], again, its_optimizer)
    assert all(float(values["step"]) == 3 for values in its_optimizer.state_dict()["state"].values())
    walk(again, its_optimizer, 4, first=3)
    assert torch.equal(weights(modules), weights(again))


def test_two_checkpoints_are_kept_and_nothing_in_them_is_a_pickle(tmp_path):
    modules, optimizer = parts()
    walk(modules, optimizer, 1)
    for step in (5, 10, 15):
        save_checkpoint(tmp_path, step, modules, optimizer, STATE)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-0000010", "step-0000015"]
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".safetensors", ".json"}
    assert read_state(list_checkpoints(tmp_path)[1]) == STATE | {"step": 15}


def test_a_checkpoint_killed_while_written_or_deleted_is_none(tmp_path):
    modules, optimizer = parts()
    save_checkpoint(tmp_path, 5, modules, optimizer, STATE)
    (tmp_path / ".step-0000010.tmp").mkdir()
    (tmp_path / "step-0000002").mkdir()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-0000005"]
    save_checkpoint(tmp_path, 10, modules, optimizer, STATE)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("damaged", [b'{"step": 1, "lo\xff', b'{"step": 1, "loss": [[', b"[" * 100_000, b"7"])
def test_a_damaged_line_of_a_log_is_dropped_when_the_log_is_gone_on_with(tmp_path, damaged):
    lines = [b'{"step": 0, "loss": 2.5}', damaged, b'{"step": 1, "loss": 1.5}', b'{"step": 7, "loss": 1.0}']
    (tmp_path / "log.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    log = TrainingLog(tmp_path / "log.jsonl", 2)
    log.write({"step": 2, "loss": 1.25})
    kept = [json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert kept == [2.5, 1.5, 1.25]


@pytest.mark.parametrize("name", ["student.safetensors", "optimizer.safetensors", "state.json"])
def test_a_changed_byte_is_noticed_and_a_checkpoint_of_an_earlier_version_has_no_checksums(tmp_path, name):
    modules, optimizer = parts()
    walk(modules, optimizer, 1)
    save_checkpoint(tmp_path, 5, modules, optimizer, STATE)
    path = tmp_path / "step-0000005" / name
    before = path.read_bytes()
    place = before.index(b"5") if name == "state.json" else len(before) - 1
    path.write_bytes(before[:place] + bytes([before[place] ^ 1]) + before[place + 1 :])
    with pytest.raises(UserError, match="step-0000005 is damaged: delete it"):
        read_state(path.parent)
    (path.parent / "state.json").write_text(json.dumps(STATE | {"step": 5}))
    assert read_state(path.parent) == STATE | {"step": 5}


@pytest.mark.parametrize("name", ["student.safetensors", "objective.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("keep", [0, 50, None])
def test_a_damaged_or_missing_weights_file_is_refused(tmp_path, name, keep):
    modules, optimizer = parts()
    walk(modules, optimizer, 1)
    save_checkpoint(tmp_path, 5, modules, optimizer, STATE)
    path = tmp_path / "step-0000005" / name
    path.unlink() if keep is None else path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"step-0000005 cannot be resumed .* delete it"):
        load_checkpoint(tmp_path / "step-0000005", *parts())


def test_the_weights_of_another_model_are_refused(tmp_path):
    save_checkpoint(tmp_path, 5, *parts(), STATE)
    with pytest.raises(UserError, match="cannot be resumed"):
        load_checkpoint(tmp_path / "step-0000005", *parts(width=7))


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"step": 5}), "3"])
def test_a_damaged_state_file_is_refused(tmp_path, content):
    save_checkpoint(tmp_path, 5, *parts(), STATE)
    (tmp_path / "step-0000005" / "state.json").write_text(content)
    with pytest.raises(UserError, match="is damaged"):
        read_state(tmp_path / "step-0000005")
