"""Train the embedded base model and write it as an ordinary Stable Diffusion folder: pictures are drawn meanwhile.

    python data_scripts/pretrain_diffusion.py --data build/base --work build/mini --out stamina_lite/assets/mini

Three stages: the VAE, text encoder and U-Net together, and the VAE's decoder once more. Each has a budget of steps, of
seconds, or both; each goes on where it was killed; sample sheets and losses are found in --work. Runs on CPU (fp32, or
bf16 with --bf16) and on GPU (bf16). With --start the weights of a finished folder are trained on: its encoder is kept,
so its latents stay what they are.
"""

import argparse
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from base_models import (
    WORDS,
    latents_of,
    make_scheduler,
    make_text_encoder,
    make_tokenizer,
    make_unet,
    make_vae,
    pixels,
)
from base_set import CHUNK, COUNT, SIZE, BaseSet, start_drawing, stop_drawing
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from PIL import Image
from scenes import words
from training_state import Budget, Run
from transformers import CLIPTokenizer

HELD_OUT = 256  # the first pictures of the base set are never trained on
FEWEST = 2000  # pictures that must have been drawn before training begins
LOG = "training.json"  # steps and losses of every stage, kept with the weights
PROMPTS = (
    "a photo of a smiling person with long blue hair on a yellow background",
    "a photo of an angry person with short red hair and glasses on a navy background",
    "a photo of a laughing person with short black hair on a white background",
    "a photo of a sad person with long black hair on a pink background",
    "a photo of a surprised person with long green hair on a grey background",
    "a photo of a smiling person with short brown hair and glasses on a cyan background",
    "a photo of a wide fan waterfall with red rock by day in winter",
    "a photo of two narrow plunge waterfalls with grey rock at sunset in autumn",
    "a photo of three wide slide waterfalls with yellow rock and a tent at night in summer",
    "a photo of a narrow tiered waterfall with black rock by day in summer",
    "a photo of a smiling person with short green hair next to a sad person with long black hair on a navy background",
    "a photo of a smiling person with long red hair in front of a wide plunge waterfall with grey rock by day",
)


def text_share(module: str, parameter: str) -> float:
    """Share of the learning rate in the U-Net's stage.

    At the whole rate a text encoder's layers grow until they drown its words. A word's row gets a gradient only when a
    caption says it, a name's in one step of thirty: it takes longer strides.
    """
    if module != "text" or "position_embedding" in parameter:
        return 1.0
    return 2.0 if "token_embedding" in parameter else 0.2


class ProductEmbedding(torch.nn.Embedding):
    """Looks rows up by a product with one-hot vectors.

    On a GPU the gradients of a word that every caption has would queue up for its row.
    """

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return F.one_hot(ids, self.num_embeddings).to(self.weight.dtype) @ self.weight


class Denoiser(torch.nn.Module):
    """Text encoder and U-Net in one graph, for the compiler."""

    def __init__(self, text, unet):
        super().__init__()
        self.text, self.unet = text, unet

    def forward(self, ids, noisy, t):
        return self.unet(noisy, t, self.text(ids)[0]).sample


def fit(error: torch.Tensor) -> torch.Tensor:
    """Squared and absolute error, and that of the differences between neighbours, which keeps edges sharp.

    error: (n, 3, H, W), decoded less real.
    """
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.square().mean() + 0.1 * error.abs().mean() + 0.1 * edges


def train_vae(base: BaseSet, work: Path, budget: Budget, batch: int, device: str, channels: int):
    """Reconstruction, and a light pull of the latents to unit variance."""
    torch.manual_seed(0)
    vae = make_vae(channels).to(memory_format=torch.channels_last)
    run = Run(work, "vae", {"vae": vae}, budget, 2e-3, batch, device, decay=0.995, log=[])

    def loss(draw):
        posterior = vae.encode(x := some_pictures(base, batch, draw, device)).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=draw).to(device)
        error = vae.decode(posterior.mean + posterior.std * noise).sample.float() - x
        kl = posterior.kl().float().mean() / posterior.mean[0].numel()
        return fit(error) + 5e-5 * kl, {"mse": error.detach().square().mean(), "kl": kl.detach()}

    run.train(loss, lambda step: look_at_vae(vae, base, run, work, device))
    return vae.eval(), run.log


