"""What the residual stream inside a model says, read without changing it: one file a lens."""
