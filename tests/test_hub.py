"""Base models of the hub, asked for from a small one on this machine."""

import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from base_files import FIRST, SECOND, change, learn_to, same, told

from stamina_lite import cli, load_base
from stamina_lite.diffusion.bases import resolve


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as fetching needs. repos: id -> {commit: folder}; refs: (id, name) -> commit."""

    repos: dict = {}
    refs: dict = {}
    asked: list = []

    def do_GET(self):
        Hub.asked.append(self.path)
        path = self.path.partition("?")[0].strip("/").split("/")
        if path == ["move"]:  # a new commit on main
            Hub.refs["ada/tiny", "main"] = SECOND
            return self.send({})
        api = path[:2] == ["api", "models"]
        owner, name, *rest = path[2:] if api else path
        repo = f"{owner}/{name}"
        if repo not in Hub.repos:
            return self.refuse(401, "RepoNotFound")
        kind, revision, *file = rest or ("revision", "main")
        commit = Hub.refs.get((repo, revision), revision)
        if commit not in Hub.repos[repo]:
            return self.refuse(404, "RevisionNotFound")
        folder = Hub.repos[repo][commit]
        files = [f for f in sorted(folder.rglob("*")) if f.is_file()]
        names = [str(f.relative_to(folder)) for f in files]
        if kind == "revision":
            return self.send({"id": repo, "sha": commit, "siblings": [{"rfilename": n} for n in names]})
        if kind == "tree":
            sizes = [f.stat().st_size for f in files]
            return self.send(
                [{"type": "file", "path": n, "size": s, "oid": "0" * 40} for n, s in zip(names, sizes, strict=True)]
            )
        if repo == "ada/gated":  # what it is everyone may see; what is in it, not
            return self.refuse(403, "GatedRepo")
        if "/".join(file) not in names:
            return self.refuse(404, "EntryNotFound")
        body = (folder / "/".join(file)).read_bytes()
        return self.send(body, {"ETag": f'"{abs(hash(body)):x}"', "X-Repo-Commit": commit})

    do_HEAD = do_GET

    def send(self, body, headers=()):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answer(200, {"Content-Length": str(len(body)), **dict(headers)})
        if self.command == "GET":
            self.wfile.write(body)

    def refuse(self, code: int, why: str):
        self.answer(code, {"X-Error-Code": why, "X-Error-Message": why, "Content-Length": "0"})

    def answer(self, code: int, headers: dict):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args):
        pass


SCRIPT = """
import contextlib, io, json, sys, urllib.request
from pathlib import Path
from stamina_lite import UserError, cli, load_base
from stamina_lite.diffusion.bases import resolve

photos, out, hub = sys.argv[1:]
said = {}
for base in ("ada/tiny@v1", "ada/halves", "ada/gated", "ada/nobody", "ada/pickles", "ada/xl", "ada/tiny@v9"):
    try:
        pipe = load_base(base, "cpu")
        said[base] = [resolve(base).name, pipe.unet.conv_out.weight.sum().item()]
    except UserError as error:
        said[base] = str(error)
learn = ["learn", photos, "--method", "lora", "--base", "ada/tiny", "--out", out, "--steps", "1", "--device", "cpu"]
codes, runs = [], []
for step in ("learn", "move", "go on", "draw", "anew"):
    if step == "move":
        urllib.request.urlopen(hub + "/move").read()
    elif step == "draw":
        codes.append(cli.main(["generate", out, "--prompt", "a photo", "-n", "1", "--device", "cpu"]))
    else:
        if step == "anew":
            learn[learn.index(out)] = out + "-anew"
        codes.append(cli.main(learn))
        runs.append(json.loads(Path(learn[learn.index("--out") + 1], "run.json").read_text()))
