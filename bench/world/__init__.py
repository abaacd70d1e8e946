"""The embedded default: a small synthetic world, its tasks, and a base model pretrained on it."""
