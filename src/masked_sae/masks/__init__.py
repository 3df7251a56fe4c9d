"""What is hidden while an SAE trains, and when: tokens before the LM reads them, inputs of the SAE, latents.

One file for each, with its settings. They compose; the configuration has them by name under `mask`.
"""
