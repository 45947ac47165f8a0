"""Train the embedded base model on the base set and write it as an ordinary Stable Diffusion folder.

    python data_scripts/base_set.py --out build/base
    python data_scripts/pretrain_diffusion.py --data build/base --work build/mini --out stamina_lite/assets/mini

Four stages: the VAE, the latents (once), text encoder and U-Net together, and the VAE's decoder once more. Every stage
goes on where it was killed; sample sheets lie in --work. Runs on CPU (fp32) and on GPU (bf16). With --start the weights
of a finished folder are trained on: its encoder is kept, so its latents stay what they are; with --new-text, words are
learned anew.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from base_models import latents_of, make_scheduler, make_text_encoder, make_tokenizer, make_unet, make_vae, pixels
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from tqdm.auto import tqdm
from training_state import Run
from transformers import CLIPTokenizer

HELD_OUT = 256  # the first pictures of the base set are never trained on
LOG = "training.json"  # steps and losses of every stage, kept with the weights
PROMPTS = (
    "a photo of a smiling person with long blue hair on a yellow background",
    "a photo of an angry person with short red hair and glasses on a navy background",
    "a photo of a bald person with glasses and a beard on a white background",
    "a photo of a sad person with long black hair on a pink background",
    "a photo of a wide fan waterfall with red rock by day in winter",
    "a photo of two narrow plunge waterfalls with grey rock at sunset in autumn",
    "a photo of three wide slide waterfalls with yellow rock and a tent at night in summer",
    "a photo of a narrow tiered waterfall with black rock by day in summer",
    "a photo of a smiling person with short green hair next to a sad person with long black hair on a navy background",
    "a photo of an angry person with long pink hair next to a calm person with short brown hair on a white background",
    "a photo of a smiling person with long red hair in front of a wide plunge waterfall with grey rock by day",
    "a photo of a sad person with short black hair in front of a narrow fan waterfall with red rock at night",
)


def text_share(module: str, parameter: str) -> float:
    """Share of the learning rate in the U-Net's stage.

    At the whole rate a text encoder's layers grow until they drown its words. A word's row gets a gradient only when a
    caption says it, a name's in one step of thirty: it takes longer strides.
    """
    if module != "text" or "position_embedding" in parameter:
        return 1.0
    return 3.0 if "token_embedding" in parameter else 0.2


def train_vae(images, work: Path, steps: int, batch: int, device: str, channels: int):
    """Reconstruction in squared and absolute error, and a light pull of the latents to unit variance."""
    torch.manual_seed(0)
    vae = make_vae(channels).to(memory_format=torch.channels_last)
    run = Run(work, "vae", {"vae": vae}, steps, 2e-3, batch, device, decay=0.995, log=[])

    def loss(draw):
        picked = torch.randint(HELD_OUT, len(images), (batch,), generator=draw)
        x = pixels(torch.from_numpy(images[picked.numpy()])).to(device, memory_format=torch.channels_last)
        posterior = vae.encode(x).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=draw).to(device)
        error = vae.decode(posterior.mean + posterior.std * noise).sample.float() - x
        square, kl = error.square().mean(), posterior.kl().float().mean() / posterior.mean[0].numel()
        return square + 0.1 * error.abs().mean() + 5e-5 * kl, {"mse": square.detach(), "kl": kl.detach()}

    run.train(loss, lambda step: look_at_vae(vae, images, run, work, device))
    return vae.eval(), run.log


@torch.no_grad()
def reconstruct(vae, held_out, device) -> tuple[float, np.ndarray]:
    """PSNR over all pixels of (n, 64, 64, 3) uint8 pictures, after rounding to bytes, and the reconstructions."""
    vae.eval()
    out = []
    for part in held_out.split(32):
        decoded = vae.decode(vae.encode(pixels(part).to(device)).latent_dist.mean).sample
        out.append(to_bytes(decoded))
    vae.train()
    out = np.concatenate(out)
    error = ((out.astype(np.float64) - held_out.numpy()) ** 2).mean()
    return float(10 * np.log10(255**2 / error)), out


def sharpen_decoder(vae, images, latents, work: Path, steps: int, batch: int, device: str, log: list) -> list:
    """Go on with the decoder alone: the latents stay what they are, so the U-Net stays right.

    They get some noise, none to a sixth of their deviation, so that the decoder forgives the U-Net's own errors.
    """
    deviation = latents.float().std()
    vae.encoder.requires_grad_(False)
    half = {"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv}
    run = Run(work, "decoder", half, steps, 1e-3, batch, device, decay=0.998, log=log)

    def loss(draw):
        picked = torch.randint(HELD_OUT, len(images), (batch,), generator=draw)
        x = pixels(torch.from_numpy(images[picked.numpy()])).to(device, memory_format=torch.channels_last)
        level = torch.rand(len(picked), 1, 1, 1, generator=draw) * deviation / 6
        noisy = latents[picked].float() + level * torch.randn(latents[picked].shape, generator=draw)
        error = vae.decode(noisy.to(device)).sample.float() - x
        square = error.square().mean()
        return square + 0.05 * error.abs().mean(), {"mse": square.detach()}

    run.train(loss, lambda step: look_at_vae(vae, images, run, work, device))
    vae.eval()
    return run.log


def look_at_vae(vae, images, run: Run, work: Path, device: str) -> None:
    """PSNR on the held-out pictures, and a sheet of some with their reconstructions."""
    decibel, pictures = reconstruct(vae, torch.from_numpy(images[:HELD_OUT].copy()), device)
    run.log.append({"step": run.before + run.step, "held_out_db": round(decibel, 3)})
    sheet([*images[:16], *pictures[:16]], 16, work / "vae.png")
    print(f"\n{run.name} step {run.step}: {decibel:.2f} dB on held-out pictures", flush=True)


def encode(vae, images, work: Path, device: str) -> torch.Tensor:
    """All latents, scaled to unit variance; the factor is noted in the VAE's config, as Stable Diffusion does."""
    file = work / "latents.npy"
    if not file.exists():
        parts = [latents_of(vae, torch.from_numpy(images[k : k + 256].copy()).to(device)).cpu().half().numpy()
                 for k in tqdm(range(0, len(images), 256), desc="latents")]  # fmt: skip
        np.save(file, np.concatenate(parts))
    latents = torch.from_numpy(np.load(file))
    vae.register_to_config(scaling_factor=round(1 / latents.float().std().item(), 5))
    return latents