def some_pictures(base: BaseSet, batch: int, draw: torch.Generator, device: str) -> torch.Tensor:
    base.refresh()
    return pixels(torch.from_numpy(base.images[some(base.ready, batch, draw)])).to(
        device, memory_format=torch.channels_last
    )


def some(places: np.ndarray, n: int, draw: torch.Generator) -> np.ndarray:
    """n numbers of pictures out of `places`, none of them held out."""
    trained = places[places >= HELD_OUT]
    return trained[torch.randint(max(1, len(trained)), (n,), generator=draw).numpy()]


@torch.no_grad()
def reconstruct(vae, held_out, device) -> tuple[float, np.ndarray]:
    """PSNR over all pixels of (n, H, W, 3) uint8 pictures, after rounding to bytes, and the reconstructions."""
    vae.eval()
    out = []
    for part in held_out.split(32):
        decoded = vae.decode(vae.encode(pixels(part).to(device)).latent_dist.mean).sample
        out.append(to_bytes(decoded))
    vae.train()
    out = np.concatenate(out)
    error = ((out.astype(np.float64) - held_out.numpy()) ** 2).mean()
    return float(10 * np.log10(255**2 / error)), out


def sharpen_decoder(
    vae, base: BaseSet, latents, work: Path, budget: Budget, batch: int, device: str, log: list
) -> list:
    """Go on with the decoder alone: the latents stay what they are, so the U-Net stays right.

    They get some noise, none to a sixth of their deviation, so that the decoder forgives the U-Net's own errors.
    """
    vae.encoder.requires_grad_(False)
    half = {"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv}
    run = Run(work, "decoder", half, budget, 1e-3, batch, device, decay=0.998, log=log)

    def loss(draw):
        picked = some(latents.ready, batch, draw)
        x = pixels(torch.from_numpy(base.images[picked])).to(device, memory_format=torch.channels_last)
        level = torch.rand(len(picked), 1, 1, 1, generator=draw) / 6
        z = latents.values[picked].float()
        noise = (level * torch.randn(z.shape, generator=draw)).to(device)
        error = vae.decode((z + noise) / vae.config.scaling_factor).sample.float() - x
        return fit(error), {"mse": error.detach().square().mean()}

    run.train(loss, lambda step: look_at_vae(vae, base, run, work, device))
    vae.eval()
    return run.log


def look_at_vae(vae, base: BaseSet, run: Run, work: Path, device: str) -> None:
    """PSNR on the held-out pictures, and a sheet of some with their reconstructions."""
    decibel, pictures = reconstruct(vae, torch.from_numpy(base.images[:HELD_OUT].copy()), device)
    run.note(held_out_db=round(decibel, 3))
    sheet([*base.images[:12], *pictures[:12]], 12, work / "vae.png")
    print(f"\n{run.name} step {run.step}: {decibel:.2f} dB on held-out pictures", flush=True)


class Latents:
    """The base set as the U-Net sees it, encoded once as it is drawn and kept on disk.

    values: (count, C, H/8, W/8) fp16 of unit variance; ids: (count, WORDS) token ids; pair: (count,) whether two
    subjects share the picture; ready: numbers of the pictures that are there.
    """

    def __init__(self, base: BaseSet, vae, tokenizer, work: Path, device: str, bf16: bool):
        self.base, self.vae, self.tokenizer, self.folder = base, vae, tokenizer, work / "latents"
        self.device, self.bf16 = device, bf16 or device != "cpu"
        self.folder.mkdir(exist_ok=True)
        count, side = len(base.images), base.images.shape[1] // 8
        self.values = torch.zeros((count, vae.config.latent_channels, side, side), dtype=torch.float16, device=device)
        self.ids = torch.zeros((count, WORDS), dtype=torch.long, device=device)
        self.pair = np.zeros(count, bool)
        self.ready, self.waiting = np.empty(0, int), sorted(base.chunks)

    def refresh(self, most: int) -> None:
        """Take in what has been drawn meanwhile, at most so many chunks."""
        self.waiting += self.base.refresh()
        now, self.waiting = self.waiting[:most], self.waiting[most:]
        for chunk in now:
            numbers, file = self.base.numbers(chunk), self.folder / f"{chunk:05}.npy"
            if not file.exists():
                pictures = torch.from_numpy(self.base.images[numbers]).to(self.device)
                with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
                    scaled = latents_of(self.vae, pictures) * self.vae.config.scaling_factor
                np.save(part := file.with_suffix(".part.npy"), scaled.half().cpu().numpy())
                os.replace(part, file)
            captions = self.base.captions(chunk)
            self.values[numbers] = torch.from_numpy(np.load(file)).to(self.device)
            self.ids[numbers] = read(self.tokenizer, captions).to(self.device)
            self.pair[numbers] = [" next to " in c or " in front of " in c for c in captions]
            self.ready = np.concatenate([self.ready, numbers])

    def some(self, n: int, pairs: float, draw: torch.Generator) -> np.ndarray:
        """Numbers of n pictures, none held out; `pairs`: the expected share of them that have two subjects."""
        two = int((torch.rand(n, generator=draw) < pairs).sum())
        pair = self.pair[self.ready]
        return np.concatenate([some(self.ready[~pair], n - two, draw), some(self.ready[pair], two, draw)])


def read(tokenizer, captions: list[str]) -> torch.Tensor:
    """(n, WORDS) token ids."""
    return tokenizer(captions, padding="max_length", max_length=WORDS, truncation=True, return_tensors="pt").input_ids


def scale_of(vae, base: BaseSet, device: str) -> float:
    """The factor that gives latents unit variance; it is noted in the VAE's config, as Stable Diffusion does."""
    pictures = torch.from_numpy(base.images[base.ready[:FEWEST]]).to(device)
    return round(1 / latents_of(vae, pictures).float().std().item(), 5)


def train_unet(
    unet, text, tokenizer, latents: Latents, vae, work: Path, budget: Budget, batch: int, peak: float, pairs: float,
    device: str, compiled: bool, bf16: bool, log: list,
):  # fmt: skip
    """Denoising with v-prediction; one caption in ten is emptied, so that guidance has something to guide from."""
    scheduler, unet = make_scheduler(), unet.to(memory_format=torch.channels_last)
    modules = {"unet": unet, "text": text}
    run = Run(work, "unet", modules, budget, peak, batch, device, decay=0.9995, log=log, bf16=bf16, share=text_share)
    if run.bf16 and device == "cpu":
        unet.set_attn_processor(AttnProcessor())  # torch's fused attention goes backward slowly in bf16 on a CPU
    if device != "cpu":
        text.get_input_embeddings().__class__ = ProductEmbedding
    denoiser = Denoiser(text, unet)
    fast = torch.compile(denoiser) if compiled else denoiser
    empty, alphas = read(tokenizer, [""]).to(device), scheduler.alphas_cumprod.to(device)
    weights = min_snr(alphas)

    def losses(forward, picked, ids, draw) -> tuple[torch.Tensor, torch.Tensor]:
        """Squared errors, each at a timestep of its own, and the weights of these timesteps: both (n,)."""
        x = latents.values[picked].float().to(memory_format=torch.channels_last)
        own = torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=draw)))
        noise = torch.randn(x.shape, generator=own, device=device)
        t = torch.randint(len(alphas), (len(x),), generator=own, device=device)
        signal, dirt = (a.sqrt().view(-1, 1, 1, 1) for a in (alphas[t], 1 - alphas[t]))
        predicted = forward(ids, signal * x + dirt * noise, t).float()
        return (predicted - (signal * noise - dirt * x)).square().mean((1, 2, 3)), weights[t]

    def loss(draw):
        if run.step % 20 == 0:
            latents.refresh(most=10)
        picked = latents.some(batch, pairs, draw)
        ids = torch.where(torch.rand(batch, 1, generator=draw).to(device) < 0.1, empty, latents.ids[picked])
        errors, weight = losses(fast, picked, ids, draw)
        return (weight * errors).mean(), {"loss": errors.detach().mean()}

    @torch.no_grad()
    def look(step):
        draw = torch.Generator().manual_seed(0)
        held = torch.cat(
            [losses(denoiser, part, latents.ids[part], draw)[0].cpu() for part in torch.arange(HELD_OUT).split(32)]
        )
        single = torch.from_numpy(~latents.pair[:HELD_OUT])
        numbers = {"held_out": held.mean(), "held_out_singles": held[single].mean()}
        run.note(pictures=len(latents.ready), **{name: round(value.item(), 5) for name, value in numbers.items()})
        sheet(list(draw_prompts(assemble(vae, text, tokenizer, unet, scheduler), PROMPTS, 2)), 8, work / "samples.png")
        print(f"\nunet: {run.log[-1]}", flush=True)

    if run.step == 0:
        look(0)
    run.train(loss, look)
    text.get_input_embeddings().__class__ = torch.nn.Embedding
    unet.set_attn_processor(AttnProcessor2_0())
    return assemble(vae, text.eval(), tokenizer, unet.eval(), scheduler), run.log


