"""What a run tells of its machine."""

import platform

import torch

from stamina_lite.runs import versions


def test_a_run_tells_packages_processor_and_threads():
    told = versions.versions(torch.device("cpu"))
    assert torch.__version__.startswith(told["versions"]["torch"]) and told["versions"]["python"].startswith("3.")
    chip = f"{versions.processor()}, " if versions.processor() else ""
    assert told["device"] == f"CPU, {chip}{torch.get_num_threads()} threads, {platform.machine()}"


def test_the_processor_is_named_as_the_system_does(tmp_path, monkeypatch):
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nmodel name\t: Some Chip 9000\nflags\t: a b\nmodel name\t: Another\n")
    assert versions.processor(file) == "Some Chip 9000"
    file.write_text("processor\t: 0\nCPU implementer\t: 0x41\n")  # as on many Arm machines
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert versions.processor(file) == "arm"
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert versions.processor(tmp_path / "none") == ""