def train_unet(
    unet, text, tokenizer, latents, captions, vae, work: Path, steps: int, batch: int, device: str, compiled: bool,
    bf16: bool, log: list,
):  # fmt: skip
    """Denoising with v-prediction; one caption in ten is emptied, so that guidance has something to guide from."""
    scheduler, unet = make_scheduler(), unet.to(memory_format=torch.channels_last)
    modules = {"unet": unet, "text": text}
    run = Run(work, "unet", modules, steps, 1e-3, batch, device, decay=0.9995, log=log, bf16=bf16, share=text_share)
    if run.bf16 and device == "cpu":
        unet.set_attn_processor(AttnProcessor())  # torch's fused attention goes backward slowly in bf16 on a CPU
    ids = tokenizer(["", *captions], padding="max_length", truncation=True, return_tensors="pt").input_ids
    forward = torch.compile(unet) if compiled else unet
    scale = vae.config.scaling_factor

    def loss(draw):
        picked = torch.randint(HELD_OUT, len(latents), (batch,), generator=draw)
        told = torch.where(torch.rand(batch, generator=draw) < 0.1, 0, picked + 1)
        x = latents[picked].float().mul(scale).to(device, memory_format=torch.channels_last)
        noise = torch.randn(x.shape, generator=draw).to(x)
        t = torch.randint(scheduler.config.num_train_timesteps, (batch,), generator=draw).to(device)
        words = text(ids[told].to(device))[0]
        predicted = forward(scheduler.add_noise(x, noise, t), t, words).sample
        value = F.mse_loss(predicted.float(), scheduler.get_velocity(x, noise, t))
        return value, {"loss": value.detach()}

    def look(step):
        pipe = assemble(vae, text, tokenizer, unet, scheduler)
        pictures = draw_prompts(pipe.to(device), PROMPTS, 2)
        sheet(list(pictures), 8, work / "samples.png")
        print(f"\nunet step {step}", flush=True)

    run.train(loss, look)
    return assemble(vae, text.eval(), tokenizer, unet.eval(), scheduler), run.log


