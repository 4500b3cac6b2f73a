"""Inference: the Vocoder, which the command line is built on."""

from serve.vocoder import Vocoder

__all__ = ["Vocoder"]