print("SAID", json.dumps({"bases": said, "codes": codes, "runs": runs}))
"""


@pytest.fixture(scope="module")
def hub(tiny_folder, photos, tmp_path_factory):
    """What a program that asks the hub for everything here was told; its cache; and what the hub was asked."""
    root = tmp_path_factory.mktemp("hub")
    for name in ("first", "second", "halves", "pickles", "xl"):
        shutil.copytree(tiny_folder, root / name)
    for model in (root / "first" / "unet", root / "second" / "unet"):
        for extra in ("diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.safetensors"):
            (model / extra).write_bytes(b"not wanted")
    (root / "first" / "whole.ckpt").write_bytes(b"not wanted")
    change(
        root / "second" / "unet" / "diffusion_pytorch_model.safetensors", lambda t: [v.mul_(1.5) for v in t.values()]
    )
    for name, suffix in (("halves", ".fp16.safetensors"), ("pickles", ".bin")):
        for file in (root / name).rglob("*.safetensors"):
            file.rename(file.with_suffix(suffix))
    told(root / "xl" / "model_index.json", _class_name="StableDiffusionXLPipeline")
    Hub.repos = {"ada/tiny": {FIRST: root / "first", SECOND: root / "second"}, "ada/gated": {FIRST: root / "first"}}
    Hub.repos |= {f"ada/{name}": {FIRST: root / name} for name in ("halves", "pickles", "xl")}
    Hub.refs = {(repo, "main"): FIRST for repo in Hub.repos} | {("ada/tiny", "v1"): FIRST}
    Hub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url, cache = f"http://127.0.0.1:{server.server_port}", root / "cache"
    env = {**os.environ, "HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(root), "HF_HUB_CACHE": str(cache)}
    env |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    argv = [sys.executable, "-c", SCRIPT, str(photos / "amber"), str(root / "run"), url]
    done = subprocess.run(argv, env=env, capture_output=True, text=True)
    server.shutdown()
    server.server_close()
    assert "SAID" in done.stdout, done.stderr
    return json.loads(done.stdout.rpartition("SAID")[2]), cache, [*Hub.asked], url


def test_a_hub_id_is_a_commit_and_only_what_is_needed_is_fetched(hub, tiny):
    said, cache, asked, _ = hub
    for base in ("ada/tiny@v1", "ada/halves"):
        name, total = said["bases"][base]
        assert name == f"{base.partition('@')[0]}@{FIRST}"
        assert total == pytest.approx(tiny.unet.conv_out.weight.sum().item(), rel=1e-3)
    fetched = {path.partition(f"/resolve/{FIRST}/")[2] for path in asked if path.startswith("/ada/tiny/resolve")}
    assert "unet/diffusion_pytorch_model.safetensors" in fetched and "tokenizer/tokenizer_config.json" in fetched
    assert not [file for file in fetched if file.endswith((".bin", ".ckpt", "fp16.safetensors"))]
    assert not [path for path in asked if path.startswith("/ada/xl") and path.endswith("safetensors")]


def test_mistakes_with_the_hub_say_what_to_do(hub):
    said, _, _, url = hub
    expected = {
        "ada/gated": f"ada/gated is gated: accept its terms on {url}/ada/gated and run `hf auth login`",
        "ada/nobody": "no folder ada/nobody, and no such model on the hub: if it is private, run `hf auth login`",
        "ada/tiny@v9": f"ada/tiny has no revision v9: see {url}/ada/tiny/commits/main",
        "ada/xl": "ada/xl is a StableDiffusionXLPipeline: only a StableDiffusionPipeline (1.x or 2.x) can be "
        "customised",
    }
    assert {base: said["bases"][base] for base in expected} == expected
    assert "holds no .safetensors weights" in said["bases"]["ada/pickles"]
    assert "pickled weights are not read" in said["bases"]["ada/pickles"]


def test_a_run_stays_with_the_commit_it_began_with(hub):
    """The model has a new commit when the same command is given again, and when pictures are drawn."""
    said, _, _, _ = hub
    assert said["codes"] == [0, 0, 0, 0]
    begun, gone_on, anew = said["runs"]
    assert begun["base_model"] == f"ada/tiny@{FIRST}" and gone_on == begun
    assert anew["base_model"] == f"ada/tiny@{SECOND}" and anew["base"] != begun["base"]


def test_without_a_network_what_was_fetched_is_enough(hub, tiny, monkeypatch, capsys, photos, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub[1]))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert same(load_base(f"ada/tiny@{FIRST}", "cpu"), tiny) and same(load_base("ada/tiny@v1", "cpu"), tiny)
    assert not same(load_base("ada/tiny", "cpu"), tiny) and resolve("ada/tiny").name == f"ada/tiny@{SECOND}"
    assert cli.main(learn_to(tmp_path / "run", "ada/other", photos)) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "stamina-lite: no folder ada/other, and the hub cannot be reached: download it elsewhere "
        "(hf download ada/other --local-dir DIR) and give its folder"
    )
    assert not (tmp_path / "run").exists()