def min_snr(alphas: torch.Tensor, most: float = 5.0) -> torch.Tensor:
    """Weights (T,) of the velocity's error at every timestep: min(SNR, most) / (SNR + 1), in parts of their mean.

    Hang et al. 2023, arXiv 2303.09556. Where there is hardly any signal, a tenth: the last step decides the colours.
    """
    snr = alphas / (1 - alphas)
    weights = (snr.clamp(max=most) / (snr + 1)).clamp(min=0.1)
    return weights / weights.mean()


@torch.no_grad()
def grow(text, tokenizer, old_text, old_tokenizer) -> None:
    """Take over an older text encoder whose vocabulary may differ; rows of words it lacks stay as they are."""
    state, table = old_text.state_dict(), text.get_input_embeddings().weight
    name = next(key for key in state if key.endswith("token_embedding.weight"))
    old_rows, known = state.pop(name), old_tokenizer.get_vocab()
    missing, unexpected = text.load_state_dict(state, strict=False)
    if missing != [name] or unexpected:
        raise ValueError(f"not the same text encoder: lacks {missing}, has {unexpected} besides")
    for piece, row in tokenizer.get_vocab().items():
        if piece in known:
            table[row] = old_rows[known[piece]]


def assemble(vae, text, tokenizer, unet, scheduler) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def draw_prompts(pipe, prompts, each: int, steps: int = 20, guidance: float = 3.0) -> np.ndarray:
    """(len(prompts) * each, H, W, 3) uint8."""
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    many = [p for p in prompts for _ in range(each)]
    pictures = pipe(
        many, num_inference_steps=steps, guidance_scale=guidance, generator=generator, output_type="np"
    ).images
    return (pictures * 255).round().astype(np.uint8)


