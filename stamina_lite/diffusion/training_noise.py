"""The forward diffusion of training: the noise that is added to latents, and what the U-Net should predict."""

from torch import Tensor

from ..errors import UserError


def training_scheduler(scheduler):
    """A scheduler whose `add_noise` is the forward diffusion that the model was trained with.

    The `add_noise` of a sampler (Euler, DPM-Solver, UniPC ...) follows the timesteps of its last call, and PNDM has no
    `get_velocity`. They are replaced by DDIM with the same betas and prediction type.

    Raises:
        UserError: the scheduler has no betas.
    """
    from diffusers import DDIMScheduler, DDPMScheduler

    if "beta_schedule" not in scheduler.config:
        raise UserError(f"this base cannot be customised: its {type(scheduler).__name__} is no diffusion by betas")
    if isinstance(scheduler, DDPMScheduler | DDIMScheduler):
        return scheduler
    return DDIMScheduler.from_config(scheduler.config, clip_sample=False)


def target(scheduler, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """What the U-Net should predict, by the scheduler's prediction type: noise or velocity, (n, C, h, w)."""
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return scheduler.get_velocity(x, noise, t)
    raise UserError(f"the base's scheduler predicts {kind}: expected epsilon or v_prediction")
