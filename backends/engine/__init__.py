"""The local tier: llama.cpp in a supervised process of its own, one per loaded model."""
