"""Language models out of Hugging Face folders: as GGUF, or quantized for TensorRT-LLM."""
