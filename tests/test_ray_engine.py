"""What the Ray engine refuses; a real cluster is in tests/cluster."""

import pytest

from stamina_lite.errors import UserError
from stamina_lite.reproduction.ray_engine import connect, run_on_worker


def test_a_head_that_does_not_answer_is_named():
    pytest.importorskip("ray")
    with pytest.raises(UserError, match="no Ray cluster answers at ray://127.0.0.1:1: start its head"):
        connect("ray://127.0.0.1:1")


def test_a_node_with_another_version_or_without_the_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"has stamina-lite \d.*, the head has 9.9.9: install the same"):
        run_on_worker(None, tmp_path, "9.9.9")
    from stamina_lite import __version__

    with pytest.raises(UserError, match="does not see .*: give --out a folder that all nodes share"):
        run_on_worker(None, tmp_path, __version__)
