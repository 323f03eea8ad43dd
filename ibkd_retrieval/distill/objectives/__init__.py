"""The distillation objectives, one per file."""
