"""An LM read at a hook point: sequences, the stream of training batches, held-out text."""