def forget_language(unet) -> None:
    """Keys and values of the cross-attention as before any training; the values small, so as not to disturb."""
    for name, module in unet.named_modules():
        if name.endswith(("attn2.to_k", "attn2.to_v")):
            module.reset_parameters()
        if name.endswith("attn2.to_v"):
            module.weight.data *= 0.3


@torch.no_grad()
def grow(text, tokenizer, old_text, old_tokenizer) -> None:
    """Take over an older text encoder whose vocabulary may lack words; rows of words it lacks stay as they are."""
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
    """(len(prompts) * each, 64, 64, 3) uint8."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("build/base"))
    parser.add_argument("--work", type=Path, default=Path("build/mini"), help="state, latents, logs and sheets")
    parser.add_argument("--out", type=Path, default=Path("stamina_lite/assets/mini"))
    parser.add_argument("--vae-steps", type=int, default=3600)
    parser.add_argument("--unet-steps", type=int, default=16000)
    parser.add_argument("--decoder-steps", type=int, default=3000)
    parser.add_argument("--vae-batch", type=int, default=8)
    parser.add_argument("--unet-batch", type=int, default=16)
    parser.add_argument("--latent-channels", type=int, default=8)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bf16", action="store_true", help="for a CPU with AVX512-BF16 or AMX: half again as fast")
    parser.add_argument("--start", type=Path, help="a folder this program wrote, whose weights are trained on")
    parser.add_argument(
        "--new-text", action="store_true", help="with --start: text encoder, keys and values begin anew"
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile the U-Net: a minute or two at first, a sixth faster after"
    )
    args = parser.parse_args()
    if args.new_text and not args.start:
        parser.error("--new-text needs --start FOLDER: without it everything begins anew")
    args.work.mkdir(parents=True, exist_ok=True)
    images = np.load(args.data / "images.npy", mmap_mode="r")
    captions = json.loads((args.data / "captions.json").read_text())
    if args.start:
        log = json.loads((args.start / LOG).read_text())
        start = StableDiffusionPipeline.from_pretrained(args.start, torch_dtype=torch.float32, safety_checker=None)
        channels = start.vae.config.latent_channels
        vae, unet = make_vae(channels).eval().to(args.device), make_unet(channels)
        vae.load_state_dict(start.vae.state_dict())
        unet.load_state_dict(start.unet.state_dict())
    else:
        log = {"unet": [], "decoder": []}
        vae, log["vae"] = train_vae(
            images, args.work, args.vae_steps, args.vae_batch, args.device, args.latent_channels
        )
        torch.manual_seed(1)
        unet = make_unet(args.latent_channels)
    tokenizer = make_tokenizer(captions, args.work / "tokenizer")
    text = make_text_encoder(tokenizer)
    if args.start and args.new_text:
        forget_language(unet)
        log["unet"].append({"step": log["unet"][-1]["step"], "new_text": True})
    elif args.start:
        grow(text, tokenizer, start.text_encoder, start.tokenizer)
    latents = encode(vae, images, args.work, args.device)
    pipe, log["unet"] = train_unet(
        unet, text, tokenizer, latents, captions, vae, args.work, args.unet_steps, args.unet_batch, args.device,
        args.compile, args.bf16, log["unet"],
    )  # fmt: skip
    log["decoder"] = sharpen_decoder(
        vae, images, latents, args.work, args.decoder_steps, args.vae_batch, args.device, log["decoder"]
    )
    pipe.tokenizer = CLIPTokenizer.from_pretrained(args.work / "tokenizer")  # as it was before padding was asked of it
    pipe.to("cpu", torch.float16).save_pretrained(args.out)
    for file in (args.work / "tokenizer").glob("*"):  # vocab.json and merges.txt, which older readers look for
        if not (args.out / "tokenizer" / file.name).exists():
            shutil.copy(file, args.out / "tokenizer")
    (args.out / LOG).write_text(json.dumps(log))
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