def to_bytes(decoded: torch.Tensor) -> np.ndarray:
    return decoded.float().add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()


def sheet(pictures: list, columns: int, file: Path) -> None:
    rows = [np.concatenate(pictures[k : k + columns], 1) for k in range(0, len(pictures), columns)]
    Image.fromarray(np.concatenate(rows)).save(file)


def write(pipe: StableDiffusionPipeline, tokenizer_folder: Path, log: dict, out: Path) -> None:
    """The folder that is shipped: VAE and U-Net in fp16.

    The text encoder is small and stays fp32: transformers would load it in the file's precision, diffusers the rest in
    fp32, and stock code could not draw without being told a precision.
    """
    pipe.to("cpu")
    pipe.tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)  # as it was before padding was asked of it
    pipe.unet.half()
    pipe.vae.half()
    pipe.save_pretrained(out)
    for file in tokenizer_folder.glob("*"):  # vocab.json and merges.txt, which older readers look for
        if not (out / "tokenizer" / file.name).exists():
            shutil.copy(file, out / "tokenizer")
    (out / LOG).write_text(json.dumps(log), encoding="utf-8")


def budget(steps: int | None, seconds: float | None, default: int) -> Budget:
    return Budget(steps if steps is not None or seconds is not None else default, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("build/base"), help="the base set, drawn where it is missing")
    parser.add_argument("--count", type=int, default=COUNT, help="pictures of the base set")
    parser.add_argument("--drawers", type=int, default=1, help="processes that draw it")
    parser.add_argument("--work", type=Path, default=Path("build/mini"), help="state, latents, logs and sheets")
    parser.add_argument("--out", type=Path, default=Path("stamina_lite/assets/mini"))
    parser.add_argument("--start", type=Path, help="a folder this program wrote, whose weights are trained on")
    for stage, steps, batch in (("vae", 12_000, 16), ("unet", 48_000, 32), ("decoder", 3_000, 8)):
        parser.add_argument(f"--{stage}-steps", type=int, help=f"{steps}, unless seconds are given")
        parser.add_argument(f"--{stage}-seconds", type=float)
        parser.add_argument(f"--{stage}-batch", type=int, default=batch)
        parser.set_defaults(**{f"{stage}_default": steps})
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of the U-Net")
    parser.add_argument("--pairs", type=float, default=0.2, help="share of pictures with two subjects")
    parser.add_argument("--latent-channels", type=int, default=8)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bf16", action="store_true", help="for a CPU with AVX512-BF16 or AMX: half again as fast")
    parser.add_argument("--compile", action="store_true", help="minutes at first, a fifth faster after")
    args = parser.parse_args()
    budgets = {
        stage: budget(*(getattr(args, f"{stage}_{what}") for what in ("steps", "seconds", "default")))
        for stage in ("vae", "unet", "decoder")
    }
    args.work.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a killed training ends its drawing process too
    drawing = start_drawing(args.data, args.count, SIZE, args.drawers)
    try:
        train(args, budgets, BaseSet.begun(args.data, args.count, SIZE, drawing, FEWEST))
    finally:
        stop_drawing(drawing)


