"""Tandem: one OpenAI-compatible endpoint over local, cloud and speculative tiers."""

__version__ = "0.1.0"
