"""A digest of anything: what resuming and model folders compare instead of whole files."""

import hashlib


def compute_fingerprint(parts):
    """A short text that differs when one of the parts does: bytes, or anything that has a text."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else str(part).encode())
    return digest.hexdigest()[:12]
