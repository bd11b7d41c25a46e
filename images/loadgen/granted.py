"""Extension of vLLM's worker that tells what MPS granted its process; vLLM mixes it in by --worker-extension-cls."""


class Granted:
    """What /collective_rpc can ask of the process that runs the model."""

    def granted_multiprocessors(self) -> int:
        """The multiprocessors that CUDA shows that process: under MPS those that it was granted."""
        import torch  # pyrefly: ignore[missing-import]  (vLLM's image has it)

        return torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count
