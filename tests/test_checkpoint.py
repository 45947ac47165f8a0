import os

import pytest
import torch

from stamina_lite.errors import UserError
from stamina_lite.runs.files import load_task, read_json, save_task, write_json

TENSORS = {"weight.a": torch.arange(6.0).reshape(2, 3), "token.<x>": torch.ones(4)}


def test_a_task_comes_back_bit_for_bit(tmp_path):
    save_task(tmp_path / "001", TENSORS, {"concept": "x"})
    tensors, info = load_task(tmp_path / "001")
    assert info["concept"] == "x" and set(tensors) == set(TENSORS)
    assert all(torch.equal(tensors[k], v) for k, v in TENSORS.items())


@pytest.mark.parametrize("harm", ["truncate", "alter", "delete"])
def test_damage_is_found_and_named(tmp_path, harm):
    save_task(tmp_path / "001", TENSORS, {})
    file = tmp_path / "001" / "tensors.safetensors"
    data = bytearray(file.read_bytes())
    if harm == "delete":
        file.unlink()
    else:
        data[-1] ^= 1
        file.write_bytes(data if harm == "alter" else data[:-5])
    with pytest.raises(UserError, match="tensors.safetensors is missing, truncated or altered"):
        load_task(tmp_path / "001")


def test_a_kill_while_writing_leaves_no_half_task(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_task(tmp_path / "001", TENSORS, {})
    assert not (tmp_path / "001").exists()
    monkeypatch.undo()
    save_task(tmp_path / "001", TENSORS, {})
    assert load_task(tmp_path / "001")[1]["sha256"] and not list(tmp_path.glob(".*.part"))


def test_json_is_replaced_whole(tmp_path):
    write_json(tmp_path / "a.json", {"k": [1, 2]})
    assert read_json(tmp_path / "a.json") == {"k": [1, 2]}
    (tmp_path / "a.json").write_text('{"k": [1,')
    with pytest.raises(UserError, match="a.json is damaged"):
        read_json(tmp_path / "a.json")
    with pytest.raises(UserError, match="b.json is missing"):
        read_json(tmp_path / "b.json")
