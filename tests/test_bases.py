"""Bases as users have them: hub ids, of a hub served here, diffusers folders, single files; and what is refused."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from conftest import build_tiny_pipeline
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from stamina_lite import ContinualLearner, bases, cli, concepts, load_base, make_method
from stamina_lite.bases import EMBEDDED, UserError, load_recorded, precision, resolve
from stamina_lite.diffusion import TextToImage
from stamina_lite.drawing import seeded

FEW = {"steps": 2, "batch": 2, "rank": 2, "mask_rank": 2}
QUICK = ["--steps", "1", "--batch", "2", "--rank", "2", "--device", "cpu"]
FIRST, SECOND = "a" * 40, "b" * 40  # commits


def change(file: Path, by) -> None:
    """Write a safetensors file anew, as by(tensors) has changed it in place."""
    tensors = load_file(file)
    by(tensors)
    save_file(tensors, file, {"format": "pt"})


def told(file: Path, **values) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def weights(pipe) -> dict[str, torch.Tensor]:
    models = {"unet": pipe.unet, "vae": pipe.vae, "text_encoder": pipe.text_encoder}
    return {f"{m}.{k}": v for m, model in models.items() for k, v in model.state_dict().items()}


def same(a, b) -> bool:
    a, b = weights(a), weights(b)
    return set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)


def learn_to(out: Path, base, *more) -> list[str]:
    argv = ["learn", more[0], "--method", "lora", "--base", base, "--out", out, *more[1:], *QUICK]
    return [str(a) for a in argv]


# ---------------------------------------------------------------------------------------------------------- the hub


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
from stamina_lite.bases import resolve

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


# --------------------------------------------------------------------------------------------------- a single file


def original_unet(unet) -> dict:
    """A U-Net's weights under the keys of the original layout: the inverse of what diffusers reads them by."""
    each, out = unet.config.layers_per_block + 1, {}
    attended = [hasattr(block, "attentions") for block in unet.up_blocks]
    rules = [
        (r"time_embedding\.linear_(\d)", lambda m: f"time_embed.{2 * int(m[1]) - 2}"),
        (r"conv_in", "input_blocks.0.0"),
        (r"conv_norm_out", "out.0"),
        (r"conv_out", "out.2"),
        (r"mid_block\.resnets\.(\d)", lambda m: f"middle_block.{2 * int(m[1])}"),
        (r"mid_block\.attentions\.0", "middle_block.1"),
        (r"down_blocks\.(\d)\.resnets\.(\d)", lambda m: f"input_blocks.{1 + int(m[1]) * each + int(m[2])}.0"),
        (r"down_blocks\.(\d)\.attentions\.(\d)", lambda m: f"input_blocks.{1 + int(m[1]) * each + int(m[2])}.1"),
        (r"down_blocks\.(\d)\.downsamplers\.0\.conv", lambda m: f"input_blocks.{int(m[1]) * each + each}.0.op"),
        (r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"output_blocks.{int(m[1]) * each + int(m[2])}.0"),
        (r"up_blocks\.(\d)\.attentions\.(\d)", lambda m: f"output_blocks.{int(m[1]) * each + int(m[2])}.1"),
        (
            r"up_blocks\.(\d)\.upsamplers\.0",
            lambda m: f"output_blocks.{int(m[1]) * each + each - 1}.{1 + attended[int(m[1])]}",
        ),
    ]
    parts = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3"}
    parts |= {"time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}
    for key, tensor in unet.state_dict().items():
        name = key
        for pattern, to in rules:
            name = re.sub(f"^{pattern}", to, name)
        if ".resnets." in key:
            name = re.sub(rf"\.({'|'.join(parts)})\.", lambda m: f".{parts[m[1]]}.", name)
        out[f"model.diffusion_model.{name}"] = tensor
    return out


def original_vae(vae) -> dict:
    last, out = len(vae.config.up_block_types) - 1, {}
    parts = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out", "group_norm": "norm"}
    for key, tensor in vae.state_dict().items():
        name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", key)
        name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{last - int(m[1])}.block", name)
        name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample", name)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        if ".attentions." in name:
            name = name.replace("mid_block.attentions.0", "mid.attn_1")
            name = re.sub(
                rf"({'|'.join(map(re.escape, parts))})\.(weight|bias)", lambda m: f"{parts[m[1]]}.{m[2]}", name
            )
            tensor = tensor if tensor.ndim == 1 else tensor[:, :, None, None]  # there it was a convolution
        out[f"first_stage_model.{name}"] = tensor
    return out


def original_text(text, of_2: bool) -> dict:
    """As CLIP's in 1.x, as OpenCLIP's in 2.x, where Q, K and V are one matrix."""
    held = {key.removeprefix("text_model."): tensor for key, tensor in text.state_dict().items()}
    if not of_2:
        return {f"cond_stage_model.transformer.text_model.{key}": tensor for key, tensor in held.items()}
    names = {"embeddings.token_embedding": "token_embedding", "final_layer_norm": "ln_final", "layer_norm1": "ln_1"}
    names |= {"layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn": "attn"}
    names |= {"encoder.layers": "transformer.resblocks", "embeddings.position_embedding.weight": "positional_embedding"}
    out = {}
    for key in [k for k in held if ".q_proj." in k]:
        for what in ("q", "k", "v"):
            joined = key.replace("q_proj.", "in_proj_")
            out.setdefault(joined, []).append(held.pop(key.replace("q_proj", f"{what}_proj")))
    held |= {key: torch.cat(three) for key, three in out.items()}
    for old, new in names.items():
        held = {key.replace(old, new): tensor for key, tensor in held.items()}
    return {f"cond_stage_model.model.{key}": tensor for key, tensor in held.items()}


def original(pipe, file: Path, of_2: bool = False, half: bool = False) -> Path:
    """Write a pipeline as a single file in the original layout."""
    tensors = original_unet(pipe.unet) | original_vae(pipe.vae) | original_text(pipe.text_encoder, of_2)
    tensors["alphas_cumprod"] = torch.linspace(1, 0, 10)  # such files hold more than is read
    save_file({k: (v.half() if half else v).contiguous().clone() for k, v in tensors.items()}, file)
    return file


def said_by(pipe):
    """What a pipeline makes of fixed noise, of a prompt, and of a picture: the three models."""
    ids = pipe.tokenizer("a photo of red waterfall", padding="max_length", return_tensors="pt").input_ids
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        words = pipe.text_encoder(ids)[0]
        noise, picture = torch.randn(1, 4, 16, 16, generator=draw), torch.randn(1, 3, 32, 32, generator=draw)
        latent = pipe.vae.encode(picture).latent_dist.mean
        return words, pipe.unet(noise, torch.tensor([500]), words).sample, latent, pipe.vae.decode(latent).sample


@pytest.mark.parametrize("of_2", [False, True])
def test_a_single_file_is_the_model_it_was_written_from(tmp_path, of_2):
    """In the layouts of 1.x and 2.x; the folder beside it gives the configuration, and none of its weights."""
    kind = "v_prediction" if of_2 else "epsilon"
    folder = build_tiny_pipeline(tmp_path, kind)
    pipe = load_base(folder, "cpu")
    file = original(pipe, tmp_path / "model.safetensors", of_2)
    for model in ("unet", "vae", "text_encoder"):
        for weight in (folder / model).glob("*.safetensors"):
            change(weight, lambda t: [v.add_(0.1) for v in t.values()])
    loaded, other = load_base(file, "cpu", config=folder), load_base(folder, "cpu")
    assert loaded.scheduler.config.prediction_type == kind and loaded.safety_checker is None
    for ours, theirs, others in zip(said_by(loaded), said_by(pipe), said_by(other), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6) and not torch.allclose(ours, others, atol=1e-2)


def test_a_run_on_a_single_file_finds_it_and_its_configuration_again(tiny_folder, tiny, photos, tmp_path, monkeypatch):
    """From another folder, and without the option: to go on, to draw and to export."""
    (tmp_path / "elsewhere").mkdir()
    original(tiny, tmp_path / "model.safetensors", half=True)
    monkeypatch.chdir(tmp_path)
    assert (
        cli.main(learn_to(tmp_path / "run", "model.safetensors", photos / "amber", "--base-config", tiny_folder)) == 0
    )
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["base_model"] == str(tmp_path / "model.safetensors") and about["base_config"] == str(tiny_folder)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert cli.main(learn_to(tmp_path / "run", tmp_path / "model.safetensors", photos)) == 0
    assert len(list((tmp_path / "run" / "tasks").iterdir())) == 3
    assert cli.main(["generate", str(tmp_path / "run"), "--prompt", "a photo of <amber>", "-n", "1"]) == 0
    assert cli.main(["export", str(tmp_path / "run"), "--to", "diffusers", "--out", str(tmp_path / "out")]) == 0
    assert StableDiffusionPipeline.from_pretrained(tmp_path / "out").unet.conv_out.weight.dtype == torch.float32


@pytest.fixture(scope="module")
def whole(tiny_folder, tmp_path_factory):
    return original(load_base(tiny_folder, "cpu"), tmp_path_factory.mktemp("whole") / "whole.safetensors")


UNET, TEXT = "model.diffusion_model.", "cond_stage_model."
BROKEN = {  # what is done to the tensors of a whole file -> what is said
    "no text": (lambda t: [t.pop(k) for k in [*t] if k.startswith(TEXT)], "checkpoint: no text encoder in it"),
    "weights": (lambda t: [t.pop(k) for k in [*t] if not k.startswith(UNET)], "no VAE, no text encoder in it"),
    "one": (lambda t: t.pop(f"{UNET}middle_block.1.proj_in.weight"), "lacks weights that .* wants: fetch it again"),
    "a layer": (
        lambda t: [t.pop(k) for k in [*t] if "text_model.encoder.layers.1." in k],
        r"lacks \S*encoder.layers.1\S* and 15 more weights",
    ),
    "vae": (lambda t: t.pop("first_stage_model.decoder.conv_out.bias"), "lacks weights that .* wants: fetch it again"),
    "larger": (
        lambda t: t.update({f"{UNET}input_blocks.1.1.norm.weight": torch.ones(2)}),
        "larger U-Net than .* says: give --base-config",
    ),
    "shape": (lambda t: t.update({f"{UNET}out.2.bias": torch.ones(9)}), "does not fit .* expected shape"),
    "lora": (lambda t: t.update({"lora_unet_down.lora_up.weight": torch.ones(2)}), "is a LoRA, not a model"),
    "xl": (lambda t: t.update({"conditioner.embedders.0.x": torch.ones(2)}), "is of Stable Diffusion XL"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_file_that_lacks_anything_is_refused(whole, tiny_folder, tmp_path, how):
    shutil.copy(whole, tmp_path / "model.safetensors")
    edit, said = BROKEN[how]
    change(tmp_path / "model.safetensors", edit)
    with pytest.raises(UserError, match=said) as refused:
        load_base(tmp_path / "model.safetensors", "cpu", config=tiny_folder)
    assert "\n" not in str(refused.value) and "model.safetensors" in str(refused.value)


def test_files_that_cannot_be_read_are_refused_in_one_line(whole, tiny_folder, photos, tmp_path, capsys):
    torn, pickled = tmp_path / "torn.safetensors", tmp_path / "model.ckpt"
    torn.write_bytes(whole.read_bytes()[:-5000])
    pickled.write_bytes(b"\x80\x02}q\x00.")
    newer = original(load_base(tiny_folder, "cpu"), tmp_path / "newer.safetensors", of_2=True)
    for base, config, said in (
        (torn, tiny_folder, "torn.safetensors is damaged or not whole"),
        (pickled, None, "is a pickle"),
        ("nowhere.ckpt", None, "is a pickle"),
        (tmp_path / "none.safetensors", None, "no base model at"),
        (whole, None, "and the hub cannot be reached"),
        (whole, None, "): give --base-config, a diffusers folder"),
        (whole, tmp_path / "nowhere", "nowhere: give --base-config, a diffusers folder"),
        (whole, photos, "is no diffusers folder: model_index.json is missing"),
        (newer, None, "does not say what it predicts: give --base-config"),
        (tiny_folder, tiny_folder, "has its own configuration"),
    ):
        more = ["--base-config", config] if config else []
        capsys.readouterr()
        assert cli.main(learn_to(tmp_path / "run", base, photos, *more)) == 2
        line = capsys.readouterr().err
        assert said in line and line.startswith("stamina-lite: ") and line.count("\n") == 1, line
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------------- folders


def test_what_is_loaded_is_what_stock_code_loads(tiny_folder):
    for name, folder in (("mini", EMBEDDED["mini"]), (tiny_folder, tiny_folder)):
        stock = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, dtype=torch.float32)
        ours = load_base(name, "cpu")
        assert same(ours, stock) and ours.scheduler.config == stock.scheduler.config
        assert {w.dtype for w in weights(ours).values()} == {torch.float32}


def test_folders_as_older_versions_wrote_them_are_whole(tiny_folder, tiny, tmp_path):
    """Other names of the text encoder's and the VAE's weights, a buffer that is none now, and mixed precisions."""
    shutil.copytree(tiny_folder, tmp_path / "old")
    names = (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn"))

    def older_text(tensors):
        for key in [*tensors]:
            tensors[f"text_model.{key.removeprefix('text_model.')}"] = tensors.pop(key)
        tensors["text_model.embeddings.position_ids"] = torch.arange(40)[None]

    def older_vae(tensors):
        for key in [k for k in tensors if "attentions" in k]:
            old = key
            for now, before in names:
                old = old.replace(now, before)
            tensors[old] = tensors.pop(key)

    def mixed(tensors):
        for key in sorted(tensors)[::2]:
            tensors[key] = tensors[key].half()

    change(tmp_path / "old" / "text_encoder" / "model.safetensors", older_text)
    change(tmp_path / "old" / "vae" / "diffusion_pytorch_model.safetensors", older_vae)
    assert same(load_base(tmp_path / "old", "cpu"), tiny)
    change(tmp_path / "old" / "unet" / "diffusion_pytorch_model.safetensors", mixed)
    loaded = weights(load_base(tmp_path / "old", "cpu"))
    assert {w.dtype for w in loaded.values()} == {torch.float32}
    assert all(torch.allclose(loaded[k], w, atol=1e-3) for k, w in weights(tiny).items())


def torn(folder: Path) -> None:
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def edited(model: str, by):
    return lambda folder: change(next((folder / model).glob("*.safetensors")), by)


def nine_channels(folder: Path) -> None:
    told(folder / "unet" / "config.json", in_channels=9)
    edited("unet", lambda t: t.update({"conv_in.weight": torch.zeros(32, 9, 3, 3)}))(folder)


UNFIT = {  # what is done to a folder -> what is said
    "class": (
        lambda f: told(f / "model_index.json", _class_name="FluxPipeline"),
        r"is a FluxPipeline: only a StableDiffusionPipeline \(1.x or 2.x\) can be customised",
    ),
    "vae class": (
        lambda f: told(f / "model_index.json", vae=["diffusers", "AutoencoderTiny"]),
        "has a AutoencoderTiny as its vae",
    ),
    "no table": (lambda f: (f / "model_index.json").write_text("[]"), "model_index.json is damaged"),
    "unet lacks": (edited("unet", lambda t: t.pop("conv_out.weight")), "unet lacks conv_out.weight: no weight may"),
    "vae lacks": (edited("vae", lambda t: t.pop("quant_conv.bias")), "vae lacks quant_conv.bias"),
    "text lacks": (
        edited("text_encoder", lambda t: t.pop(next(k for k in t if k.endswith("final_layer_norm.weight")))),
        "text_encoder lacks .*final_layer_norm.weight",
    ),
    "unet extra": (edited("unet", lambda t: t.update(more=torch.ones(2))), "unet holds more, which its config.json"),
    "text extra": (edited("text_encoder", lambda t: t.update(more=torch.ones(2))), "text_encoder holds more, which"),
    "unet shape": (
        edited("unet", lambda t: t.update({"conv_out.bias": torch.ones(5)})),
        "conv_out.bias expected shape",
    ),
    "text shape": (
        edited("text_encoder", lambda t: t.update({sorted(t)[-1]: torch.ones(5)})),
        "text_encoder holds .* in another shape than its config.json says",
    ),
    "torn": (torn, "vae/diffusion_pytorch_model.safetensors is damaged or not whole"),
    "pickles": (
        lambda f: (f / "unet/diffusion_pytorch_model.safetensors").rename(f / "unet/diffusion_pytorch_model.bin"),
        "unet holds no .safetensors weights .*: pickled weights are not read",
    ),
    "inpainting": (nine_channels, "cannot be customised: its U-Net reads 9 channels"),
    "scheduler": (
        lambda f: (
            told(f / "model_index.json", scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"]),
            (f / "scheduler" / "scheduler_config.json").write_text("{}"),
        ),
        "its FlowMatchEulerDiscreteScheduler is no diffusion by betas",
    ),
}


@pytest.mark.parametrize("how", UNFIT)
def test_a_folder_that_cannot_be_customised_is_refused(tiny_folder, tmp_path, how):
    shutil.copytree(tiny_folder, tmp_path / "model")
    edit, said = UNFIT[how]
    edit(tmp_path / "model")
    with pytest.raises(UserError, match=said) as refused:
        load_base(tmp_path / "model", "cpu")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("scheduler", ["PNDMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_a_base_with_a_samplers_scheduler_is_trained_by_its_diffusion(tiny_folder, tiny, tmp_path, scheduler):
    """The noise that is added is that of the betas, not that of the sampler's steps."""
    import diffusers

    shutil.copytree(tiny_folder, tmp_path / "model")
    told(tmp_path / "model" / "model_index.json", scheduler=["diffusers", scheduler])
    own = getattr(diffusers, scheduler).from_config(tiny.scheduler.config)
    own.save_pretrained(tmp_path / "model" / "scheduler")
    loaded = load_base(tmp_path / "model", "cpu").scheduler
    x, noise, t = torch.ones(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([100, 900])
    expected = tiny.scheduler.add_noise(x, noise, t)
    assert torch.allclose(loaded.add_noise(x, noise, t), expected, atol=1e-6) and not loaded.config.clip_sample
    if scheduler != "PNDMScheduler":
        assert not torch.allclose(own.add_noise(x, noise, t), expected, atol=0.1)


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "PNDMScheduler"])
def test_a_base_that_predicts_the_velocity_is_trained_to(tmp_path, photos, scheduler):
    """A U-Net that answers zero is as far off as the velocity is long, and not as the noise is."""
    import diffusers

    folder = build_tiny_pipeline(tmp_path, "v_prediction")
    config = DDIMScheduler.from_pretrained(folder, subfolder="scheduler").config
    getattr(diffusers, scheduler).from_config(config).save_pretrained(folder / "scheduler")
    told(folder / "model_index.json", scheduler=["diffusers", scheduler])
    pipe = load_base(folder, "cpu")
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    for weight in pipe.unet.conv_out.parameters():
        torch.nn.init.zeros_(weight)
    model, x = TextToImage(pipe), torch.randn(4, 4, 16, 16)
    with torch.no_grad():
        errors = model.errors(x, model.tokenize(["a photo"]), torch.zeros(4, dtype=torch.long), seeded(1))
    draw = seeded(1)
    noise, t = torch.randn(x.shape, generator=draw), torch.randint(1000, (4,), generator=draw)
    alpha = pipe.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * x
    assert torch.allclose(errors, velocity.square().mean((1, 2, 3)), atol=1e-5)
    assert not torch.allclose(errors, noise.square().mean((1, 2, 3)), atol=1e-3)
    learned = TextToImage(load_base(folder, "cpu")).learn(concepts(photos)[0], make_method("lora", **FEW), 0, 1)
    assert learned.step_change > 0


# ------------------------------------------------------------------------------------------------ half precision


def test_precision_is_what_the_device_is_good_at(monkeypatch):
    assert precision("cpu") == torch.float32
    for supported, dtype in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, s=supported: s)
        assert precision("cuda:1") == dtype


def test_half_precision_trains_fp32_parameters_as_fp32_does(tiny_folder, photos):
    """Step by step the loss is that of a model in fp32, to a few roundings, and it falls; every gradient is finite."""
    found, method, curves = concepts(photos), make_method("stamina", lr=0.03, **{**FEW, "steps": 5}), []
    for dtype in (torch.bfloat16, torch.float32):
        model, seen, fixed = TextToImage(load_base(tiny_folder, "cpu", dtype)), [], []

        def look(step, numbers, model=model, seen=seen):
            adapter, token = model.layers[0].adapter, model.table.parametrizations.weight[0].tokens[0]
            seen.append([*adapter.parameters(), *token.parameters()])

        steps = model.learn(found[0], method, 0, 1, look).steps
        assert {p.dtype for p in seen[0]} == {torch.float32} and len(seen[0]) == 10
        assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in seen[-1])
        x, told = model.encode(found[0].load(model.size)), torch.zeros(4, dtype=torch.long)
        for _ in range(2):  # with the weights that were learned, then with the base's
            with torch.no_grad():
                fixed.append(model.errors(x, model.tokenize(["a photo of <amber>"]), told, seeded(9)).mean().item())
            for layer in model.layers:
                layer.restore(layer.start)
        assert fixed[0] < 0.995 * fixed[1]
        curves.append([s["diffusion"] for s in steps])
    assert curves[0] == pytest.approx(curves[1], rel=0.02)


def test_what_half_precision_learns_is_kept_in_fp32(tiny_folder, photos):
    """Every layer's own copy is fp32 and not a rounded one; the model has it, and the token's row, rounded once."""
    model, method = TextToImage(load_base(tiny_folder, "cpu", torch.bfloat16)), make_method("c-lora", **FEW)
    before = model.table.weight.clone()
    for task, concept in enumerate(concepts(photos)[:2], 1):
        learned = model.learn(concept, method, 0, task)
    for layer in model.layers:
        weight = layer.module.weight
        assert weight.dtype == torch.bfloat16 and torch.equal(weight, layer.current.bfloat16())
        assert layer.current.dtype == torch.float32 and not torch.equal(layer.current, weight.float())
    row = learned.rows[concept.token]
    assert row.dtype == torch.float32 and torch.equal(model.table.weight[-1], row.bfloat16())
    assert torch.equal(model.table.weight[:-2], before)


def test_fifty_tasks_in_half_precision_stay_with_those_in_fp32(tiny_folder, photos):
    """The same changes folded into a whole model of either precision: no drift beyond one rounding."""
    models = [TextToImage(load_base(tiny_folder, "cpu", dtype)) for dtype in (torch.bfloat16, torch.float32)]
    method = make_method("lora", **FEW)
    naive = {layer.name: layer.module.weight.detach().clone() for layer in models[0].layers}
    for task in range(50):
        for half, full in zip(*(model.layers for model in models), strict=True):
            for layer in (half, full):
                layer.attach(method.adapter(layer, seeded(task)))
                with torch.no_grad():
                    layer.adapter.A.normal_(std=2e-3, generator=seeded(task, 1))
            naive[half.name] += half.delta().detach().bfloat16()
            half.fold()
            full.fold()
    for half, full in zip(*(model.layers for model in models), strict=True):
        assert torch.allclose(half.past, full.past, atol=1e-6) and full.past.abs().max() > 0.01
        ours, drifted = ((w.float() - half.start - full.past).abs() for w in (half.module.weight, naive[half.name]))
        assert ours.max() <= torch.finfo(torch.bfloat16).eps * half.current.abs().max()
        assert drifted.mean() > 3 * ours.mean()


def test_a_run_in_half_precision_is_opened_and_goes_on_in_it(tiny_folder, photos, tmp_path):
    """On a machine that would take fp32 of its own accord; and without the record its base is another."""
    out, base = tmp_path / "run", {"base_model": str(tiny_folder.resolve()), "set": None}
    half = load_base(tiny_folder, "cpu", torch.bfloat16)
    learner = ContinualLearner(half, "lora", 0, out, base, steps=1, batch=2, rank=2)
    learner.learn(concepts(photos)[0])
    about = json.loads((out / "run.json").read_text())
    assert about["precision"] == "bfloat16" and same(load_recorded(base, "cpu"), load_base(tiny_folder, "cpu"))
    assert cli.main(["generate", str(out), "--prompt", "a photo of <amber>", "-n", "1", "--device", "cpu"]) == 0
    assert cli.main(learn_to(out, tiny_folder, photos)) == 0
    assert len(list((out / "tasks").iterdir())) == 3
    (out / "run.json").write_text(json.dumps({k: v for k, v in about.items() if k != "precision"}))
    assert cli.main(["generate", str(out), "--prompt", "a photo of <amber>", "-n", "1", "--device", "cpu"]) == 2


def test_out_of_memory_is_said_and_the_run_goes_on(tiny_folder, photos, tmp_path, capsys, monkeypatch):
    """Raised here where a GPU would raise it, in the second concept's steps: memory of a CPU is no torch error."""
    whole, argv = TextToImage.errors, learn_to(tmp_path / "run", tiny_folder, photos)

    def full(model, *args):
        if len(model.custom) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")
        return whole(model, *args)

    with monkeypatch.context() as patch:
        patch.setattr(TextToImage, "errors", full)
        assert cli.main(argv) == 2
    said = [line for line in re.split(r"[\r\n]", capsys.readouterr().err) if "stamina-lite" in line]
    assert len(said) == 1 and said[0].endswith(f"stamina-lite: {cli.OUT_OF_MEMORY}") and "--batch" in said[0]
    assert [f.name for f in (tmp_path / "run" / "tasks").iterdir()] == ["001"]
    assert cli.main(argv) == 0
    assert len(list((tmp_path / "run" / "tasks").iterdir())) == 3


def test_gradient_checkpointing_can_be_asked_for(tiny_folder, photos, tmp_path, monkeypatch, capsys):
    """A run goes on with it or without; classes, which have no U-Net, refuse it."""
    asked, enable = [], UNet2DConditionModel.enable_gradient_checkpointing
    monkeypatch.setattr(UNet2DConditionModel, "enable_gradient_checkpointing", lambda u: asked.append(u) or enable(u))
    argv = learn_to(tmp_path / "run", tiny_folder, photos)
    assert cli.main([*argv, "--gradient-checkpointing"]) == 0 and len(asked) == 1
    assert cli.main(argv) == 0 and len(asked) == 1
    classes = ["bench", "renditions", "--method", "ft", "--out", str(tmp_path / "classes"), "--gradient-checkpointing"]
    assert cli.main(classes) == 2 and "is for concepts" in capsys.readouterr().err


def test_another_runtime_error_keeps_its_traceback(monkeypatch, photos, tiny_folder, tmp_path):
    def broken(*args):
        raise RuntimeError("not the user's")

    monkeypatch.setattr(bases, "check_fit", broken)
    with pytest.raises(RuntimeError, match="not the user's"):
        cli.main(learn_to(tmp_path / "run", tiny_folder, photos))
