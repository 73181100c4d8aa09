"""Training victims whose backdoor is to outlast fine-tuning: what the attacks of [`hf_backdoor.attacks`] run."""
