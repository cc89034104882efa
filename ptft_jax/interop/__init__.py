"""Models in other libraries' formats: Hugging Face folders, GGUF files, PEFT adapters, in and out."""
