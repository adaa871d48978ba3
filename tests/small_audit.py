"""Params of an audit that trains and attributes in seconds."""

SMALL = {
    "data": {"source": "digits", "resolution": 16},
    "train": {
        "vae_channels": [16, 16],
        "vae_steps": 6,
        "vae_batch_size": 16,
        "unet_channels": [16, 32],
        "unet_steps": 6,
        "unet_batch_size": 16,
        "processes": 1,
    },
    "loss": {"timesteps": 2},
    "fisher": {"draws": 1},
    "queries": {"prompts": ["a handwritten digit seven", "a handwritten digit two"], "steps": 4},
    "unlearn": {"samples": 16, "probe_samples": 16, "loss_ratio": 1.001},
}
EVERY_STEP = [
    "version_data",
    "train_reference",
    "encode",
    "cache_baseline",
    "estimate_fisher",
    "make_queries",
    "unlearn",
    "score",
    "retrain",
    "verify",
    "report",
]
