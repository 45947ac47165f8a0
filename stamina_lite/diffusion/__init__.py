"""Text-to-image: concepts, a stock StableDiffusionPipeline that learns them, its evaluation and its exports."""
