"""Inference with a stock Stable Diffusion pipeline: images to latents, prompts to images, custom tokens."""

import torch
from torch import Tensor

from ..core.settings import GUIDANCE
from ..errors import UserError
from .captions import PROMPT
from .saving import save_in_fp32
from .vocabulary import add_token, check_prompts

DRAWING_STEPS = 10  # of UniPC; on the embedded base as good as 20 steps of DDIM
SAMPLERS = {  # name -> class in diffusers
    "unipc": "UniPCMultistepScheduler",  # Zhao et al. 2023; needs the fewest steps
    "dpm++": "DPMSolverMultistepScheduler",  # DPM-Solver++, Lu et al. 2022
    "ddim": "DDIMScheduler",  # Song et al. 2021, deterministic
}


class Inference:
    """A frozen StableDiffusionPipeline with custom tokens. Images are (n, 3, H, W) in [-1, 1].

    Args:
        pipe: a stock pipeline, changed in place.

    Attributes:
        size: side of its images in px.
        vocabulary_size: of the base; custom tokens follow it.
        token_ids: custom token -> its row of the embedding table, in the order in which the tokens were learned.
    """

    def __init__(self, pipe):
        self.pipe = pipe
        self.unet, self.vae, self.text = pipe.unet, pipe.vae, pipe.text_encoder
        self.size = self.unet.config.sample_size * pipe.vae_scale_factor
        for model in (self.unet, self.vae, self.text):
            model.requires_grad_(False).eval()
        self.unet.to(memory_format=torch.channels_last)
        save_in_fp32(self.text)
        self.vocabulary_size = len(pipe.tokenizer)
        self.token_ids: dict[str, int] = {}

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def embedding(self) -> torch.nn.Embedding:
        """The embedding table of the text encoder."""
        return self.text.get_input_embeddings()

    @torch.no_grad()
    def encode(self, images: Tensor, batch: int = 32) -> Tensor:
        """Encode images to latents: (n, 3, H, W) -> (n, C, h, w), scaled, fp32."""
        parts = [self.vae.encode(x.to(self.vae.device, self.vae.dtype)).latent_dist.mean for x in images.split(batch)]
        return torch.cat(parts).float() * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor, batch: int = 32) -> Tensor:
        """Decode scaled latents to images: (n, C, h, w) -> (n, 3, H, W) in about [-1, 1], fp32, on the CPU."""
        scaled = (latents / self.vae.config.scaling_factor).to(self.vae.device, self.vae.dtype)
        return torch.cat([self.vae.decode(x).sample.float().cpu() for x in scaled.split(batch)])

    def add_token(self, token: str, row: Tensor) -> None:
        """Set a token's row (width,) in the embedding table; a new token is added to the vocabulary."""
        if token not in self.token_ids:
            self.token_ids[token] = add_token(self.pipe.tokenizer, self.text, token)
        with torch.no_grad():
            self.embedding.weight[self.token_ids[token]] = row.to(self.embedding.weight)

    def tokenize(self, prompts: list[str]) -> Tensor:
        """Token ids, padded to the text encoder's length as in Stable Diffusion: (n, positions)."""
        tokenizer = self.pipe.tokenizer
        ids = tokenizer(
            prompts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
        )
        return ids.input_ids.to(self.device)

    @torch.no_grad()
    def token_features(self) -> Tensor:
        """Hidden states of the newest token and of the position after it, in `PROMPT`: (2, width)."""
        token, index = list(self.token_ids.items())[-1]
        ids = self.tokenize([PROMPT.format(token)])
        position = (ids[0] == index).nonzero()[0, 0]
        return self.text(ids)[0][0, [position, position + 1]].float()

    @torch.no_grad()
    def word_features(self, n: int = 200) -> Tensor:
        """Hidden states of n prompts with words of the base vocabulary, of all positions but padding: (m, width)."""
        vocabulary = self.pipe.tokenizer.convert_ids_to_tokens(range(self.vocabulary_size))
        words = [w.removesuffix("</w>") for w in vocabulary if w.endswith("</w>") and w[:-4].isalpha()]
        ids = self.tokenize([PROMPT.format(w) for w in words[:: max(1, len(words) // n)][:n]])
        ends = (ids == self.pipe.tokenizer.eos_token_id).int().argmax(1)
        not_padding = torch.arange(ids.shape[1], device=ids.device)[None] <= ends[:, None]
        return self.text(ids)[0][not_padding].float()

    @torch.no_grad()
    def generate_latents(self, prompts: list[str], generator: torch.Generator, guidance: float = GUIDANCE) -> Tensor:
        """Generate a latent for each prompt with the current model, as training data: (n, C, h, w)."""
        seeds = torch.randint(2**62, (len(prompts),), generator=generator).tolist()
        return self._run(prompts, seeds, guidance=guidance, output_type="latent").to(memory_format=torch.channels_last)

    @torch.no_grad()
    def generate(
        self,
        prompts: list[str],
        seeds: list[int],
        steps: int = DRAWING_STEPS,
        guidance: float = GUIDANCE,
        batch: int = 64,
        sampler: str = "unipc",
        negative_prompt: str | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> Tensor:
        """Generate an image for each prompt with its seed: (n, 3, H, W) in [-1, 1], on the CPU.

        Args:
            prompts, seeds: of equal length. An image depends on its own seed alone, whatever the batch size.
            steps: number of inference steps, at most as many as the base was trained with.
            guidance: scale of classifier-free guidance, from 1.
            batch: number of images that are generated at once.
            sampler: a name of SAMPLERS; the pipeline's own scheduler is not used.
            negative_prompt: what the images should not show; needs guidance above 1.
            height, width: in px, multiples of 8; by default the base's own size.

        Raises:
            UserError: a prompt contains an unknown token, another argument is wrong, or an image is not finite.
        """
        height, width = height or self.size, width or self.size
        if not prompts:
            return torch.empty(0, 3, height, width)
        check_prompts([*prompts, negative_prompt or ""], self.pipe.tokenizer)
        if negative_prompt and guidance <= 1:
            raise UserError(f"a negative prompt has no effect at guidance {guidance}: raise it, for instance to 3")
        if height % self.pipe.vae_scale_factor or width % self.pipe.vae_scale_factor:
            raise UserError(
                f"height and width must be multiples of {self.pipe.vae_scale_factor}, not {height}, {width}"
            )
        max_steps = self.pipe.scheduler.config.num_train_timesteps
        if not 1 <= steps <= max_steps:
            raise UserError(f"steps must be 1 to {max_steps}, as many as the base was trained with, not {steps}")
        more = {"negative_prompt": negative_prompt, "height": height, "width": width}
        images = self._run(prompts, seeds, steps, guidance, batch, sampler, "pt", **more).cpu() * 2 - 1
        if not images.isfinite().all():  # stock pipelines draw black instead
            raise UserError(
                f"images in {str(self.unet.dtype).removeprefix('torch.')} are no finite numbers: load the base in a "
                "larger precision, load_base(..., dtype=torch.float32), or lower the guidance"
            )
        return images

    @torch.no_grad()
    def denoising(
        self, prompt: str, seed: int = 0, steps: int = DRAWING_STEPS, guidance: float = GUIDANCE
    ) -> list[tuple[int, Tensor]]:
        """Generate an image and return what it was on the way: its latents after every step of the sampler.

        Returns:
            For every step the timestep that it started from, falling, and the latents after it, (C, h, w).
        """
        check_prompts([prompt], self.pipe.tokenizer)
        found: list[tuple[int, Tensor]] = []

        def keep(pipe, step: int, timestep: Tensor, tensors: dict) -> dict:
            found.append((int(timestep), tensors["latents"][0].float().cpu()))
            return tensors

        self._run([prompt], [seed], steps, guidance, output_type="latent", callback_on_step_end=keep)
        return found

    def _run(
        self, prompts, seeds, steps=DRAWING_STEPS, guidance=GUIDANCE, batch=64, sampler="unipc", output_type="pt",
        negative_prompt=None, **options,
    ) -> Tensor:  # fmt: skip
        """Run the pipeline in batches with a sampler in place of the training scheduler, which is restored after it."""
        training_scheduler = self.pipe.scheduler
        self.pipe.set_progress_bar_config(disable=True)
        outputs = []
        try:
            self.pipe.scheduler = make_sampler(sampler, training_scheduler)
            for k in range(0, len(prompts), batch):
                generators = [torch.Generator().manual_seed(s) for s in seeds[k : k + batch]]
                negative = [negative_prompt] * len(generators) if negative_prompt else None
                images = self.pipe(
                    prompts[k : k + batch], num_inference_steps=steps, guidance_scale=guidance,
                    generator=generators, output_type=output_type, negative_prompt=negative, **options,
                ).images  # fmt: skip
                outputs.append(images.float())
        finally:
            self.pipe.scheduler = training_scheduler
        return torch.cat(outputs)


def make_sampler(name: str, scheduler):
    """Create the sampler called `name` with the betas and the prediction type of `scheduler`."""
    import diffusers

    if name not in SAMPLERS:
        raise UserError(f"unknown sampler {name}: choose {', '.join(SAMPLERS)}")
    return getattr(diffusers, SAMPLERS[name]).from_config(scheduler.config)
