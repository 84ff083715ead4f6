"""Plumbing that a reader of the method can skip.

Official weights and tokenizers, model folders and checkpoints, starting commands, checking data,
packing batches, drawing pictures. The files in front use it.
"""
