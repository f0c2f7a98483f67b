"""The DeepSpeed loop: matched order, checkpoints, exact resume. Import its modules; this one stays light."""
