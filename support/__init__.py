"""Plumbing that a reader of the method can skip: official weights and tokenizers, checkpoints, starting
commands, checking data, drawing pictures. The files in front use it; it imports nothing of them.
"""