def train(args: argparse.Namespace, budgets: dict[str, Budget], base: BaseSet) -> None:
    tokenizer = make_tokenizer(words(), args.work / "tokenizer")
    text = make_text_encoder(tokenizer)
    log = {"vae": [], "unet": [], "decoder": []}
    if args.start:
        log |= json.loads((args.start / LOG).read_text(encoding="utf-8"))
        start = StableDiffusionPipeline.from_pretrained(args.start, safety_checker=None).to(torch.float32)
        channels = start.vae.config.latent_channels
        vae, unet = make_vae(channels).eval().to(args.device), make_unet(channels)
        vae.load_state_dict(start.vae.state_dict())
        vae.register_to_config(scaling_factor=start.vae.config.scaling_factor)
        unet.load_state_dict(start.unet.state_dict())
        grow(text, tokenizer, start.text_encoder, start.tokenizer)
    else:
        vae, log["vae"] = train_vae(base, args.work, budgets["vae"], args.vae_batch, args.device, args.latent_channels)
        vae.register_to_config(scaling_factor=scale_of(vae, base, args.device))
        torch.manual_seed(1)
        unet = make_unet(args.latent_channels)
    latents = Latents(base, vae, tokenizer, args.work, args.device, args.bf16)
    latents.refresh(most=-(-FEWEST // CHUNK))
    pipe, log["unet"] = train_unet(
        unet, text, tokenizer, latents, vae, args.work, budgets["unet"], args.unet_batch, args.rate, args.pairs,
        args.device, args.compile, args.bf16, log["unet"],
    )  # fmt: skip
    log["decoder"] = sharpen_decoder(
        vae, base, latents, args.work, budgets["decoder"], args.decoder_batch, args.device, log["decoder"]
    )
    write(pipe, args.work / "tokenizer", log, args.out)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
