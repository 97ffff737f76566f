"""Training: the LightningModule, the Trainer, callbacks, checkpoints and run directories."""
