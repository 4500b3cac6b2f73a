"""Inference: the Vocoder, with which Python, the command line and the server speak alike."""

from serve.vocoder import Vocoder

__all__ = ["Vocoder"]
