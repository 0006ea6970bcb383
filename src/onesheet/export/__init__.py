"""From a checkpoint to a bundle: ONNX, parity gate, reference, model card."""
